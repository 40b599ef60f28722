#include "store/days.h"

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/store_int.h"

#define MAX_ROWS 1000
#define MAX_UID 1024

/* One call for all: rows are plans or days. */
struct day_call {
    struct store_call call;
    enum store_stmt what;
    char *uid, *timezone, *summary, *conversations;
    char date[ZONE_DATE_SIZE];
    int at, enabled;
    bool clear;
    int64_t now_ms, far_ms, since_ms, until_ms;
    size_t max, n;
    struct store_day_plan *plan;
    struct store_day *day;
    void (*on_result)(void *arg, int result);
    void (*on_plan)(void *arg, int result, const struct store_day_plan *plan);
    void (*on_plans)(void *arg, int result, const struct store_day_plan *plan, size_t n);
    void (*on_day)(void *arg, int result, const struct store_day *day);
    void (*on_days)(void *arg, int result, const struct store_day *day, size_t n);
};

static void rows_clear(struct day_call *d)
{
    for (size_t i = 0; d->plan && i < d->n; i++) {
        free(d->plan[i].uid);
        free(d->plan[i].timezone);
    }
    for (size_t i = 0; d->day && i < d->n; i++) {
        free(d->day[i].uid);
        free(d->day[i].timezone);
        free(d->day[i].summary);
    }
    d->n = 0;
}

static void day_drop(struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    rows_clear(d);
    free(d->plan);
    free(d->day);
    free(d->uid);
    free(d->timezone);
    free(d->summary);
    free(d->conversations);
    free(d);
}

static void day_answer(struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    int result = call->result;
    if (result != OMID_OK)
        rows_clear(d);
    if (d->on_plan)
        d->on_plan(call->arg, result, d->n ? d->plan : NULL);
    else if (d->on_plans)
        d->on_plans(call->arg, result, d->plan, d->n);
    else if (d->on_day)
        d->on_day(call->arg, result, d->n ? d->day : NULL);
    else if (d->on_days)
        d->on_days(call->arg, result, d->day, d->n);
    else if (d->on_result)
        d->on_result(call->arg, result);
}

/* ---------------------------------------------------------------- rows */

static int int_or(sqlite3_stmt *st, int col, int otherwise)
{
    return sqlite3_column_type(st, col) == SQLITE_NULL ? otherwise : sqlite3_column_int(st, col);
}

static bool text_or_null(sqlite3_stmt *st, int col, char **out)
{
    *out = db_col_dup(st, col);
    return *out != NULL || sqlite3_column_type(st, col) == SQLITE_NULL;
}

static bool plan_row(struct day_call *d, sqlite3_stmt *st)
{
    struct store_day_plan *p = &d->plan[d->n++];
    *p = (struct store_day_plan){.at = int_or(st, 2, -1),
                                 .enabled = int_or(st, 3, -1),
                                 .next_ms = sqlite3_column_int64(st, 4),
                                 .since_ms = sqlite3_column_int64(st, 5)};
    bool uid = text_or_null(st, 0, &p->uid) && p->uid;
    return text_or_null(st, 1, &p->timezone) && uid;
}

static bool day_row(struct day_call *d, sqlite3_stmt *st)
{
    struct store_day *y = &d->day[d->n++];
    *y = (struct store_day){.created_ms = sqlite3_column_int64(st, 3),
                            .sent = sqlite3_column_int(st, 4) != 0,
                            .until_ms = sqlite3_column_int64(st, 6)};
    bool uid = text_or_null(st, 0, &y->uid) && y->uid;
    const char *date = db_col_str(st, 1);
    strncpy(y->date, date ? date : "", sizeof(y->date) - 1);
    bool zone = text_or_null(st, 2, &y->timezone) && y->timezone;
    return text_or_null(st, 5, &y->summary) && uid && zone;
}

static int rows_read(struct store *s, struct day_call *d, sqlite3_stmt *st)
{
    int r = 0;
    while (d->n < d->max && (r = db_step(s->db, st)) > 0) {
        if (!(d->plan ? plan_row(d, st) : day_row(d, st))) {
            sqlite3_reset(st);
            db_set_error(s->db, "no memory");
            return OMID_ERR;
        }
    }
    if (d->n == d->max)
        sqlite3_reset(st);
    else if (r < 0)
        return OMID_ERR;
    return OMID_OK;
}

static int read_run(struct store *s, struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    rows_clear(d);
    sqlite3_stmt *st = db_stmt(s->db, d->what);
    switch (d->what) {
    case SS_DAY_PLANS_DUE:
        sqlite3_bind_int64(st, 1, d->now_ms);
        sqlite3_bind_int64(st, 2, d->far_ms);
        sqlite3_bind_int64(st, 3, (int64_t)d->max);
        break;
    case SS_DAY_PLAN_OF:
        db_bind_str(st, 1, d->uid);
        break;
    default:
        sqlite3_bind_int64(st, 1, (int64_t)d->max);
        break;
    }
    return rows_read(s, d, st);
}

static int claim_run(struct store *s, struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    rows_clear(d);
    sqlite3_stmt *st = db_stmt(s->db, SS_DAY_BEGIN);
    db_bind_str(st, 1, d->uid);
    db_bind_str(st, 2, d->date);
    db_bind_str(st, 3, d->timezone);
    sqlite3_bind_int64(st, 4, d->now_ms);
    sqlite3_bind_int64(st, 5, d->until_ms);
    if (!db_run(s->db, st))
        return OMID_ERR;
    st = db_stmt(s->db, SS_DAY_OF);
    db_bind_str(st, 1, d->uid);
    db_bind_str(st, 2, d->date);
    return rows_read(s, d, st);
}

static void bind_int_or_null(sqlite3_stmt *st, int at, int value)
{
    if (value < 0)
        sqlite3_bind_null(st, at);
    else
        sqlite3_bind_int(st, at, value);
}

static int write_run(struct store *s, struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    sqlite3_stmt *st = db_stmt(s->db, d->what);
    switch (d->what) {
    case SS_DAY_PLAN_SET:
    case SS_DAY_PLAN_REPLACE:
        db_bind_str(st, 1, d->uid);
        db_bind_str(st, 2, d->timezone);
        bind_int_or_null(st, 3, d->at);
        bind_int_or_null(st, 4, d->enabled);
        sqlite3_bind_int64(st, 5, d->since_ms);
        break;
    case SS_DAY_PLAN_NEXT:
        db_bind_str(st, 1, d->uid);
        sqlite3_bind_int64(st, 2, d->now_ms);
        sqlite3_bind_int64(st, 3, d->since_ms);
        break;
    case SS_DAY_PLAN_TOUCH:
        db_bind_str(st, 1, d->uid);
        sqlite3_bind_int64(st, 2, d->since_ms);
        break;
    case SS_DAY_PRUNE:
        sqlite3_bind_int64(st, 1, d->now_ms);
        sqlite3_bind_int64(st, 2, (int64_t)d->max);
        break;
    case SS_DAY_PLANS_RESET:
        break;
    default:
        break;
    }
    return db_run(s->db, st) ? OMID_OK : OMID_ERR;
}

static bool of_day_run(struct store *s, const struct day_call *d, enum store_stmt what, const char *third)
{
    sqlite3_stmt *st = db_stmt(s->db, what);
    db_bind_str(st, 1, d->uid);
    db_bind_str(st, 2, d->date);
    if (third)
        db_bind_str(st, 3, third);
    return db_run(s->db, st);
}

/* A day and the marks on its conversations, together. */
static int change_run(struct store *s, struct store_call *call)
{
    struct day_call *d = container_of(call, struct day_call, call);
    if (!of_day_run(s, d, d->what, d->what == SS_DAY_KEEP ? d->summary : NULL))
        return OMID_ERR;
    if (db_changes(s->db) == 0)
        return OMID_ENOTSUP;
    bool ok = true;
    if (d->conversations)
        ok = of_day_run(s, d, SS_DAY_TELL, d->conversations);
    else if (d->what == SS_DAY_DROP)
        ok = of_day_run(s, d, SS_DAY_UNTELL, NULL);
    return ok ? OMID_OK : OMID_ERR;
}

/* ---------------------------------------------------------------- doors */

static bool copy(char **to, const char *s)
{
    *to = s ? strdup(s) : NULL;
    return s == NULL || *to != NULL;
}

static int day_post(struct store *s, const struct day_call *with, const char *uid, const char *date,
                    const char *timezone, const char *summary, const char *conversations, struct loop *loop, void *arg)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    if ((uid && (uid[0] == '\0' || strlen(uid) > MAX_UID)) || (date && strlen(date) >= ZONE_DATE_SIZE) ||
        !store_text_ok(timezone) || !store_text_ok(summary) || with->max > MAX_ROWS)
        return OMID_EINVAL;
    struct day_call *d = malloc(sizeof(*d));
    if (d == NULL)
        return OMID_ERR;
    *d = *with;
    d->call.answer = day_answer;
    d->call.drop = day_drop;
    strcpy(d->date, date ? date : "");
    bool ok = copy(&d->uid, uid);
    ok = copy(&d->timezone, timezone) && ok;
    ok = copy(&d->summary, summary) && ok;
    ok = copy(&d->conversations, conversations) && ok;
    bool plans = d->on_plan || d->on_plans, days = d->on_day || d->on_days;
    d->plan = plans ? calloc(d->max, sizeof(*d->plan)) : NULL;
    d->day = days ? calloc(d->max, sizeof(*d->day)) : NULL;
    if (!ok || (plans && !d->plan) || (days && !d->day)) {
        day_drop(&d->call);
        return OMID_ERR;
    }
    size_t bytes = (summary ? strlen(summary) : 0) + (conversations ? strlen(conversations) : 0);
    return store_call_post(s, &d->call, loop, arg, sizeof(*d) + bytes + d->max * 64);
}

int store_day_plan_get(struct store *s, const char *uid, struct loop *loop,
                       void (*cb)(void *arg, int result, const struct store_day_plan *plan), void *arg)
{
    const struct day_call with = {.call.run = read_run, .what = SS_DAY_PLAN_OF, .max = 1, .on_plan = cb};
    return day_post(s, &with, uid, NULL, NULL, NULL, NULL, loop, arg);
}

int store_day_plan_set(struct store *s, const struct store_day_plan *plan, bool clear, struct loop *loop,
                       void (*cb)(void *arg, int result), void *arg)
{
    const struct day_call with = {.call.run = write_run,
                                  .what = clear ? SS_DAY_PLAN_REPLACE : SS_DAY_PLAN_SET,
                                  .at = plan->at,
                                  .enabled = plan->enabled,
                                  .since_ms = plan->since_ms,
                                  .on_result = cb};
    return day_post(s, &with, plan->uid, NULL, plan->timezone, NULL, NULL, loop, arg);
}

int store_day_plan_touch(struct store *s, const char *uid, int64_t since_ms)
{
    const struct day_call with = {.call.run = write_run, .what = SS_DAY_PLAN_TOUCH, .since_ms = since_ms};
    return day_post(s, &with, uid, NULL, NULL, NULL, NULL, NULL, NULL);
}

int store_day_plan_next(struct store *s, const char *uid, int64_t next_ms, int64_t since_ms)
{
    const struct day_call with = {
        .call.run = write_run, .what = SS_DAY_PLAN_NEXT, .now_ms = next_ms, .since_ms = since_ms};
    return day_post(s, &with, uid, NULL, NULL, NULL, NULL, NULL, NULL);
}

int store_day_plans_reset(struct store *s)
{
    const struct day_call with = {.call.run = write_run, .what = SS_DAY_PLANS_RESET};
    return day_post(s, &with, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
}

int store_day_plans_due(struct store *s, int64_t now_ms, int64_t far_ms, size_t max, struct loop *loop,
                        void (*cb)(void *arg, int result, const struct store_day_plan *plan, size_t n), void *arg)
{
    const struct day_call with = {
        .call.run = read_run, .what = SS_DAY_PLANS_DUE, .now_ms = now_ms, .far_ms = far_ms, .max = max, .on_plans = cb};
    return day_post(s, &with, NULL, NULL, NULL, NULL, NULL, loop, arg);
}

int store_day_claim(struct store *s, const char *uid, const char *date, const char *timezone, int64_t until_ms,
                    int64_t now_ms, struct loop *loop, void (*cb)(void *arg, int result, const struct store_day *day),
                    void *arg)
{
    const struct day_call with = {
        .call.run = claim_run, .what = SS_DAY_BEGIN, .now_ms = now_ms, .until_ms = until_ms, .max = 1, .on_day = cb};
    return day_post(s, &with, uid, date, timezone, NULL, NULL, loop, arg);
}

int store_day_change(struct store *s, const char *uid, const char *date, enum store_day_change change,
                     const char *summary, const char *conversations, struct loop *loop,
                     void (*cb)(void *arg, int result), void *arg)
{
    static const enum store_stmt what[] = {[STORE_DAY_KEEP] = SS_DAY_KEEP,
                                           [STORE_DAY_SENT] = SS_DAY_SENT,
                                           [STORE_DAY_EMPTY] = SS_DAY_DROP,
                                           [STORE_DAY_DROP] = SS_DAY_DROP};
    const struct day_call with = {.call.run = change_run, .what = what[change], .on_result = cb};
    return day_post(s, &with, uid, date, NULL, summary, conversations, cb ? loop : NULL, arg);
}

int store_days_open(struct store *s, size_t max, struct loop *loop,
                    void (*cb)(void *arg, int result, const struct store_day *day, size_t n), void *arg)
{
    const struct day_call with = {.call.run = read_run, .what = SS_DAYS_OPEN, .max = max, .on_days = cb};
    return day_post(s, &with, NULL, NULL, NULL, NULL, NULL, loop, arg);
}

int store_days_prune(struct store *s, int64_t before_ms, size_t max)
{
    const struct day_call with = {.call.run = write_run, .what = SS_DAY_PRUNE, .now_ms = before_ms, .max = max};
    return day_post(s, &with, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
}

/* ---------------------------------------------------------------- what a day holds */

/* The ids, in one piece of 37 bytes each; the caller frees. NULL: db_error(). */
static char *ids_read(struct db *db, const char *uid, enum store_day_which which, int64_t from_ms, int64_t to_ms,
                      size_t max, size_t *n)
{
    char *ids = malloc(max * 37);
    sqlite3_stmt *st = db_stmt(db, which == STORE_DAY_UNTOLD ? SS_DAY_UNTOLD : SS_DAY_CONVERSATIONS);
    int r = 0;
    *n = 0;
    if (ids == NULL) {
        db_set_error(db, "no memory");
        return NULL;
    }
    db_bind_str(st, 1, uid);
    sqlite3_bind_int64(st, 2, from_ms);
    sqlite3_bind_int64(st, 3, to_ms);
    sqlite3_bind_int64(st, 4, (int64_t)max);
    while (*n < max && (r = db_step(db, st)) > 0) {
        strncpy(ids + *n * 37, db_col_str(st, 0), 36);
        ids[(*n)++ * 37 + 36] = '\0';
    }
    if (*n == max)
        sqlite3_reset(st);
    else if (r < 0) {
        free(ids);
        ids = NULL;
    }
    return ids;
}

int store_day_each(struct store *s, const char *uid, enum store_day_which which, int64_t from_ms, int64_t to_ms,
                   size_t max, bool (*fn)(void *arg, const struct store_conversation *c), void *arg, char *err,
                   size_t errlen)
{
    CHECK_MAGIC(s, STORE_MAGIC);
    struct db *db = store_reader_take(s, err, errlen);
    if (db == NULL)
        return OMID_ERR;
    if (!db_exec(db, "BEGIN"))
        return store_read_failed(s, db, err, errlen);
    size_t n;
    char *ids = ids_read(db, uid, which, from_ms, to_ms, max, &n);
    if (ids == NULL)
        return store_read_failed(s, db, err, errlen);
    int r = OMID_OK;
    for (size_t i = 0; r == OMID_OK && i < n; i++) {
        struct store_conversation *c = NULL;
        int64_t row;
        r = store_conversation_read(db, ids + i * 37, false, &c, &row);
        if (c != NULL && !fn(arg, c))
            r = OMID_EFULL;
        store_conversation_free(&c);
    }
    free(ids);
    if (r == OMID_ERR || !db_exec(db, "COMMIT"))
        return store_read_failed(s, db, err, errlen);
    store_reader_give(s, db, false);
    return r;
}
