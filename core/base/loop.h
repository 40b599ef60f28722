/*
 * A loop: one thread, one libev loop, one inbox. Reactors and the lane thread are loops.
 *
 * Messages are intrusive and the poster's until posted, then the receiver's. The inbox is a mutex-guarded list;
 * ev_async_send only when it goes from empty to non-empty; the whole list is taken once a turn. The bound on
 * what waits in it is the duty of whoever posts (bytes per session, slots per lane).
 */
#ifndef OMID_BASE_LOOP_H
#define OMID_BASE_LOOP_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"

struct loop;
struct loop_msg {
    struct loop_msg *next;
    void (*fn)(struct loop *loop, struct loop_msg *msg); /* on the loop's thread; msg is fn's to free */
};

/* name: thread name, at most 15 characters ("reactor_0"), also the label of its metrics. NULL: no memory. */
struct loop *loop_new(const char *name);
/* Starts the thread. false: with errno. */
bool loop_start(struct loop *l);
/* Any thread. After loop_stop() messages are still taken, and run by loop_stop's caller. */
void loop_post(struct loop *l, struct loop_msg *msg);
/* The same, from the turn of another loop: what it posts so during one turn arrives together at the turn's end, for one
 * lock and one wake. In the order of posting among such posts alone: what must not overtake each other goes the same
 * way. Outside of a turn of `from` (another thread, loop_stop()) it is loop_post(). `l` must outlive the turn. */
void loop_post_turn(struct loop *l, struct loop *from, struct loop_msg *msg);

/* What a thread that is no loop has for loops until it lets it go: together, for one lock and one wake each. In the
 * order of posting among what goes through the same outbox. Its owner's thread alone; zeroed is empty. */
#define LOOP_OUTBOX_LOOPS 8 /* with something to come; one more sends all of it early */
struct loop_outbox {
    unsigned n, messages;
    struct loop_out {
        struct loop *to;
        struct loop_msg *first, **last;
    } out[LOOP_OUTBOX_LOOPS];
};
void loop_outbox_post(struct loop_outbox *box, struct loop *l, struct loop_msg *msg);
/* Before its owner waits for anything. It has gathered: a loop that gathers does not wait any longer for more. */
void loop_outbox_flush(struct loop_outbox *box);

/* Any thread but its own. Ends the thread after the current turn and joins it; then runs what is left in the inbox
 * on the calling thread, until it stays empty. */
void loop_stop(struct loop *l);
/* Frees; the thread must be stopped (or never started), watchers stopped. */
void loop_free(struct loop **l);

/* A turn for each message costs more than the message does: two changes of thread and half a dozen system calls. So a
 * thread that serves many streams begins a turn at the earliest this long after the one before, in µs, and takes what
 * has come meanwhile together: 10 µs for each stream, at most 2.5 ms. One that was idle for longer wakes at once. */
unsigned loop_gather_us(size_t streams);
/* Loop thread. The loop serves so many streams from now on. It waits for half as long again, and no longer than until
 * an outbox is flushed to it: what has gathered once does not wait twice, and is what it wakes for. */
void loop_gather(struct loop *l, size_t streams);

bool loop_is_current(const struct loop *l); /* is the caller on its thread? */
struct ev_loop *loop_ev(struct loop *l);
const char *loop_name(const struct loop *l);
/* Monotonic ms. Loop thread. */
uint64_t loop_now_ms(const struct loop *l);

/* Lag: ns from a post to the turn that takes it. Any thread. */
void loop_lag_read(const struct loop *l, struct pulse_lag *out);

/* What the loop is doing, for the watchdog: the callback under way. Loop thread; read by any. */
struct pulse_doing loop_doing_enter(struct loop *l, const char *owner, const char *callback);
void loop_doing_leave(struct loop *l, struct pulse_doing former);
bool loop_doing_read(const struct loop *l, struct pulse_doing *out); /* any thread; false: between callbacks */

#endif
