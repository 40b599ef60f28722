/* A reactor of its own for a test program, with a sink whose ingress end is the test's thread. One per program. */
#ifndef OMID_TESTS_FIXTURE_REACTOR_H
#define OMID_TESTS_FIXTURE_REACTOR_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/loop.h"
#include "bus/channel.h"

extern struct loop *reactor;
extern struct channel_sink sink;
extern atomic_int sink_wakes;

/* Suites' init and cleanup functions. 0: well. */
int reactor_begin(void);
int reactor_end(void);
/* Runs fn on the reactor, behind all that was posted before, and waits for it. */
void on_reactor(void (*fn)(void *arg), void *arg);
/* All that was posted before has run, and what that posted. */
void settle(void);
/* Frees what came down; how many were of this kind. */
unsigned free_all(struct channel_down *d, enum channel_down_kind kind);
/* At the end of a test: nothing is under way and nothing is charged. */
void nothing_left(void);

#endif
