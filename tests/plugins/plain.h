/* What every test plugin needs and none is about: a state of its own, start() and stop(). */
#ifndef PLAIN_H
#define PLAIN_H

#include <omid/plugin.h>
#include <stdlib.h>

struct plain {
    struct omid_instance *inst;
    const struct omid_host *host;
};

static inline int plain_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    (void)shared;
    struct plain *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return OMID_ERR;
    p->inst = inst;
    p->host = host;
    *state = p;
    return OMID_OK;
}

static inline void plain_stop(void *state)
{
    free(state);
}

/* Callbacks that have nothing to do. */
static inline void plain_nothing(void *arg)
{
    (void)arg;
}

static inline void plain_done(void *arg, bool ran)
{
    (void)arg;
    (void)ran;
}

static inline void plain_answered(void *arg, const struct omid_http_response *res)
{
    (void)arg;
    (void)res;
}

#define PLAIN .version = "1.0", .summary = "A plugin for tests", .start = plain_start, .stop = plain_stop

#endif
