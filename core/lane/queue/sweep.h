/* Inside of replays and drops of many: shared by sweep.c, which does the work, and sweeps.c, which takes the orders. */
#ifndef OMID_LANE_QUEUE_SWEEP_H
#define OMID_LANE_QUEUE_SWEEP_H

#include "lane/queue/queue_int.h"

/* One that runs. */
struct sweep {
    struct list link;
    struct queue_sweep s; /* strings in text */
    char *text;
    int64_t at_died, at_id; /* the last one that was looked at */
    int64_t next_at;        /* monotonic ms */
    bool stepping;          /* a step is under way: it frees what was cancelled meanwhile */
};

/* From the row that QS_SWEEPS stands on; its strings are valid until the next step. */
void queue_sweep_read(sqlite3_stmt *st, struct queue_sweep *s);
/* Runs from now on; s is copied. NULL: no memory. */
struct sweep *queue_sweep_add(struct queue *q, const struct queue_sweep *s, int64_t at_died, int64_t at_id);
void queue_sweep_free(struct sweep *w);

#endif
