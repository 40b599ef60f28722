/* The store: the ends of conversations with what their steps make, plans and summaries of days. */
#include <CUnit/Basic.h>

#include "base/magic.h"
#include "store/days.h"
#include "store/store_int.h"
#include "unit.h"
#include "unit_db.h"

#define NOW INT64_C(1769860800000) /* 2026-01-31T12:00:00Z */
#define DAY INT64_C(86400000)

static char dir[64], path[96];
static struct loop *lp;
static struct store *s;

static int setup(void)
{
    char err[512];
    bool aside;
    snprintf(dir, sizeof dir, "/tmp/omid-days-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/store.db", dir);
    lp = loop_new("test");
    const struct store_config c = {.path = path, .commit_ms = 2};
    s = store_open(&c, &aside, err, sizeof err);
    return lp && loop_start(lp) && s && store_start(s) ? 0 : -1;
}

static int teardown(void)
{
    store_stop(s);
    loop_stop(lp);
    store_free(&s);
    loop_free(&lp);
    unit_rm_dir(dir);
    return 0;
}

/* ---------------------------------------------------------------- calls, waited for */

static struct {
    _Atomic int n;
    int result;
    size_t rows;
    char uid[40], zone[40], summary[80], id[37];
    int at, enabled, status;
    bool sent;
    int64_t when, since, until;
    unsigned failures;
} got;

static void come(int result)
{
    got.result = result;
    got.n++;
}
static void on_result(void *arg, int result)
{
    (void)arg;
    come(result);
}
static void on_opened(void *arg, struct store_opened *o)
{
    (void)arg;
    snprintf(got.id, sizeof got.id, "%s", o->conversation->id);
    come(o->result);
}
static void on_begun(void *arg, int result, struct store_conversation *c, struct store_progress *p)
{
    (void)arg;
    got.status = c ? (int)c->status : -1;
    got.failures = p->failures;
    snprintf(got.summary, sizeof got.summary, "%s", p->summary ? p->summary : "");
    store_conversation_free(&c);
    come(result);
}
static void plan_seen(const struct store_day_plan *p)
{
    snprintf(got.uid, sizeof got.uid, "%s", p->uid);
    snprintf(got.zone, sizeof got.zone, "%s", p->timezone ? p->timezone : "");
    got.at = p->at;
    got.enabled = p->enabled;
    got.when = p->next_ms;
    got.since = p->since_ms;
}
static void on_plan(void *arg, int result, const struct store_day_plan *p)
{
    (void)arg;
    got.rows = p ? 1 : 0;
    if (p)
        plan_seen(p);
    come(result);
}
static void on_plans(void *arg, int result, const struct store_day_plan *p, size_t n)
{
    (void)arg;
    got.rows = n;
    if (n)
        plan_seen(p);
    come(result);
}
static void on_days(void *arg, int result, const struct store_day *d, size_t n)
{
    (void)arg;
    got.rows = n;
    if (n) {
        snprintf(got.summary, sizeof got.summary, "%s", d->summary ? d->summary : "");
        snprintf(got.zone, sizeof got.zone, "%s", d->timezone);
        got.sent = d->sent;
        got.when = d->created_ms;
        got.until = d->until_ms;
    }
    come(result);
}
static void on_day(void *arg, int result, const struct store_day *d)
{
    on_days(arg, result, d, d ? 1 : 0);
}

/* The call is taken, and answered so. */
#define ANSWERED(call, expected)               \
    do {                                       \
        int n_ = got.n;                        \
        CU_ASSERT_EQUAL_FATAL(call, 0);        \
        CU_ASSERT_FATAL(WAIT_FOR(got.n > n_)); \
        CU_ASSERT_EQUAL(got.result, expected); \
    } while (0)

/* ---------------------------------------------------------------- ends of conversations */

static void begin(void)
{
    ANSWERED(store_processing_begin(s, got.id, lp, on_begun, NULL), OMID_OK);
}

static void test_end(void)
{
    const struct store_open_params p = {
        .uid = "ann", .language = "en", .source = "t", .now_ms = NOW, .timeout_ms = 1000};
    ANSWERED(store_conversation_open(s, &p, lp, on_opened, NULL), OMID_OK);
    /* Not yet processed: nothing is kept of it. */
    ANSWERED(store_processing_keep(s, got.id, "{}", lp, on_result, NULL), OMID_ENOTSUP);
    begin();
    CU_ASSERT_EQUAL(got.status, STORE_PROCESSING);
    CU_ASSERT_EQUAL(got.failures, 0);
    CU_ASSERT_STRING_EQUAL(got.summary, "");
    CU_ASSERT_EQUAL(store_processing_failed(s, got.id, 3), OMID_OK);
    ANSWERED(store_processing_keep(s, got.id, "{\"title\":1}", lp, on_result, NULL), OMID_OK);
    begin(); /* as after a crash */
    CU_ASSERT_EQUAL(got.failures, 3);
    CU_ASSERT_STRING_EQUAL(got.summary, "{\"title\":1}");
    ANSWERED(store_status_set(s, got.id, STORE_PROCESSING, STORE_FAILED, NULL, "given up", lp, on_result, NULL),
             OMID_OK);
    begin();
    CU_ASSERT_EQUAL(got.status, STORE_FAILED);
    CU_ASSERT_STRING_EQUAL(got.summary, ""); /* the end has taken it */
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM process"), 0);
    ANSWERED(store_processing_keep(s, got.id, "{}", lp, on_result, NULL), OMID_ENOTSUP);
    /* Once more: as if nothing had been. */
    ANSWERED(store_processing_again(s, got.id, "ben", lp, on_result, NULL), OMID_ENOTSUP);
    ANSWERED(store_processing_again(s, got.id, "ann", lp, on_result, NULL), OMID_OK);
    begin();
    CU_ASSERT_EQUAL(got.status, STORE_PROCESSING);
    CU_ASSERT_EQUAL(got.failures, 0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM conversation WHERE error IS NULL"), 1);
    ANSWERED(store_processing_again(s, got.id, "ann", lp, on_result, NULL), OMID_OK); /* it is */
    ANSWERED(store_status_set(s, got.id, STORE_PROCESSING, STORE_COMPLETED, "{}", NULL, lp, on_result, NULL), OMID_OK);
    ANSWERED(store_conversation_open(s, &p, lp, on_opened, NULL), OMID_OK);
    ANSWERED(store_processing_again(s, got.id, "ann", lp, on_result, NULL), OMID_EFULL);
    strcpy(got.id, "00000000-0000-4000-8000-000000000000");
    begin();
    CU_ASSERT_EQUAL(got.status, -1);
    ANSWERED(store_processing_again(s, got.id, "ann", lp, on_result, NULL), OMID_ENOTSUP);
}

/* ---------------------------------------------------------------- plans */

static void due(int64_t now, size_t expected)
{
    ANSWERED(store_day_plans_due(s, now, now + 2 * DAY, 10, lp, on_plans, NULL), OMID_OK);
    CU_ASSERT_EQUAL(got.rows, expected);
}

static void test_plans(void)
{
    ANSWERED(store_day_plan_get(s, "bea", lp, on_plan, NULL), OMID_OK);
    CU_ASSERT_EQUAL(got.rows, 0);
    due(NOW, 0);
    CU_ASSERT_EQUAL(store_day_plan_touch(s, "bea", NOW - 7), OMID_OK);
    due(NOW, 1);
    CU_ASSERT_EQUAL(got.since, NOW - 7);
    CU_ASSERT_EQUAL(got.at, -1);
    CU_ASSERT_EQUAL(got.enabled, -1);
    CU_ASSERT_EQUAL(store_day_plan_next(s, "bea", NOW + DAY, NOW - 9), OMID_OK);
    CU_ASSERT_EQUAL(store_day_plan_touch(s, "bea", NOW), OMID_OK); /* it stays as it is */
    due(NOW, 0);
    due(NOW + DAY, 1);
    due(NOW - 2 * DAY, 1); /* further away than may be: the clock was set back */
    const struct store_day_plan zone = {
        .uid = "bea", .timezone = "Asia/Tokyo", .at = -1, .enabled = -1, .since_ms = NOW};
    const struct store_day_plan at = {.uid = "bea", .at = 425, .enabled = 0};
    ANSWERED(store_day_plan_set(s, &zone, false, lp, on_result, NULL), OMID_OK);
    ANSWERED(store_day_plan_set(s, &at, false, lp, on_result, NULL), OMID_OK);
    due(NOW, 1); /* at once */
    CU_ASSERT_STRING_EQUAL(got.zone, "Asia/Tokyo");
    CU_ASSERT_EQUAL(got.at, 425);
    CU_ASSERT_EQUAL(got.enabled, 0);
    ANSWERED(store_day_plan_set(s, &zone, true, lp, on_result, NULL), OMID_OK);
    ANSWERED(store_day_plan_get(s, "bea", lp, on_plan, NULL), OMID_OK);
    CU_ASSERT_EQUAL(got.at, -1);
    CU_ASSERT_EQUAL(store_day_plan_next(s, "bea", NOW + DAY, NOW - 5), OMID_OK);
    CU_ASSERT_EQUAL(store_day_plans_reset(s), OMID_OK);
    due(NOW, 1);
    CU_ASSERT_EQUAL(got.since, NOW - 5); /* it only rises, and changes of the plan leave it */
    const struct store_day_plan nobody = {.uid = "", .at = -1, .enabled = -1};
    CU_ASSERT_EQUAL(store_day_plan_set(s, &nobody, false, lp, on_result, NULL), OMID_EINVAL);
    CU_ASSERT_EQUAL(store_day_plans_due(s, NOW, NOW, 100000, lp, on_plans, NULL), OMID_EINVAL);
}

/* ---------------------------------------------------------------- days */

static void claim(int64_t now)
{
    ANSWERED(store_day_claim(s, "cid", "2026-01-31", "UTC", now - 1, now, lp, on_day, NULL), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(got.rows, 1);
}

static void change(enum store_day_change what, const char *summary, int expected)
{
    ANSWERED(store_day_change(s, "cid", "2026-01-31", what, summary, what == STORE_DAY_KEEP ? "[]" : NULL, lp,
                              on_result, NULL),
             expected);
}

static void test_days(void)
{
    change(STORE_DAY_KEEP, "{}", OMID_ENOTSUP);
    claim(NOW);
    CU_ASSERT_FALSE(got.sent);
    change(STORE_DAY_DROP, NULL, OMID_OK);
    claim(NOW + 5);
    change(STORE_DAY_KEEP, "{\"n\":1}", OMID_OK);
    claim(NOW + 1000); /* as after a crash: the same one */
    CU_ASSERT_EQUAL(got.when, NOW + 5);
    CU_ASSERT_EQUAL(got.until, NOW + 4);
    CU_ASSERT_STRING_EQUAL(got.summary, "{\"n\":1}");
    ANSWERED(store_days_open(s, 10, lp, on_days, NULL), OMID_OK);
    CU_ASSERT_EQUAL(got.rows, 1);
    change(STORE_DAY_SENT, NULL, OMID_OK);
    change(STORE_DAY_SENT, NULL, OMID_ENOTSUP);
    change(STORE_DAY_DROP, NULL, OMID_ENOTSUP);
    claim(NOW + 2000);
    CU_ASSERT_TRUE(got.sent);
    ANSWERED(store_days_open(s, 10, lp, on_days, NULL), OMID_OK);
    CU_ASSERT_EQUAL(got.rows, 0);
    CU_ASSERT_EQUAL(store_days_prune(s, NOW, 10), OMID_OK);
    claim(NOW + 3000);
    CU_ASSERT_TRUE(got.sent); /* not that old */
    CU_ASSERT_EQUAL(store_days_prune(s, NOW + DAY, 10), OMID_OK);
    claim(NOW + DAY);
    CU_ASSERT_FALSE(got.sent);
}

struct seen {
    unsigned n, max;
    char titles[80];
};

static bool on_conversation(void *arg, const struct store_conversation *c)
{
    struct seen *seen = arg;
    strncat(seen->titles, c->source, sizeof seen->titles - strlen(seen->titles) - 1);
    return ++seen->n < seen->max;
}

static void conversation(const char *uid, int nr, const char *source, int64_t started, int64_t finished, int status)
{
    char sql[400];
    snprintf(sql, sizeof sql,
             "INSERT INTO conversation(id, uid, language, source, status, created, started, finished, timeout)"
             " VALUES('%s-%d', '%s', 'en', '%s', %d, 1, %lld, %lld, 1)",
             uid, nr, uid, source, status, (long long)started, (long long)finished);
    CU_ASSERT_FATAL(unit_sql(path, sql));
}

/* Their sources, in the order in which they came; stops after `stop` of them. */
static const char *each(const char *uid, enum store_day_which which, int64_t from, int64_t to, size_t max,
                        unsigned stop, int expected)
{
    static struct seen seen;
    char err[200];
    seen = (struct seen){.max = stop};
    CU_ASSERT_EQUAL(store_day_each(s, uid, which, from, to, max, on_conversation, &seen, err, sizeof err), expected);
    return seen.titles;
}

/* Completed ones that began within the day, in their order. */
static void test_what_a_day_holds(void)
{
    static const struct {
        const char *source;
        int64_t started;
        int status;
    } rows[] = {{"c", NOW + 3, 2},   {"a", NOW, 2},     {"x", NOW - 1, 2}, {"b", NOW + 2, 2},
                {"y", NOW + DAY, 2}, {"z", NOW + 1, 1}, {"w", NOW + 1, 4}, {"d", NOW + DAY - 1, 2}};
    for (int i = 0; i < (int)ARRAY_LEN(rows); i++)
        conversation("dan", i, rows[i].source, rows[i].started, rows[i].started + 1000, rows[i].status);
    const enum store_day_which began = STORE_DAY_BEGAN;
    CU_ASSERT_STRING_EQUAL(each("dan", began, NOW, NOW + DAY, 10, 100, OMID_OK), "abcd");
    CU_ASSERT_STRING_EQUAL(each("dan", began, NOW, NOW + DAY, 2, 100, OMID_OK), "ab");
    CU_ASSERT_STRING_EQUAL(each("dan", began, NOW, NOW + DAY, 9, 1, OMID_EFULL), "a");
    CU_ASSERT_STRING_EQUAL(each("eve", began, NOW, NOW + DAY, 9, 100, OMID_OK), "");
}

static const char *untold(int64_t since, int64_t until)
{
    return each("fay", STORE_DAY_UNTOLD, since, until, 10, 100, OMID_OK);
}

static void change_of(const char *date, enum store_day_change what, const char *conversations, int expected)
{
    ANSWERED(store_day_change(s, "fay", date, what, what == STORE_DAY_KEEP ? "{}" : NULL, conversations, lp, on_result,
                              NULL),
             expected);
}

/* Each conversation is in one summary: from its commit on, unless that is given up. */
static void test_what_was_told(void)
{
    conversation("fay", 0, "a", NOW, NOW + 10, 2);
    conversation("fay", 1, "b", NOW + 1, NOW + 20, 0);    /* still under way */
    conversation("fay", 2, "c", NOW - DAY, NOW + 2, 2);   /* a recording that came late */
    conversation("fay", 3, "d", NOW + 100, NOW + 110, 2); /* after the moment */
    conversation("fay", 4, "e", NOW - 900, NOW - 500, 2); /* before summaries were wanted */
    conversation("gus", 5, "f", NOW, NOW + 10, 2);
    CU_ASSERT_STRING_EQUAL(untold(NOW - 100, NOW + 100), "ca");
    ANSWERED(store_day_claim(s, "fay", "2026-02-01", "UTC", NOW + 100, NOW, lp, on_day, NULL), OMID_OK);
    change_of("2026-02-01", STORE_DAY_KEEP, "[\"fay-0\",\"fay-2\",\"gus-5\"]", OMID_OK);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM conversation WHERE day = '2026-02-01'"), 2);
    CU_ASSERT_STRING_EQUAL(untold(NOW - 100, NOW + 100), "");
    change_of("2026-02-01", STORE_DAY_DROP, NULL, OMID_OK); /* it could not be sent: the next one tells of them */
    CU_ASSERT_STRING_EQUAL(untold(NOW - 100, NOW + 100), "ca");
    ANSWERED(store_day_claim(s, "fay", "2026-02-02", "UTC", NOW + 100, NOW, lp, on_day, NULL), OMID_OK);
    change_of("2026-02-02", STORE_DAY_KEEP, "[\"fay-0\"]", OMID_OK);
    change_of("2026-02-02", STORE_DAY_SENT, NULL, OMID_OK);
    change_of("2026-02-02", STORE_DAY_DROP, NULL, OMID_ENOTSUP); /* and nothing is forgotten of one that was */
    CU_ASSERT(unit_sql(path, "UPDATE conversation SET status = 2 WHERE id = 'fay-1'"));
    CU_ASSERT_STRING_EQUAL(untold(NOW - 100, NOW + 100), "cb");
    ANSWERED(store_day_claim(s, "fay", "2026-02-03", "UTC", NOW + 200, NOW, lp, on_day, NULL), OMID_OK);
    change_of("2026-02-03", STORE_DAY_EMPTY, "[\"fay-1\",\"fay-0\"]", OMID_OK);
    CU_ASSERT_STRING_EQUAL(untold(NOW - 100, NOW + 200), "cd");
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM conversation WHERE day = '2026-02-02'"), 1);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM day_summary WHERE date = '2026-02-03'"), 0);
}

/* A file of before: who has a plan is told of what came after the last summary, not of all that ever was. */
static void test_schema_9(void)
{
    char old[96], err[512], sql[400];
    bool aside;
    int64_t now = clock_wall_ms();
    snprintf(old, sizeof old, "%s/old.db", dir);
    const struct db_config v9 = {
        .path = old, .what = "store", .application_id = 1869441395, .migrations = store_migrations, .n_migrations = 9};
    struct db *db = db_open(&v9, &aside, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(db);
    snprintf(
        sql, sizeof sql,
        "INSERT INTO day_plan(uid, next) VALUES('ann', 5), ('bob', 6);"
        "INSERT INTO day_summary(uid, date, timezone, created, status) VALUES('ann', '2026-01-01', 'UTC', %lld, 1),"
        " ('ann', '2025-12-31', 'UTC', 1, 0)",
        (long long)now);
    CU_ASSERT(db_exec(db, sql));
    db_close(&db);
    const struct store_config c = {.path = old, .commit_ms = 2};
    struct store *st = store_open(&c, &aside, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(st);
    store_free(&st);
    CU_ASSERT_EQUAL(unit_sql_int(old, "PRAGMA user_version"), 13);
    CU_ASSERT_EQUAL(unit_sql_int(old, "SELECT since FROM day_plan WHERE uid = 'ann' AND next = 5"), now);
    int64_t since = unit_sql_int(old, "SELECT since FROM day_plan WHERE uid = 'bob'");
    CU_ASSERT(since >= now - DAY - 1000 && since <= clock_wall_ms() - DAY);
    CU_ASSERT_EQUAL(unit_sql_int(old, "SELECT sum(until) FROM day_summary"), 0);
}

int main(void)
{
    CU_TestInfo tests[] = {{"the end of a conversation", test_end},
                           {"plans", test_plans},
                           {"days", test_days},
                           {"what a day holds", test_what_a_day_holds},
                           {"what was told", test_what_was_told},
                           {"a file of before", test_schema_9},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {
        {.pName = "days in the store", .pInitFunc = setup, .pCleanupFunc = teardown, .pTests = tests},
        CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
