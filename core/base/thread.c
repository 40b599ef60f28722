#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

bool thread_start(pthread_t *out, const char *name, void *(*fn)(void *), void *arg)
{
    sigset_t all, former;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int rc = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (rc != 0) {
        errno = rc;
        return false;
    }
    char cut[16]; /* the kernel takes 15 characters or nothing */
    snprintf(cut, sizeof cut, "%s", name);
    pthread_setname_np(*out, cut);
    return true;
}
