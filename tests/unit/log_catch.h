/* Counts log lines instead of writing them. For tests linked with -Wl,--wrap=log_emit. Any thread. */
#ifndef LOG_CATCH_H
#define LOG_CATCH_H

#include "base/log.h"

void log_catch(void); /* from now on, from info on */
unsigned log_caught(const char *module, const char *message);

#endif
