/*
 * The writer thread of a SQLite file: operations from any thread, run in their order, many to a transaction (group
 * commit), answered after the commit.
 *
 * A group is what waits when the writer gets to it: at once when the last commit began at least commit_ms ago or
 * somebody kicks, else when commit_ms are over. When a group fails (full disk, one bad operation), it is rolled back
 * and its operations run again one by one, each in a transaction of its own: a poisonous one fails alone.
 */
#ifndef OMID_BASE_DBWRITER_H
#define OMID_BASE_DBWRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/db.h"
#include "base/metrics.h"

struct db_writer;

/* Embedded in the caller's struct; the writer's from post to done(). */
struct db_op {
    struct db_op *next;
    /* Writer's thread, within a transaction. OMID_OK: its changes are wanted. OMID_ERR: the database failed, the
     * transaction is rolled back. Any other: refused, and it changed nothing. May be called a second time, after a
     * rollback: it must set again all it has set. */
    int (*run)(void *ctx, struct db_op *op);
    /* Writer's thread, after the commit (result of run()) or its failure (OMID_ERR). Frees the op. */
    void (*done)(void *ctx, struct db_op *op, int result);
    size_t bytes; /* what it holds, for the bound */
};

struct db_writer_config {
    const char *name; /* of the thread */
    struct db *db;    /* stays the caller's; untouched by others from start to stop */
    uint32_t commit_ms;
    size_t max_ops, max_bytes; /* waiting, beyond which db_writer_post() refuses */
    void *ctx;
    struct metric *commit_seconds; /* histogram */
    /* All on the writer's thread; may be NULL. */
    /* Is the file usable? Asked until it says so, as often as a disk that fails is tried; until then nothing else here
     * is called, and what is posted fails with OMID_ERR. false: db_error() says why. NULL: it is. */
    bool (*ready)(void *ctx);
    /* A transaction begins: what run() remembered of a former one that did not commit is void. */
    void (*begin)(void *ctx);
    /* Before each turn: operations of its own (linked by next) that are to be committed now; NULL: none. */
    struct db_op *(*prepare)(void *ctx);
    /* When is prepare() to be asked again though nothing comes? Milliseconds from now; negative: not. */
    int64_t (*next_ms)(void *ctx);
    int extra_fd; /* readable: wakes the writer too (prepare() reads it); -1: none */
};

struct db_writer *db_writer_new(const struct db_writer_config *config);
bool db_writer_start(struct db_writer *w); /* false: errno */
/* Runs all that was posted, then ends the thread. What comes later is refused with OMID_ECLOSED. */
void db_writer_stop(struct db_writer *w);
void db_writer_free(struct db_writer **w);

/* Any thread. OMID_OK, or refused and not taken: OMID_EFULL (bounds), OMID_ECLOSED (stopped). Before the start it
 * waits. */
int db_writer_post(struct db_writer *w, struct db_op *op);
/* Beyond the bounds: for what is bounded by something else. false: stopped. */
bool db_writer_post_always(struct db_writer *w, struct db_op *op);
/* Any thread: no waiting for the group now. */
void db_writer_kick(struct db_writer *w);
/* Any thread: so many milliseconds after the last group that has changed something the file's cache is freed, and what
 * those that only look then leave in it is kept as long; 0, as it begins: never. */
void db_writer_set_idle(struct db_writer *w, uint32_t ms);

struct db_writer_stats {
    uint64_t commits, failed_commits, ops, failed_ops, refused;
    size_t waiting, waiting_bytes;
};
void db_writer_stats(struct db_writer *w, struct db_writer_stats *out); /* any thread */
/* Any thread: "" when the last commit succeeded, else why not. While failing, the disk is tried every few seconds. */
void db_writer_health(struct db_writer *w, char *err, size_t errlen);

#endif
