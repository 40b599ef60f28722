#include "config.h"

#include "host/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "base/thread.h"

#define WATCHDOG_MAGIC UINT32_C(0x77617463)
#define MODULE "watchdog"
#define NS_PER_MS UINT64_C(1000000)
#define MIN_TICK_MS 5
#define MAX_TICK_MS 1000
#define BEAT_MS 1000            /* how often an idle loop is asked whether it turns */
#define MAIN_SLOW_MS 1000       /* the main thread has time */
#define MAIN_STOP_MS 10000      /* held for so long when it should stop: it is not waited for */
#define MAIN_STOP_GRACE_MS 1000 /* and it has been asked for so long */
#define PULSE_TURN_MS 1000      /* a thread with a pulse turns that often */
#define TOLD 8                  /* callbacks nested deeper than this, all slow, are told again */

enum verdict { LOOP_TURNS, LOOP_HELD };

/* One loop, or another thread with a pulse. But for `beaten`, the watchdog's thread's. */
struct watched {
    struct loop_msg beat; /* the loop's while it is on its way */
    atomic_bool beaten;   /* the loop has taken it */
    struct loop *loop;    /* or: */
    const struct pulse *pulse;
    uint64_t beat_ns;    /* when it was posted */
    uint64_t told[TOLD]; /* beginnings of the callbacks that have been told */
    unsigned n_told;
    enum verdict verdict;
};

struct watchdog {
    uint32_t magic;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping, detached; /* locked */
    uint64_t slow_ns, fatal_ns, beat_ns, tick_ns;
    uint64_t stop_asked_ns;   /* the main thread is held, and a signal waits for it, since; 0: not so */
    uint64_t feed_ns, fed_ns; /* interval, 0: systemd does not ask; last time */
    struct metric *held;
    struct watched main; /* pulse_main: watched as long as there is a watchdog */
    unsigned n, room;    /* n: locked */
    struct watched watched[];
};

static void on_beat(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct watched *at = container_of(msg, struct watched, beat);
    atomic_store_explicit(&at->beaten, true, memory_order_release);
}

static uint64_t clamp(uint64_t v, uint64_t min, uint64_t max)
{
    return v < min ? min : v > max ? max : v;
}

static const char *name_of(const struct watched *at)
{
    return at->loop != NULL ? loop_name(at->loop) : at->pulse->name;
}

static bool doing_of(const struct watched *at, struct pulse_doing *doing)
{
    return at->loop != NULL ? loop_doing_read(at->loop, doing) : pulse_doing_read(at->pulse, doing);
}

static uint64_t since(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

/* One message at a time: a loop that is held collects none. Returns how long it has been waiting for its turn. */
static uint64_t beat(const struct watchdog *w, struct watched *at, uint64_t now)
{
    if (at->loop == NULL) {
        uint64_t turned = pulse_turned_ns(at->pulse), waited = turned != 0 ? since(now, turned) : 0;
        return since(waited, PULSE_TURN_MS * NS_PER_MS);
    }
    if (!atomic_load_explicit(&at->beaten, memory_order_acquire))
        return since(now, at->beat_ns);
    if (since(now, at->beat_ns) >= w->beat_ns) {
        atomic_store_explicit(&at->beaten, false, memory_order_relaxed);
        at->beat_ns = now;
        at->beat.fn = on_beat;
        loop_post(at->loop, &at->beat);
    }
    return 0;
}

/* A callback within a callback: when the inner one has ended, the outer one is not told anew. */
static bool told_before(struct watched *at, uint64_t since_ns)
{
    for (unsigned i = 0; i < TOLD; i++) {
        if (at->told[i] == since_ns)
            return true;
    }
    at->told[at->n_told++ % TOLD] = since_ns;
    return false;
}

static struct metric *slow_metric(const char *plugin)
{
    const struct metric_label label = {"plugin", plugin};
    return metric_get(METRIC_COUNTER, "omid_watchdog_slow_total",
                      "Callbacks that were seen holding their loop for longer than watchdog.slow.", &label, 1, NULL, 0);
}

void watchdog_metrics(const char *plugin)
{
    slow_metric(plugin);
}

static void tell_slow(struct watched *at, const struct pulse_doing *doing, uint64_t ns)
{
    metric_add(slow_metric(doing->owner), 1);
    log_warning(MODULE, "a callback holds its loop", LS("plugin", doing->owner), LS("callback", doing->callback),
                LS("loop", name_of(at)), LU("ms", ns / NS_PER_MS));
}

static void watched_set_verdict(struct watched *at, enum verdict to, const struct pulse_doing *doing, uint64_t ns)
{
    if (at->verdict == to)
        return;
    at->verdict = to;
    if (to == LOOP_TURNS)
        log_notice(MODULE, "a loop turns again", LS("loop", name_of(at)));
    else
        log_error(MODULE, "a loop is held past watchdog.fatal: systemd is not fed", LS("loop", name_of(at)),
                  LS("plugin", doing->owner ? doing->owner : "-"), LS("callback", doing->owner ? doing->callback : "-"),
                  LU("ms", ns / NS_PER_MS));
}

static void look(const struct watchdog *w, struct watched *at, uint64_t now, bool late)
{
    struct pulse_doing doing = {.owner = NULL};
    uint64_t waiting = beat(w, at, now);
    uint64_t doing_ns = doing_of(at, &doing) ? since(now, doing.since_ns) : 0;
    /* Late: this thread did not run either, so the machine may be to blame. The next look, a tick later, will tell. */
    uint64_t slow_ns = at == &w->main ? clamp(w->slow_ns, MAIN_SLOW_MS * NS_PER_MS, UINT64_MAX) : w->slow_ns;
    if (doing_ns > slow_ns && !late && !told_before(at, doing.since_ns))
        tell_slow(at, &doing, doing_ns);
    uint64_t longest = waiting > doing_ns ? waiting : doing_ns;
    if (longest <= w->fatal_ns)
        watched_set_verdict(at, LOOP_TURNS, &doing, longest);
    else if (!late)
        watched_set_verdict(at, LOOP_HELD, &doing, longest);
}

/* Signals for the daemon wait for its main thread, which a plugin holds: nobody else will hear them. Or it has heard
 * them, and a plugin does not let it end: what had to be on disk is there by then. Long enough after that what a plugin
 * was given has been told by look(). */
static void look_at_main(struct watchdog *w, uint64_t now)
{
    struct pulse_doing doing;
    sigset_t pending;
    bool held = pulse_doing_read(&pulse_main, &doing) && since(now, doing.since_ns) > MAIN_STOP_MS * NS_PER_MS;
    bool asked =
        w->detached || (sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT)));
    if (!held || !asked) {
        w->stop_asked_ns = 0;
        return;
    }
    if (w->stop_asked_ns == 0)
        w->stop_asked_ns = now;
    if (since(now, w->stop_asked_ns) < MAIN_STOP_GRACE_MS * NS_PER_MS)
        return;
    log_error(MODULE, "asked to stop while a plugin holds the main thread: leaving without it",
              LS("plugin", doing.owner), LS("callback", doing.callback),
              LU("ms", since(now, doing.since_ns) / NS_PER_MS));
    log_flush();
    _exit(1);
}

/* Locked: watchdog_detach() waits for it. */
static void look_at_all(struct watchdog *w, bool late)
{
    unsigned held = 0;
    uint64_t now = clock_mono_ns();
    look(w, &w->main, now, late);
    look_at_main(w, now);
    held += w->main.verdict == LOOP_HELD;
    for (unsigned i = 0; i < w->n && !w->detached; i++) {
        look(w, &w->watched[i], now, late);
        held += w->watched[i].verdict == LOOP_HELD;
    }
    metric_set(w->held, held);
    if (w->feed_ns != 0 && held == 0 && since(now, w->fed_ns) >= w->feed_ns) {
        w->fed_ns = now;
        sd_notify(0, "WATCHDOG=1");
    }
}

static void *watchdog_main(void *arg)
{
    struct watchdog *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        uint64_t due = clock_mono_ns() + w->tick_ns;
        struct timespec ts = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
        while (!w->stopping && pthread_cond_timedwait(&w->wake, &w->lock, &ts) == 0) {
        }
        if (!w->stopping)
            look_at_all(w, clock_mono_ns() > due + w->slow_ns);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Ticks are short enough to see what is slow before it is half as long again, and to feed systemd twice in time. */
static void set_times(struct watchdog *w, const struct watchdog_config *config)
{
    uint64_t usec = 0;
    w->slow_ns = config->slow_ms * NS_PER_MS;
    w->fatal_ns = config->fatal_ms * NS_PER_MS;
    w->beat_ns = clamp(w->fatal_ns / 4, 1, BEAT_MS * NS_PER_MS);
    w->tick_ns = clamp(w->slow_ns / 2, MIN_TICK_MS * NS_PER_MS, MAX_TICK_MS * NS_PER_MS);
    if (sd_watchdog_enabled(0, &usec) > 0) {
        w->feed_ns = usec * 1000 / 3;
        w->tick_ns = clamp(w->feed_ns / 2, 1, w->tick_ns);
    }
}

static void sync_init(struct watchdog *w)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&w->lock, NULL);
}

/* Locked, or before the thread runs. */
static struct watched *watched_add(struct watchdog *w)
{
    omid_assert(w->n < w->room);
    return &w->watched[w->n++];
}

void watchdog_watch_loop(struct watchdog *w, struct loop *loop)
{
    CHECK_MAGIC(w, WATCHDOG_MAGIC);
    pthread_mutex_lock(&w->lock);
    *watched_add(w) = (struct watched){.loop = loop, .beat_ns = clock_mono_ns(), .beaten = true};
    pthread_mutex_unlock(&w->lock);
}

void watchdog_watch_pulse(struct watchdog *w, const struct pulse *pulse)
{
    CHECK_MAGIC(w, WATCHDOG_MAGIC);
    pthread_mutex_lock(&w->lock);
    *watched_add(w) = (struct watched){.pulse = pulse};
    pthread_mutex_unlock(&w->lock);
}

struct watchdog *watchdog_new(const struct watchdog_config *config)
{
    omid_assert(config->slow_ms > 0 && config->fatal_ms > 0);
    unsigned room = config->n_loops + config->more;
    struct watchdog *w = calloc(1, sizeof(*w) + room * sizeof(w->watched[0]));
    if (w == NULL)
        return NULL;
    w->magic = WATCHDOG_MAGIC;
    w->room = room;
    w->main.pulse = &pulse_main;
    for (unsigned k = 0; k < config->n_loops; k++)
        *watched_add(w) = (struct watched){.loop = config->loops[k], .beat_ns = clock_mono_ns(), .beaten = true};
    set_times(w, config);
    w->held = metric_gauge("omid_watchdog_held_loops", "Loops that are held for longer than watchdog.fatal.");
    sync_init(w);
    if (!thread_start(&w->thread, "watchdog", watchdog_main, w)) {
        int saved = errno;
        free(w);
        errno = saved;
        return NULL;
    }
    return w;
}

void watchdog_detach(struct watchdog *w)
{
    if (w == NULL)
        return;
    CHECK_MAGIC(w, WATCHDOG_MAGIC);
    pthread_mutex_lock(&w->lock);
    w->detached = true;
    pthread_mutex_unlock(&w->lock);
}

void watchdog_free(struct watchdog **wp)
{
    struct watchdog *w = *wp;
    *wp = NULL;
    if (w == NULL)
        return;
    CHECK_MAGIC(w, WATCHDOG_MAGIC);
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    metric_set(w->held, 0);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    w->magic = OMID_MAGIC_DEAD;
    free(w);
}
