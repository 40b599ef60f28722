/*
 * Summaries of users' days: on a schedule, each user's in the own time zone, or asked for. One set of them for the
 * process, on the first reactor; see days_int.h for the steps.
 *
 * At most one a user and day is told of: a day is claimed in the store, then read, summarised, kept, published as a
 * CUSTOM event "omid.day_summary" whose jobs are on disk before the day counts as sent. What a crash leaves between is
 * gone on with, with the same created_at, by which deliveries are named.
 *
 * One on the schedule holds the completed conversations that began before its moment and are in no summary so far, so
 * that each is in exactly one: what is still in progress at that moment is in the next one, as is what a day that was
 * given up would have held. One that was asked for holds those that began on that calendar day.
 */
#ifndef OMID_SESSION_DAYS_H
#define OMID_SESSION_DAYS_H

#include "session/session.h"

struct days;

/* Who has wanted no summaries so far gets in the first one what ended at most this long before that was seen. */
#define DAYS_LATE_MS (INT64_C(86400) * 1000)

struct days *days_new(struct sessions *ss); /* NULL: no memory */
void days_start(struct days *ds);           /* reactor: what a former run left, and the schedule */
void days_configure(struct days *ds);       /* reactor: sessions' settings are others now */
void days_drain(struct days *ds); /* reactor: nothing begins; what waits for a plugin is left to the next start */
bool days_idle(const struct days *ds);
void days_free(struct days **ds);

/* What became of a question. Valid until the callback returns. */
struct days_answer {
    int result;       /* OMID_OK; OMID_ENOTSUP: no conversations; OMID_EINVAL: the time zone; OMID_EFULL: too many are
                         under way, or asked for by this user; OMID_ECLOSED; OMID_ERR: given up */
    const char *text; /* why not */
    bool already;     /* it was sent before, and is not again */
    const char *date, *timezone, *summary;
    int64_t created_ms;
};
/* Any reactor. cb on `loop`, exactly once, never within this call. date "": the user's today; timezone NULL: the
 * user's. OMID_OK, or OMID_ERR: no memory. all: of all reactors. */
int days_ask(struct sessions *const *all, const char *uid, const char *date, const char *timezone, struct loop *loop,
             void (*cb)(void *arg, const struct days_answer *a), void *arg);

/* When a user wants a summary. */
struct days_settings {
    const char *timezone; /* NULL: the configuration's */
    int at;               /* minutes since midnight; -1: the configuration's */
    int enabled;          /* 0, 1; -1: the configuration's */
};
enum days_setting { DAYS_SET_TIMEZONE = 1u << 0, DAYS_SET_AT = 1u << 1, DAYS_SET_ENABLED = 1u << 2 };
struct days_settings_answer {
    int result;       /* OMID_OK; OMID_EINVAL: the time zone; OMID_ERR: the store; OMID_EFULL, OMID_ECLOSED */
    const char *text; /* why not */
    struct days_settings user, effective;
};
/* Changes those of `set` (enum days_setting) to what `to` says, the configuration's included; 0: reads alone. Otherwise
 * as days_ask(). */
int days_settings(struct sessions *const *all, const char *uid, unsigned set, const struct days_settings *to,
                  struct loop *loop, void (*cb)(void *arg, const struct days_settings_answer *a), void *arg);
/* "22:00" in minutes since midnight; -1: it is no time. */
int days_minutes(const char *at);

#endif
