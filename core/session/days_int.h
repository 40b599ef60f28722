/*
 * The inside of days: days.c (which, when; questions), day_settings.c (when users want theirs), day.c (the steps of
 * one), day_read.c (its blocking work).
 *
 *   PLAN ──► ZONE ──► CLAIM ──► READ ──► SUMMARIZE ──► KEEP ──► OFFER ──► SENT
 *   store    executor  store    executor  plugin       store    queue     store
 *
 * A step that fails is repeated after a pause, from PLAN on; what was kept is not made again.
 */
#ifndef OMID_SESSION_DAYS_INT_H
#define OMID_SESSION_DAYS_INT_H

#include <ev.h>

#include "base/list.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/zone.h"
#include "session/days.h"
#include "session/state.h"

#define DAYS_MODULE "day_summary"
#define DAYS_MAGIC UINT32_C(0x64617973)
#define DAY_MAGIC UINT32_C(0x64617973 + 1)
#define DAYS_MAX 1000 /* under way at once, those that were asked for included */
#define DAY_MAX_CONVERSATIONS 500
#define DAY_MAX_WAITING 16 /* questions that wait for the end of one */
#define DAY_MS (INT64_C(86400) * 1000)

struct host_ask;

enum day_outcome { DAY_IS_SENT, DAY_WAS_SENT, DAY_IS_EMPTY, DAY_FAILED, DAY_NOT_WANTED, DAY_OUTCOMES };

struct days {
    uint32_t magic;
    struct sessions *ss;
    struct map *day; /* uid -> struct day */
    ev_timer tick;
    bool asking_due, asking_open; /* the store is asked */
    struct map *recent;           /* uids whose day ended since the store was asked: what it answers of them is old */
    bool left;                    /* claims that nobody works for may be in the store */
    unsigned settings;            /* questions for settings under way */
    bool reset;                   /* the plans were told to be looked at again */
    bool draining;
    struct metric *outcome[DAY_OUTCOMES], *running, *refused;
};

enum day_state {
    DAY_PLAN,
    DAY_ZONE,
    DAY_CLAIM,
    DAY_READ,
    DAY_SUMMARIZE,
    DAY_KEEP,
    DAY_OFFER,
    DAY_SENT,
    DAY_DROP, /* the claim is given back */
    DAY_RETRY,
};

/* Who asked. */
struct days_question {
    struct loop_msg msg;
    struct list link; /* day.waiting */
    struct days *ds;
    char *uid, *timezone;
    char date[ZONE_DATE_SIZE];
    struct loop *loop;
    void (*cb)(void *arg, const struct days_answer *a);
    void *arg;
    struct days_answer answer;
    char *strings[4]; /* the answer's */
};

struct day {
    uint32_t magic;
    enum day_state state;
    struct days *ds;
    char *uid;
    bool scheduled; /* by its plan, of which there is to be a next time */
    bool date_given;
    char date[ZONE_DATE_SIZE];
    char *timezone;  /* NULL: the configuration's */
    int at, enabled; /* of the plan */
    struct days_question *question;
    struct list waiting; /* questions that came meanwhile */
    unsigned n_waiting;
    int64_t now_ms, from_ms, to_ms, next_ms, created_ms;
    int64_t until_ms; /* of a scheduled one, as its claim says, which may be an earlier run's; 0: from_ms, to_ms */
    int64_t since_ms; /* what ended before is in no scheduled one */
    bool working;     /* an executor's thread may use this struct */
    bool ok;          /* of its work */
    char err[256];    /* why not; or why the last step failed */
    struct buf json;  /* the day's conversations */
    struct buf ids;   /* of them, a JSON array */
    unsigned n;       /* of them */
    char *extract;    /* the local summary */
    char *summary;    /* JSON */
    enum day_outcome outcome;
    struct host_ask *ask;
    unsigned failures;
    ev_timer retry;
};

/* ---- day.c ---- */
/* Begins one; takes the question (may be NULL), which waits when one of the uid is under way. false: refused, and the
 * question is answered. */
bool day_begin(struct days *ds, const struct day *with, struct days_question *q);
void day_free(struct day *d);

/* ---- days.c ---- */
void days_question_answer(struct days_question *q, const struct days_answer *a);
void days_question_again(struct days_question *q); /* its turn comes soon */
/* The uid's is over, whatever came of it. */
void days_over(struct days *ds, const char *uid, enum day_outcome how);

/* ---- day_read.c: on an executor's thread ---- */
void day_zone_run(void *day);
void day_read_run(void *day);
/* What is kept: the summary with date, time zone and the number of conversations; the caller frees. NULL: no memory. */
char *day_summary_make(const struct day *d, const char *summary);

#endif
