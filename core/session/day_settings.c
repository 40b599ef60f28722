/* When users want the summaries of their days. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "lane/exec/exec.h"
#include "session/days_int.h"
#include "store/days.h"

int days_minutes(const char *at)
{
    for (size_t i = 0; i < 5; i++) {
        if (i == 2 ? at[i] != ':' : !isdigit((unsigned char)at[i]))
            return -1;
    }
    int hour = (at[0] - '0') * 10 + at[1] - '0', minute = (at[3] - '0') * 10 + at[4] - '0';
    return at[5] == '\0' && hour < 24 && minute < 60 ? hour * 60 + minute : -1;
}

struct setting {
    struct loop_msg msg;
    struct days *ds;
    char *uid, *timezone; /* timezone: of the change, then what holds */
    unsigned set;
    int at, enabled;
    bool ok; /* of the executor's look at the time zone */
    char err[200];
    char *default_timezone;
    struct loop *loop;
    void (*cb)(void *arg, const struct days_settings_answer *a);
    void *arg;
    struct days_settings_answer answer;
};

static void setting_free(struct setting *s)
{
    free(s->uid);
    free(s->timezone);
    free(s->default_timezone);
    free(s);
}

static void setting_told(struct loop *loop, struct loop_msg *msg)
{
    (void)loop;
    struct setting *s = container_of(msg, struct setting, msg);
    s->cb(s->arg, &s->answer);
    setting_free(s);
}

static void setting_answer(struct setting *s, int result, const char *text)
{
    struct days *ds = s->ds;
    const struct conf *conf = ds->ss->env.conf;
    s->default_timezone = strdup(conf->day_summary.timezone);
    s->answer = (struct days_settings_answer){
        .result = s->default_timezone ? result : OMID_ERR, .text = text, .user = {s->timezone, s->at, s->enabled}};
    s->answer.effective = (struct days_settings){s->timezone ? s->timezone : s->default_timezone,
                                                 s->at >= 0 ? s->at : days_minutes(conf->day_summary.at),
                                                 s->enabled >= 0 ? s->enabled : conf->day_summary.enabled};
    s->msg.fn = setting_told;
    loop_post(s->loop, &s->msg);
    ds->settings--;
    if (ds->draining)
        sessions_check_drained(ds->ss);
}

static const char store_failed[] = "the store failed";

static void on_set(void *arg, int result)
{
    struct setting *s = arg;
    setting_answer(s, result == OMID_OK ? OMID_OK : OMID_ERR, result == OMID_OK ? NULL : store_failed);
}

/* What is there, and what is to be changed of it. */
static void on_plan(void *arg, int result, const struct store_day_plan *plan)
{
    struct setting *s = arg;
    bool ok = result == OMID_OK;
    if (!(s->set & DAYS_SET_TIMEZONE)) {
        s->timezone = plan && plan->timezone ? strdup(plan->timezone) : NULL;
        ok = ok && (!plan || !plan->timezone || s->timezone);
    }
    if (!(s->set & DAYS_SET_AT))
        s->at = plan ? plan->at : -1;
    if (!(s->set & DAYS_SET_ENABLED))
        s->enabled = plan ? plan->enabled : -1;
    if (!ok) {
        on_set(s, OMID_ERR);
        return;
    }
    const struct store_day_plan to = {.uid = s->uid,
                                      .timezone = s->timezone,
                                      .at = s->at,
                                      .enabled = s->enabled,
                                      .since_ms = clock_wall_ms() - DAYS_LATE_MS};
    if (s->set == 0)
        on_set(s, OMID_OK);
    else if (store_day_plan_set(s->ds->ss->env.store, &to, true, s->ds->ss->env.loop, on_set, s) != OMID_OK)
        on_set(s, OMID_ERR);
}

static void plan_ask(struct setting *s)
{
    if (store_day_plan_get(s->ds->ss->env.store, s->uid, s->ds->ss->env.loop, on_plan, s) != OMID_OK)
        on_plan(s, OMID_ERR, NULL);
}

static void zone_run(void *arg)
{
    struct setting *s = arg;
    struct zone *z = zone_load(s->timezone, s->err, sizeof s->err);
    s->ok = z != NULL;
    zone_free(&z);
}

static void zone_done(void *arg, bool ran)
{
    struct setting *s = arg;
    if (!ran)
        setting_answer(s, OMID_ECLOSED, "going away");
    else if (!s->ok)
        setting_answer(s, OMID_EINVAL, s->err);
    else
        plan_ask(s);
}

static void setting_taken(struct loop *loop, struct loop_msg *msg)
{
    struct setting *s = container_of(msg, struct setting, msg);
    const struct omid_work work = {.size = sizeof work,
                                   .pool = OMID_POOL_STORAGE,
                                   .label = "time_zone",
                                   .run = zone_run,
                                   .done = zone_done,
                                   .arg = s};
    s->ds->settings++;
    if (s->ds->draining || s->ds->settings > DAYS_MAX)
        setting_answer(s, OMID_EFULL, "too many at once, or going away");
    else if (!(s->set & DAYS_SET_TIMEZONE) || !s->timezone)
        plan_ask(s);
    else if (exec_submit(s->ds->ss->env.exec, exec_core, loop, &work) != OMID_OK)
        setting_answer(s, OMID_EFULL, "the storage executor takes nothing");
}

int days_settings(struct sessions *const *all, const char *uid, unsigned set, const struct days_settings *to,
                  struct loop *loop, void (*cb)(void *arg, const struct days_settings_answer *a), void *arg)
{
    struct days *ds = all[0]->days;
    CHECK_MAGIC(ds, DAYS_MAGIC);
    struct setting *s = calloc(1, sizeof *s);
    if (!s)
        return OMID_ERR;
    *s = (struct setting){
        .msg.fn = setting_taken, .ds = ds, .uid = strdup(uid), .set = set, .loop = loop, .cb = cb, .arg = arg};
    bool zone = (set & DAYS_SET_TIMEZONE) && to->timezone;
    s->timezone = zone ? strdup(to->timezone) : NULL;
    s->at = set & DAYS_SET_AT ? to->at : -1;
    s->enabled = set & DAYS_SET_ENABLED ? to->enabled : -1;
    if (!s->uid || (zone && !s->timezone)) {
        setting_free(s);
        return OMID_ERR;
    }
    loop_post(ds->ss->env.loop, &s->msg);
    return OMID_OK;
}
