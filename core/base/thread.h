/* Threads with a name, all signals blocked (the main thread handles them). */
#ifndef OMID_BASE_THREAD_H
#define OMID_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* name at most 15 characters. false with errno. Join with pthread_join. */
bool thread_start(pthread_t *out, const char *name, void *(*fn)(void *), void *arg);

#endif
