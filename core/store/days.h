/*
 * Summaries of users' days: when each user wants one (plans), and what became of each. As store.h has it: calls copy
 * their arguments, callbacks come on the loop after the commit.
 */
#ifndef OMID_STORE_DAYS_H
#define OMID_STORE_DAYS_H

#include "base/zone.h"
#include "store/store.h"

/* ---- plans ---- */
struct store_day_plan {
    char *uid;
    char *timezone;  /* NULL: the configuration's */
    int at;          /* minutes since midnight; -1: the configuration's */
    int enabled;     /* 0, 1; -1: the configuration's */
    int64_t next_ms; /* when to look at it again, Unix ms; 0: now */
};
/* The user's, as it is or would be. */
int store_day_plan_get(struct store *s, const char *uid, struct loop *loop,
                       void (*cb)(void *arg, int result, const struct store_day_plan *plan), void *arg);
/* Takes from `plan` what is not NULL or -1, and looks at it at once. With clear what is NULL or -1 becomes the
 * configuration's again. */
int store_day_plan_set(struct store *s, const struct store_day_plan *plan, bool clear, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg);
/* The uid has a plan from now on, if it had none. Nobody is told. */
int store_day_plan_touch(struct store *s, const char *uid);
int store_day_plan_next(struct store *s, const char *uid, int64_t next_ms);
/* Every plan is to be looked at: the configuration has changed, or the clock may have. */
int store_day_plans_reset(struct store *s);
/* Up to max whose time has come; or is further away than any may be: a clock that was set back. */
int store_day_plans_due(struct store *s, int64_t now_ms, int64_t far_ms, size_t max, struct loop *loop,
                        void (*cb)(void *arg, int result, const struct store_day_plan *plan, size_t n), void *arg);

/* ---- days ---- */
struct store_day {
    char *uid;
    char date[ZONE_DATE_SIZE];
    char *timezone;
    int64_t created_ms;
    bool sent;
    char *summary; /* JSON; NULL: not made yet */
};
/* Begins the day, or finds it as it was left. */
int store_day_claim(struct store *s, const char *uid, const char *date, const char *timezone, int64_t now_ms,
                    struct loop *loop, void (*cb)(void *arg, int result, const struct store_day *day), void *arg);
enum store_day_change {
    STORE_DAY_KEEP, /* the summary that was made */
    STORE_DAY_SENT,
    STORE_DAY_DROP, /* there was nothing in it, or it is given up: another attempt may begin it again */
};
/* OMID_ENOTSUP: it is not under way. summary: for KEEP. */
int store_day_change(struct store *s, const char *uid, const char *date, enum store_day_change change,
                     const char *summary, struct loop *loop, void (*cb)(void *arg, int result), void *arg);
/* Up to max that are under way: what a former run left. */
int store_days_open(struct store *s, size_t max, struct loop *loop,
                    void (*cb)(void *arg, int result, const struct store_day *day, size_t n), void *arg);
/* Forgets up to max of those made before. Nobody is told. */
int store_days_prune(struct store *s, int64_t before_ms, size_t max);

/* On an executor's thread, as the readers of store.h: the uid's completed conversations that began in [from, to), in
 * their order, at most max; without the data of photos. fn frees nothing; false ends it (OMID_EFULL). */
int store_day_each(struct store *s, const char *uid, int64_t from_ms, int64_t to_ms, size_t max,
                   bool (*fn)(void *arg, const struct store_conversation *c), void *arg, char *err, size_t errlen);

#endif
