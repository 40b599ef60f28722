/* Which days are due, and who asks for one. */
#include "session/days.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "session/days_int.h"
#include "store/days.h"

#define MODULE DAYS_MODULE
#define PRUNE_MAX 1000
/* No plan is further away: a day of at most 25 hours, and one more. What is says that the clock was set back. */
#define FAR_MS (2 * DAY_MS + 3600000)

static const char *const outcome_names[DAY_OUTCOMES] = {
    [DAY_IS_SENT] = "sent",  [DAY_WAS_SENT] = "already_sent", [DAY_IS_EMPTY] = "empty",
    [DAY_FAILED] = "failed", [DAY_NOT_WANTED] = "not_wanted",
};

/* ------------------------------------------------------------------- the schedule */

static size_t room(const struct days *ds)
{
    size_t n = map_count(ds->day), max = ds->ss->env.conf->day_summary.at_once;
    return n < max ? max - n : 0;
}

static void on_due(void *arg, int result, const struct store_day_plan *plan, size_t n)
{
    struct days *ds = arg;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    ds->asking_due = false;
    if (result != OMID_OK)
        log_warning(MODULE, "the plans can't be read: the store failed");
    for (size_t i = 0; !ds->draining && i < n && room(ds) > 0; i++) {
        if (map_get(ds->day, plan[i].uid) || map_get(ds->recent, plan[i].uid))
            continue;
        const struct day with = {.uid = plan[i].uid, .scheduled = true};
        (void)day_begin(ds, &with, NULL);
    }
    if (ds->draining)
        sessions_check_drained(ds->ss);
}

static void on_open(void *arg, int result, const struct store_day *day, size_t n)
{
    struct days *ds = arg;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    ds->asking_open = false;
    bool more = false;
    for (size_t i = 0; !ds->draining && i < n && room(ds) > 0; i++) {
        more = true; /* if not now, then once another of the user's is over */
        if (map_get(ds->day, day[i].uid) || map_get(ds->recent, day[i].uid))
            continue;
        struct day with = {.uid = day[i].uid, .timezone = day[i].timezone, .date_given = true};
        memcpy(with.date, day[i].date, sizeof with.date);
        (void)day_begin(ds, &with, NULL);
    }
    ds->left = more || result != OMID_OK || room(ds) == 0; /* else there are none but those that this run has begun */
    if (ds->draining)
        sessions_check_drained(ds->ss);
}

static void recent_clear(struct days *ds)
{
    size_t pos = 0;
    const char *uid;
    void *value;
    while (map_next(ds->recent, &pos, &uid, &value))
        map_remove(ds->recent, uid);
}

/* Those that are under way may stand in front of what is looked for. */
static void look(struct days *ds)
{
    struct store *store = ds->ss->env.store;
    struct loop *loop = ds->ss->env.loop;
    size_t max = map_count(ds->day) + room(ds);
    int64_t now = clock_wall_ms();
    if (ds->draining || room(ds) == 0 || ds->asking_due || ds->asking_open)
        return;
    recent_clear(ds);
    ds->asking_due = store_day_plans_due(store, now, now + FAR_MS, max, loop, on_due, ds) == OMID_OK;
    if (ds->left)
        ds->asking_open = store_days_open(store, max, loop, on_open, ds) == OMID_OK;
}

static void on_tick(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct days *ds = w->data;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    if (!ds->reset)
        ds->reset = store_day_plans_reset(ds->ss->env.store) == OMID_OK;
    (void)store_days_prune(ds->ss->env.store, clock_wall_ms() - (int64_t)ds->ss->env.conf->day_summary.keep_ms,
                           PRUNE_MAX);
    look(ds);
}

void days_over(struct days *ds, const char *uid, enum day_outcome how)
{
    if (ds->asking_due || ds->asking_open)
        (void)map_put(ds->recent, uid, ds, NULL); /* without memory it is looked at once more, to no effect */
    metric_add(ds->outcome[how], 1);
    if (ds->draining)
        sessions_check_drained(ds->ss);
    else
        look(ds);
}

/* ------------------------------------------------------------------- life */

struct days *days_new(struct sessions *ss)
{
    struct days *ds = calloc(1, sizeof *ds);
    if (!ds)
        return NULL;
    ds->magic = DAYS_MAGIC;
    ds->ss = ss;
    ds->day = map_new();
    ds->recent = map_new();
    ev_init(&ds->tick, on_tick);
    ds->tick.data = ds;
    for (int i = 0; i < DAY_OUTCOMES; i++) {
        const struct metric_label label = {"outcome", outcome_names[i]};
        ds->outcome[i] = metric_get(METRIC_COUNTER, "omid_day_summaries_total",
                                    "Summaries of days by what came of them.", &label, 1, NULL, 0);
    }
    ds->running = metric_gauge("omid_day_summaries_running", "Days that are being summarised.");
    ds->refused =
        metric_counter("omid_day_summaries_refused_total",
                       "Days that were not begun: too many were under way, or too many questions for one user.");
    if (!ds->day || !ds->recent)
        days_free(&ds);
    return ds;
}

void days_start(struct days *ds)
{
    ds->left = true;
    ev_timer_set(&ds->tick, 0., ds->ss->env.conf->day_summary.check_ms / 1000.);
    ev_timer_start(loop_ev(ds->ss->env.loop), &ds->tick);
}

void days_configure(struct days *ds)
{
    ds->reset = false;
    if (!ev_is_active(&ds->tick))
        return;
    ds->tick.repeat = ds->ss->env.conf->day_summary.check_ms / 1000.;
    ev_timer_again(loop_ev(ds->ss->env.loop), &ds->tick);
}

void days_drain(struct days *ds)
{
    ds->draining = true;
    ev_timer_stop(loop_ev(ds->ss->env.loop), &ds->tick);
    size_t pos = 0;
    void *value;
    while (map_next(ds->day, &pos, NULL, &value)) {
        struct day *d = value;
        if (d->state != DAY_RETRY && !d->ask)
            continue;
        day_free(d);
        pos = 0;
    }
}

bool days_idle(const struct days *ds)
{
    return map_count(ds->day) == 0 && !ds->asking_due && !ds->asking_open && ds->settings == 0;
}

void days_free(struct days **dsp)
{
    struct days *ds = *dsp;
    *dsp = NULL;
    if (!ds)
        return;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    ev_timer_stop(loop_ev(ds->ss->env.loop), &ds->tick);
    size_t pos = 0;
    void *value;
    while (ds->day && map_next(ds->day, &pos, NULL, &value)) {
        day_free(value);
        pos = 0;
    }
    map_free(&ds->day);
    map_free(&ds->recent);
    ds->magic = OMID_MAGIC_DEAD;
    free(ds);
}

/* ------------------------------------------------------------------- questions */

static void question_free(struct days_question *q)
{
    for (size_t i = 0; i < ARRAY_LEN(q->strings); i++)
        free(q->strings[i]);
    free(q->uid);
    free(q->timezone);
    free(q);
}

static void question_told(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct days_question *q = container_of(msg, struct days_question, msg);
    q->cb(q->arg, &q->answer);
    question_free(q);
}

void days_question_answer(struct days_question *q, const struct days_answer *a)
{
    const char *const text[] = {a->text, a->date, a->timezone, a->summary};
    bool ok = true;
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        q->strings[i] = text[i] ? strdup(text[i]) : NULL;
        ok = ok && (!text[i] || q->strings[i]);
    }
    q->answer = *a;
    q->answer.text = q->strings[0];
    q->answer.date = q->strings[1];
    q->answer.timezone = q->strings[2];
    q->answer.summary = q->strings[3];
    if (!ok)
        q->answer = (struct days_answer){.result = OMID_ERR, .text = "no memory"};
    q->msg.fn = question_told;
    loop_post(q->loop, &q->msg);
}

static void question_taken(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct days_question *q = container_of(msg, struct days_question, msg);
    struct day with = {.uid = q->uid, .timezone = q->timezone, .date_given = q->date[0] != '\0'};
    memcpy(with.date, q->date, sizeof with.date);
    (void)day_begin(q->ds, &with, q);
}

void days_question_again(struct days_question *q)
{
    q->msg.fn = question_taken;
    loop_post(q->ds->ss->env.loop, &q->msg);
}

int days_ask(struct sessions *const *all, const char *uid, const char *date, const char *timezone, struct loop *loop,
             void (*cb)(void *arg, const struct days_answer *a), void *arg)
{
    struct days *ds = all[0]->days;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    struct days_question *q = calloc(1, sizeof *q);
    if (!q)
        return OMID_ERR;
    *q = (struct days_question){.msg.fn = question_taken,
                                .ds = ds,
                                .uid = strdup(uid),
                                .timezone = timezone ? strdup(timezone) : NULL,
                                .loop = loop,
                                .cb = cb,
                                .arg = arg};
    strncpy(q->date, date, sizeof q->date - 1);
    if (!q->uid || (timezone && !q->timezone)) {
        question_free(q);
        return OMID_ERR;
    }
    loop_post(ds->ss->env.loop, &q->msg);
    return OMID_OK;
}
