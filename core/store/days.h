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
    char *timezone;   /* NULL: the configuration's */
    int at;           /* minutes since midnight; -1: the configuration's */
    int enabled;      /* 0, 1; -1: the configuration's */
    int64_t next_ms;  /* when to look at it again, Unix ms; 0: now */
    int64_t since_ms; /* what ended before is in no summary; set by the store */
};
/* The user's, as it is or would be. */
int store_day_plan_get(struct store *s, const char *uid, struct loop *loop,
                       void (*cb)(void *arg, int result, const struct store_day_plan *plan), void *arg);
/* Takes from `plan` what is not NULL or -1, and looks at it at once. With clear what is NULL or -1 becomes the
 * configuration's again. since_ms: of a plan that there was not. */
int store_day_plan_set(struct store *s, const struct store_day_plan *plan, bool clear, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg);
/* The uid has a plan from now on, if it had none. Nobody is told. */
int store_day_plan_touch(struct store *s, const char *uid, int64_t since_ms);
/* since_ms: 0, or not before that any more. */
int store_day_plan_next(struct store *s, const char *uid, int64_t next_ms, int64_t since_ms);
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
    int64_t until_ms; /* of a scheduled one: what it holds began before; 0: it holds a calendar day */
    bool sent;
    char *summary; /* JSON; NULL: not made yet */
};
/* Begins the day, or finds it as it was left. */
int store_day_claim(struct store *s, const char *uid, const char *date, const char *timezone, int64_t until_ms,
                    int64_t now_ms, struct loop *loop, void (*cb)(void *arg, int result, const struct store_day *day),
                    void *arg);
enum store_day_change {
    STORE_DAY_KEEP, /* the summary that was made, of these conversations */
    STORE_DAY_SENT,
    STORE_DAY_EMPTY, /* there was nothing in it, nor in these conversations: another attempt may begin it again */
    STORE_DAY_DROP,  /* it is given up: the same, and its conversations are in no summary */
};
/* OMID_ENOTSUP: it is not under way. summary: for KEEP. conversations: for KEEP and EMPTY, a JSON array of ids; those
 * that are in no summary so far are in this one, from the same commit on. */
int store_day_change(struct store *s, const char *uid, const char *date, enum store_day_change change,
                     const char *summary, const char *conversations, struct loop *loop,
                     void (*cb)(void *arg, int result), void *arg);
/* Up to max that are under way: what a former run left. */
int store_days_open(struct store *s, size_t max, struct loop *loop,
                    void (*cb)(void *arg, int result, const struct store_day *day, size_t n), void *arg);
/* Forgets up to max of those made before. Nobody is told. */
int store_days_prune(struct store *s, int64_t before_ms, size_t max);

enum store_day_which {
    STORE_DAY_BEGAN,  /* those that began in [from, to) */
    STORE_DAY_UNTOLD, /* those in no summary that ended at from or later, and began before to */
};
/* On an executor's thread, as the readers of store.h: the uid's completed conversations, in the order of their
 * beginnings, at most max; without the data of photos. fn frees nothing; false ends it (OMID_EFULL). */
int store_day_each(struct store *s, const char *uid, enum store_day_which which, int64_t from_ms, int64_t to_ms,
                   size_t max, bool (*fn)(void *arg, const struct store_conversation *c), void *arg, char *err,
                   size_t errlen);

#endif
