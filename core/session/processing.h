/*
 * The inside of processings, one file per topic:
 *
 *   processing.c           which ones run, which wait; failures, pauses, giving up
 *   processing_steps.c     begin, the parts, deliveries, end
 *   processing_geolocation.c, processing_summary.c   the parts
 *
 * WAITING ──► BEGIN ──► WORK ──► OFFER ──► END
 *    ▲          │         │        │        │      a step failed: a pause, then again from BEGIN. What parts have made
 *    └───────── RETRY ◄───┴────────┴────────┘      is in the store by then and is not made again.
 *
 * One that waits for a retry holds none of the at_once places.
 */
#ifndef OMID_SESSION_PROCESSING_H
#define OMID_SESSION_PROCESSING_H

#include "session/state.h"

struct geolocation;
struct host_ask;

enum processing_state {
    PROCESSING_WAITING, /* for a place, in order */
    PROCESSING_BEGIN,   /* the store: in_progress -> processing, and the conversation as it is */
    PROCESSING_WORK,    /* the parts, side by side */
    PROCESSING_OFFER,   /* plugins enqueue; the queue's fence */
    PROCESSING_END,     /* the store: processing -> completed, skipped or failed */
    PROCESSING_RETRY,   /* a pause */
};

/* What is made of a conversation, each independent of the others. */
enum processing_part { PART_GEOLOCATION, PART_SUMMARY, PARTS };
enum part_state {
    PART_OPEN,
    PART_UNDER_WAY, /* asked for, or on its way to the store */
    PART_DONE,
    PART_AGAIN, /* failed */
};

struct processing {
    uint32_t magic;
    enum processing_state state;
    struct list link; /* sessions.waiting while WAITING */
    struct sessions *ss;
    char id[37];
    char *uid;
    struct store_conversation *conversation; /* from BEGIN on */
    enum part_state part[PARTS];
    bool starting;     /* the parts are being begun */
    bool gone;         /* deleted meanwhile */
    bool store_lost;   /* what a part has made could not be kept */
    bool closed;       /* the plugin stopped: nobody is to blame */
    bool nothing;      /* there is nothing to process in it */
    char *summary;     /* JSON; NULL: not made yet */
    bool summary_kept; /* the store has it */
    struct geolocation *locating;
    char *geolocation;       /* JSON, on its way to the store */
    struct host_ask *ask;    /* the question under way */
    const char *fallback;    /* why the summary is made here; static */
    struct buf extract;      /* made by the executor's thread */
    bool extracting;         /* that thread may still use this struct */
    bool extracted;          /* and what came of it */
    enum store_status to;    /* of END */
    char error[256];         /* of the last failure */
    unsigned failures;       /* those of the store itself aside */
    unsigned store_failures; /* in a row */
    uint64_t began_ms;
    ev_timer retry;
};
#define PROCESSING_MAGIC UINT32_C(0x70726f63)
#define PROCESSING_MODULE "processing"

/* ---- processing.c ---- */
void processing_set_state(struct processing *p, enum processing_state to);
/* It leaves memory; another one may begin. */
void processing_finish(struct processing *p);
/* A step failed: a pause, or the end of all attempts. why may be NULL. */
void processing_again(struct processing *p, const char *step, const char *why);
/* The same for a step of the store: tried until the store can be written again. */
void processing_store_failed(struct processing *p, const char *step);
/* Nobody is to blame: put off to the next start, or for a moment. */
void processing_put_off(struct processing *p);

/* ---- processing_steps.c ---- */
void processing_begin(struct processing *p); /* has a place */
/* A part has ended. */
void processing_part_end(struct processing *p, enum processing_part part, enum part_state state);
/* Nobody waits for plugins any more: it goes on with the next start. */
void processing_parts_cancel(struct processing *p);
/* Its last step: kept with this status, and with p->error when that is FAILED. */
void processing_end(struct processing *p, enum store_status to);
/* The conversation as it will be with this status. false: no memory. */
bool processing_json(struct processing *p, enum store_status status, struct buf *out);

/* ---- processing_geolocation.c ---- */
void processing_geolocation_begin(struct processing *p);

/* ---- processing_summary.c ---- */
void processing_summary_begin(struct processing *p);

#endif
