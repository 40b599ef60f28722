#include "log_catch.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char module[32], message[128];
    unsigned n;
} caught[64]; /* what else comes is not counted */

void __wrap_log_emit(enum log_level level, const char *module, const char *message, const struct log_field *fields,
                     size_t n);
void __wrap_log_emit(enum log_level level, const char *module, const char *message, const struct log_field *fields,
                     size_t n)
{
    (void)level;
    (void)fields;
    (void)n;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++) {
        if (caught[i].n > 0 && (strcmp(caught[i].module, module) != 0 || strcmp(caught[i].message, message) != 0))
            continue;
        strncpy(caught[i].module, module, sizeof(caught[i].module) - 1);
        strncpy(caught[i].message, message, sizeof(caught[i].message) - 1);
        caught[i].n++;
        break;
    }
    pthread_mutex_unlock(&lock);
}

void log_catch(void)
{
    log_setup(LOG_LEVEL_INFO, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    pthread_mutex_lock(&lock);
    memset(caught, 0, sizeof(caught));
    pthread_mutex_unlock(&lock);
}

unsigned log_caught(const char *module, const char *message)
{
    unsigned n = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof(caught) / sizeof(caught[0]); i++) {
        if (caught[i].n > 0 && strcmp(caught[i].module, module) == 0 && strcmp(caught[i].message, message) == 0)
            n += caught[i].n;
    }
    pthread_mutex_unlock(&lock);
    return n;
}
