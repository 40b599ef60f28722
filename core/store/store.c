/*
 * Opening, the life of the thread, what is told to others.
 *
 * synchronous=FULL: against kill -9 alone NORMAL would do (a commit is in the kernel's hands by then). At a power cut
 * NORMAL would take back what was answered: a conversation that was deleted would be there again, one that was
 * completed would be processed again. Group commit bounds the price to one fsync per commit_ms.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/magic.h"
#include "store/store_int.h"
#include "store/values.h"

/* What may wait for the disk. Segments of 1,000 sessions for minutes; beyond it callers are told. */
#define INBOX_OPS 100000
#define INBOX_BYTES ((size_t)64 << 20)

static const double commit_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5};

static void collect(void *arg, struct buf *out)
{
    struct store *s = arg;
    struct db_writer_stats st;
    db_writer_stats(s->writer, &st);
    buf_printf(out,
               "# HELP omid_store_operations_total Calls of the store by result.\n"
               "# TYPE omid_store_operations_total counter\n"
               "omid_store_operations_total{result=\"ok\"} %llu\n"
               "omid_store_operations_total{result=\"failed\"} %llu\n"
               "omid_store_operations_total{result=\"refused\"} %llu\n"
               "# HELP omid_store_commits_total Transactions of the store by result.\n"
               "# TYPE omid_store_commits_total counter\n"
               "omid_store_commits_total{result=\"ok\"} %llu\n"
               "omid_store_commits_total{result=\"failed\"} %llu\n"
               "# HELP omid_store_waiting Calls that wait for the store's writer.\n"
               "# TYPE omid_store_waiting gauge\n"
               "omid_store_waiting %zu\n",
               (unsigned long long)(st.ops - st.failed_ops), (unsigned long long)st.failed_ops,
               (unsigned long long)st.refused, (unsigned long long)st.commits, (unsigned long long)st.failed_commits,
               st.waiting);
    buf_puts(out, "# HELP omid_store_conversations Conversations by status.\n# TYPE omid_store_conversations gauge\n");
    for (int i = 0; i < STORE_STATUSES; i++)
        buf_printf(out, "omid_store_conversations{status=\"%s\"} %lld\n", store_status_name((enum store_status)i),
                   (long long)atomic_load(&s->count[i]));
}

static bool load_counts(struct store *s)
{
    char sql[80];
    for (int i = 0; i < STORE_STATUSES; i++) {
        snprintf(sql, sizeof(sql), "SELECT count(*) FROM conversation WHERE status = %d", i);
        int64_t n = db_int(s->db, sql, -1);
        if (n < 0)
            return false;
        atomic_store(&s->count[i], n);
    }
    return true;
}

struct db_config store_db_config(const char *path)
{
    return (struct db_config){.path = path,
                              .what = "store",
                              .application_id = 0x6f6d6973, /* "omis" */
                              .migrations = store_migrations,
                              .n_migrations = store_n_migrations,
                              .statements = store_statements,
                              .n_statements = SS_STATEMENTS};
}

struct store *store_open(const struct store_config *config, bool *set_aside, char *err, size_t errlen)
{
    struct store *s = calloc(1, sizeof(*s));
    *set_aside = false;
    if (s == NULL || (s->path = strdup(config->path)) == NULL) {
        free(s);
        snprintf(err, errlen, "store: no memory");
        return NULL;
    }
    s->magic = STORE_MAGIC;
    pthread_mutex_init(&s->readers, NULL);
    struct db_config dc = store_db_config(s->path);
    s->db = db_open(&dc, set_aside, err, errlen);
    if (s->db == NULL) {
        store_free(&s);
        return NULL;
    }
    if (!load_counts(s)) {
        snprintf(err, errlen, "%s", db_error(s->db));
        store_free(&s);
        return NULL;
    }
    struct db_writer_config wc = {
        .name = "store_writer",
        .db = s->db,
        .commit_ms = config->commit_ms,
        .max_ops = INBOX_OPS,
        .max_bytes = INBOX_BYTES,
        .ctx = s,
        .commit_seconds = metric_get(METRIC_HISTOGRAM, "omid_store_commit_seconds",
                                     "Time of one transaction of the store, from begin to on disk.", NULL, 0,
                                     commit_bounds, ARRAY_LEN(commit_bounds)),
        .prepare = store_values_prepare,
        .next_ms = store_values_next,
        .extra_fd = -1,
    };
    s->values.max = config->max_values ? config->max_values : STORE_MAX_VALUES;
    s->values.max_bytes = config->max_value_bytes ? config->max_value_bytes : STORE_MAX_VALUE_BYTES;
    store_values_load(s);
    s->writer = db_writer_new(&wc);
    if (s->writer == NULL) {
        snprintf(err, errlen, "store: no memory or descriptors");
        store_free(&s);
        return NULL;
    }
    metrics_collector_add(collect, s);
    s->collecting = true;
    return s;
}

bool store_start(struct store *s)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    return db_writer_start(s->writer);
}

void store_stop(struct store *s)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    db_writer_stop(s->writer);
    s->stopped = true;
}

void store_free(struct store **sp)
{
    struct store *s = *sp;
    if (s == NULL)
        return;
    CHECK_MAGIC(s, STORE_MAGIC);
    if (s->writer != NULL && !s->stopped)
        store_stop(s);
    if (s->collecting)
        metrics_collector_remove(collect, s);
    db_writer_free(&s->writer);
    store_readers_close(s);
    db_close(&s->db);
    pthread_mutex_destroy(&s->readers);
    s->magic = OMID_MAGIC_DEAD;
    free(s->path);
    free(s);
    *sp = NULL;
}

void store_set_idle(struct store *s, uint32_t ms)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    db_writer_set_idle(s->writer, ms);
}

void store_health(struct store *s, char *err, size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    db_writer_health(s->writer, err, errlen);
}

/* ---------------------------------------------------------------- calls */

static int call_run(void *ctx, struct db_op *op)
{
    struct store_call *c = container_of(op, struct store_call, op);
    memset(c->delta, 0, sizeof(c->delta));
    return c->run(ctx, c);
}

static void call_answer(struct loop *loop, struct loop_msg *msg)
{
    struct store_call *c = container_of(msg, struct store_call, msg);
    (void)loop;
    c->answer(c);
    c->drop(c);
}

static void call_done(void *ctx, struct db_op *op, int result)
{
    struct store_call *c = container_of(op, struct store_call, op);
    struct store *s = ctx;
    c->result = result;
    for (int i = 0; result == OMID_OK && i < STORE_STATUSES; i++)
        atomic_fetch_add(&s->count[i], c->delta[i]);
    if (result == OMID_OK && c->committed != NULL)
        c->committed(s, c);
    if (c->loop == NULL) {
        if (result == OMID_ERR)
            log_warning("store", "a change that nobody waits for was lost: the disk failed");
        c->drop(c);
        return;
    }
    loop_post(c->loop, &c->msg);
}

int store_call_post(struct store *s, struct store_call *c, struct loop *loop, void *arg, size_t bytes)
{
    c->op.run = call_run;
    c->op.done = call_done;
    c->op.bytes = bytes;
    c->msg.fn = call_answer;
    c->loop = loop;
    c->arg = arg;
    int r = db_writer_post(s->writer, &c->op);
    if (r != OMID_OK)
        c->drop(c);
    return r;
}

bool store_text_ok(const char *s)
{
    return s == NULL || strnlen(s, STORE_MAX_STRING + 1) <= STORE_MAX_STRING;
}
