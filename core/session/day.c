/* The steps of one day; see days_int.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/log.h"
#include "bus/bus.h"
#include "host/ask.h"
#include "lane/exec/exec.h"
#include "lane/queue/queue.h"
#include "session/days_int.h"
#include "session/summary.h"
#include "store/days.h"

#define MODULE DAYS_MODULE
#define EVENT_NAME "omid.day_summary"
#define JITTER 0.2

static void day_plan(struct day *d);

static void day_set_state(struct day *d, enum day_state to)
{
    bool legal = to == DAY_RETRY   ? d->state != DAY_RETRY
                 : to == DAY_PLAN  ? d->state == DAY_RETRY
                 : to == DAY_DROP  ? d->state >= DAY_ZONE && d->state != DAY_DROP
                 : to == DAY_OFFER ? d->state == DAY_KEEP || d->state == DAY_CLAIM
                                   : to == d->state + 1;
    omid_assert(legal);
    d->state = to;
}

void day_free(struct day *d)
{
    CHECK_MAGIC(d, DAY_MAGIC);
    if (d->uid)
        map_remove(d->ds->day, d->uid);
    metric_add(d->ds->running, -1);
    ev_timer_stop(loop_ev(d->ds->ss->env.loop), &d->retry);
    host_ask_cancel(&d->ask);
    const struct days_answer closed = {.result = OMID_ECLOSED, .text = "going away"};
    if (d->question)
        days_question_answer(d->question, &closed);
    for (struct list *it; (it = list_pop(&d->waiting)) != NULL;)
        days_question_answer(list_entry(it, struct days_question, link), &closed);
    if (d->working)
        return; /* of an executor's thread that was abandoned: it may still use it */
    buf_free(&d->json);
    buf_free(&d->ids);
    free(d->extract);
    free(d->summary);
    free(d->timezone);
    free(d->uid);
    d->magic = OMID_MAGIC_DEAD;
    free(d);
}

/* Over: whoever asked is told, and the plan gets its next time. */
static void day_finish(struct day *d, int result, const char *text)
{
    struct days *ds = d->ds;
    enum day_outcome how = d->outcome;
    if (d->question) {
        const struct days_answer a = {.result = result,
                                      .text = text,
                                      .already = how == DAY_WAS_SENT,
                                      .date = d->date,
                                      .timezone = d->timezone,
                                      .summary = result == OMID_OK ? d->summary : NULL,
                                      .created_ms = d->created_ms};
        days_question_answer(d->question, &a);
        d->question = NULL;
    }
    int64_t since_ms = how == DAY_NOT_WANTED ? clock_wall_ms() - DAYS_LATE_MS : 0;
    if (d->scheduled)
        (void)store_day_plan_next(ds->ss->env.store, d->uid, d->next_ms, since_ms); /* else it is looked at again */
    char tag[16];
    hash_uid_tag(d->uid, tag);
    if (how == DAY_IS_SENT)
        log_info(MODULE, "sent", LS("uid", tag), LS("date", d->date), LU("conversations", d->n));
    for (struct list *it; (it = list_pop(&d->waiting)) != NULL;)
        days_question_again(list_entry(it, struct days_question, link));
    char *uid = d->uid;
    d->uid = NULL;
    map_remove(ds->day, uid);
    day_free(d);
    days_over(ds, uid, how);
    free(uid);
}

/* ------------------------------------------------------------------- failures */

static void on_dropped(void *arg, int result)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    d->ds->left = d->ds->left || result == OMID_ERR; /* the claim stays, and is found again */
    if (d->outcome == DAY_IS_EMPTY)
        day_finish(d, OMID_ENOTSUP, "there are no conversations");
    else
        day_finish(d, OMID_ERR, d->err);
}

static void day_drop(struct day *d, enum day_outcome how)
{
    day_set_state(d, DAY_DROP);
    d->outcome = how;
    bool empty = how == DAY_IS_EMPTY;
    if (store_day_change(d->ds->ss->env.store, d->uid, d->date, empty ? STORE_DAY_EMPTY : STORE_DAY_DROP, NULL,
                         empty ? d->ids.data : NULL, d->ds->ss->env.loop, on_dropped, d) != OMID_OK)
        on_dropped(d, OMID_ERR);
}

static void day_pause(struct day *d, uint32_t ms)
{
    day_set_state(d, DAY_RETRY);
    ev_timer_set(&d->retry, ms / 1000., 0.);
    ev_timer_start(loop_ev(d->ds->ss->env.loop), &d->retry);
}

static void day_again(struct day *d, const char *step, const char *why)
{
    const struct conf *conf = d->ds->ss->env.conf;
    char tag[16];
    hash_uid_tag(d->uid, tag);
    snprintf(d->err, sizeof d->err, "%s: %.200s", step, why);
    if (d->ds->draining) { /* the next start goes on with it */
        struct sessions *ss = d->ds->ss;
        day_free(d);
        sessions_check_drained(ss);
        return;
    }
    if (++d->failures >= conf->day_summary.attempts) {
        log_error(MODULE, "given up", LS("uid", tag), LS("date", d->date), LS("reason", d->err));
        if (d->next_ms == 0)
            d->next_ms = clock_wall_ms() + DAY_MS;
        if (d->state >= DAY_CLAIM) {
            day_drop(d, DAY_FAILED);
            return;
        }
        d->outcome = DAY_FAILED;
        day_finish(d, OMID_ERR, d->err);
        return;
    }
    uint64_t ms = conf->processing.retry_ms;
    for (unsigned i = 1; i < d->failures && ms < conf->processing.retry_max_ms; i++)
        ms *= 2;
    ms = ms < conf->processing.retry_max_ms ? ms : conf->processing.retry_max_ms;
    ms = (uint64_t)((double)ms * (1 - JITTER + 2 * JITTER * id_random_unit()));
    log_warning(MODULE, "step failed, trying again", LS("uid", tag), LS("date", d->date), LS("reason", d->err),
                LU("in_ms", ms));
    day_pause(d, (uint32_t)ms);
}

static void on_retry(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct day *d = w->data;
    CHECK_MAGIC(d, DAY_MAGIC);
    day_set_state(d, DAY_PLAN);
    day_plan(d);
}

static const char store_failed[] = "the store failed";

/* ------------------------------------------------------------------- told */

static void on_sent(void *arg, int result)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    if (result == OMID_ERR) {
        day_again(d, "mark as sent", store_failed);
        return;
    }
    d->outcome = DAY_IS_SENT;
    day_finish(d, OMID_OK, NULL);
}

static void on_fence(void *arg, int result)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    if (result != OMID_OK) {
        day_again(d, "enqueue deliveries", "the queue is full, or its disk failed");
        return;
    }
    day_set_state(d, DAY_SENT);
    if (store_day_change(d->ds->ss->env.store, d->uid, d->date, STORE_DAY_SENT, NULL, NULL, d->ds->ss->env.loop,
                         on_sent, d) != OMID_OK)
        on_sent(d, OMID_ERR);
}

static void day_offer(struct day *d)
{
    struct sessions *ss = d->ds->ss;
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char created[32];
    day_set_state(d, DAY_OFFER);
    clock_format_utc(d->created_ms, created);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "uid", d->uid);
    json_w_kstr(&w, "created_at", created);
    json_w_key(&w, "summary_json");
    json_w_raw(&w, d->summary, strlen(d->summary));
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    if (ok) {
        const struct omid_event ev = {.size = sizeof ev,
                                      .type = OMID_EVENT_CUSTOM,
                                      .uid = d->uid,
                                      .session_id = "",
                                      .conversation_id = "",
                                      .name = EVENT_NAME,
                                      .json = b.data,
                                      .json_len = b.len,
                                      .time_ms = d->created_ms};
        bus_publish(ss->env.bus, &ev);
        ok = queue_fence(ss->env.queue, ss->env.loop, on_fence, d) == OMID_OK;
    }
    buf_free(&b);
    if (!ok)
        day_again(d, "offer to plugins", "no memory, or the queue takes nothing");
}

/* ------------------------------------------------------------------- summarised */

static void on_kept(void *arg, int result)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    if (result == OMID_OK)
        day_offer(d);
    else
        day_again(d, "keep", store_failed);
}

static void day_keep(struct day *d, const char *summary)
{
    day_set_state(d, DAY_KEEP);
    free(d->summary);
    d->summary = day_summary_make(d, summary);
    if (!d->summary)
        day_again(d, "summarize", "no memory");
    else if (store_day_change(d->ds->ss->env.store, d->uid, d->date, STORE_DAY_KEEP, d->summary, d->ids.data,
                              d->ds->ss->env.loop, on_kept, d) != OMID_OK)
        on_kept(d, OMID_ERR);
}

static void day_keep_local(struct day *d, const char *why)
{
    summary_count_fallback(SUMMARY_OF_DAY, why);
    day_keep(d, d->extract);
}

static void on_answer(void *arg, const struct omid_answer *a)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    d->ask = NULL;
    const char *fault = NULL;
    char *made = a->result == OMID_OK ? summary_take(a, &fault) : NULL;
    if (made)
        day_keep(d, made);
    else if (a->result == OMID_ENOTSUP)
        day_drop(d, DAY_IS_EMPTY);
    else if (fault || a->result == OMID_EINVAL)
        day_keep_local(d, SUMMARY_INVALID);
    else if (a->result == OMID_ETIMEOUT)
        day_keep_local(d, SUMMARY_TIMEOUT);
    else if (d->failures + 1 >= d->ds->ss->env.conf->processing.summary_attempts)
        day_keep_local(d, SUMMARY_FAILED);
    else
        day_again(d, "summarize", a->text ? a->text : "the plugin failed");
    free(made);
}

static void day_summarize(struct day *d)
{
    struct sessions *ss = d->ds->ss;
    const struct omid_summary_request req = {.size = sizeof req,
                                             .kind = OMID_SUMMARY_DAY,
                                             .uid = d->uid,
                                             .language = "",
                                             .json = d->json.data,
                                             .json_len = d->json.len};
    const struct host_question q = {.kind = HOST_ASK_SUMMARIZE, .summary = &req};
    day_set_state(d, DAY_SUMMARIZE);
    int rc = d->failures >= ss->env.conf->processing.summary_attempts
                 ? OMID_EFULL
                 : host_ask(ss->env.host, ss->env.reactor, &q, ss->env.conf->processing.summary_timeout_ms, on_answer,
                            d, &d->ask);
    if (rc != OMID_OK)
        day_keep_local(d, rc == OMID_ENOTSUP ? SUMMARY_NO_PLUGIN : SUMMARY_FAILED);
    buf_free(&d->json);
}

/* ------------------------------------------------------------------- read */

static bool day_work(struct day *d, const char *label, void (*run)(void *arg), void (*done)(void *arg, bool ran))
{
    const struct omid_work work = {
        .size = sizeof work, .pool = OMID_POOL_STORAGE, .label = label, .run = run, .done = done, .arg = d};
    d->working = true;
    if (exec_submit(d->ds->ss->env.exec, exec_core, d->ds->ss->env.loop, &work) == OMID_OK)
        return true;
    d->working = false;
    return false;
}

static const char executor_full[] = "the storage executor takes nothing";

static void read_done(void *arg, bool ran)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    d->working = false;
    char why[sizeof d->err];
    memcpy(why, d->err, sizeof why);
    if (!ran || !d->ok || d->ds->draining)
        day_again(d, "read", ran ? why : executor_full);
    else if (d->n == 0)
        day_drop(d, DAY_IS_EMPTY);
    else
        day_summarize(d);
}

static void on_claimed(void *arg, int result, const struct store_day *day)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    if (result != OMID_OK || !day) {
        day_again(d, "claim", store_failed);
        return;
    }
    d->created_ms = day->created_ms;
    d->until_ms = day->until_ms;
    free(d->summary);
    d->summary = day->summary ? strdup(day->summary) : NULL;
    if (day->summary && !d->summary) {
        day_again(d, "claim", "no memory");
    } else if (day->sent) {
        d->outcome = DAY_WAS_SENT;
        day_finish(d, OMID_OK, NULL);
    } else if (d->summary) {
        day_offer(d);
    } else {
        day_set_state(d, DAY_READ);
        if (!day_work(d, "read_day", day_read_run, read_done))
            day_again(d, "read", executor_full);
    }
}

/* ------------------------------------------------------------------- which day */

static void zone_done(void *arg, bool ran)
{
    struct day *d = arg;
    struct days *ds = d->ds;
    CHECK_MAGIC(d, DAY_MAGIC);
    d->working = false;
    if (!ran || ds->draining) {
        day_again(d, "time zone", executor_full);
        return;
    }
    if (!d->ok) {
        char why[sizeof d->err];
        memcpy(why, d->err, sizeof why);
        log_warning(MODULE, "a day can't be told", LS("reason", why));
        d->outcome = DAY_FAILED;
        d->next_ms = clock_wall_ms() + DAY_MS;
        day_finish(d, OMID_EINVAL, why);
        return;
    }
    d->date_given = true; /* it stays this one, however long it takes */
    day_set_state(d, DAY_CLAIM);
    if (store_day_claim(ds->ss->env.store, d->uid, d->date, d->timezone, d->until_ms, clock_wall_ms(), ds->ss->env.loop,
                        on_claimed, d) != OMID_OK)
        on_claimed(d, OMID_ERR, NULL);
}

static void day_zone(struct day *d)
{
    const struct conf *conf = d->ds->ss->env.conf;
    day_set_state(d, DAY_ZONE);
    if (d->scheduled && !(d->enabled < 0 ? conf->day_summary.enabled : d->enabled > 0)) {
        d->outcome = DAY_NOT_WANTED;
        d->next_ms = clock_wall_ms() + DAY_MS;
        day_finish(d, OMID_ENOTSUP, "it is not wanted");
        return;
    }
    if (d->at < 0)
        d->at = days_minutes(conf->day_summary.at);
    if (!d->timezone)
        d->timezone = strdup(conf->day_summary.timezone);
    d->now_ms = clock_wall_ms();
    if (!d->timezone || !day_work(d, "time_zone", day_zone_run, zone_done))
        day_again(d, "time zone", executor_full);
}

static void on_plan(void *arg, int result, const struct store_day_plan *plan)
{
    struct day *d = arg;
    CHECK_MAGIC(d, DAY_MAGIC);
    if (result != OMID_OK) {
        day_again(d, "plan", store_failed);
        return;
    }
    if (plan) {
        if (!d->timezone && plan->timezone)
            d->timezone = strdup(plan->timezone);
        d->at = plan->at;
        d->since_ms = plan->since_ms;
        d->enabled = plan->enabled;
    }
    day_zone(d);
}

static void day_plan(struct day *d)
{
    if (store_day_plan_get(d->ds->ss->env.store, d->uid, d->ds->ss->env.loop, on_plan, d) != OMID_OK)
        on_plan(d, OMID_ERR, NULL);
}

bool day_begin(struct days *ds, const struct day *with, struct days_question *q)
{
    struct days_answer no = {.result = OMID_EFULL,
                             .text = "too many days are under way, or too many questions for this user"};
    struct day *d = map_get(ds->day, with->uid);
    if (d && q && !ds->draining && d->n_waiting < DAY_MAX_WAITING) {
        list_append(&d->waiting, &q->link);
        d->n_waiting++;
        return true;
    }
    d = NULL;
    if (ds->draining)
        no = (struct days_answer){.result = OMID_ECLOSED, .text = "going away"};
    else if (!map_get(ds->day, with->uid) && map_count(ds->day) < DAYS_MAX)
        d = calloc(1, sizeof *d);
    if (d) {
        *d = (struct day){.magic = DAY_MAGIC,
                          .state = DAY_PLAN,
                          .ds = ds,
                          .uid = strdup(with->uid),
                          .scheduled = with->scheduled,
                          .date_given = with->date_given,
                          .timezone = with->timezone ? strdup(with->timezone) : NULL,
                          .at = -1,
                          .enabled = -1};
        memcpy(d->date, with->date, sizeof d->date);
        list_init(&d->waiting);
        ev_init(&d->retry, on_retry);
        d->retry.data = d;
        if (!d->uid || (with->timezone && !d->timezone) || !map_put(ds->day, d->uid, d, NULL)) {
            free(d->uid);
            free(d->timezone);
            free(d);
            d = NULL;
        }
    }
    if (!d) {
        metric_add(ds->refused, 1);
        if (q)
            days_question_answer(q, &no);
        return false;
    }
    metric_add(ds->running, 1);
    d->question = q;
    day_plan(d);
    return true;
}
