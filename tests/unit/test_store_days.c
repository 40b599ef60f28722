/* The store: the ends of conversations with what their steps make, plans and summaries of days. */
#include <CUnit/Basic.h>

#include "base/magic.h"
#include "store/days.h"
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
    int64_t when;
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
    CU_ASSERT_EQUAL(store_day_plan_touch(s, "bea"), OMID_OK);
    due(NOW, 1);
    CU_ASSERT_EQUAL(got.at, -1);
    CU_ASSERT_EQUAL(got.enabled, -1);
    CU_ASSERT_EQUAL(store_day_plan_next(s, "bea", NOW + DAY), OMID_OK);
    CU_ASSERT_EQUAL(store_day_plan_touch(s, "bea"), OMID_OK); /* it stays as it is */
    due(NOW, 0);
    due(NOW + DAY, 1);
    due(NOW - 2 * DAY, 1); /* further away than may be: the clock was set back */
    const struct store_day_plan zone = {.uid = "bea", .timezone = "Asia/Tokyo", .at = -1, .enabled = -1};
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
    CU_ASSERT_EQUAL(store_day_plan_next(s, "bea", NOW + DAY), OMID_OK);
    CU_ASSERT_EQUAL(store_day_plans_reset(s), OMID_OK);
    due(NOW, 1);
    const struct store_day_plan nobody = {.uid = "", .at = -1, .enabled = -1};
    CU_ASSERT_EQUAL(store_day_plan_set(s, &nobody, false, lp, on_result, NULL), OMID_EINVAL);
    CU_ASSERT_EQUAL(store_day_plans_due(s, NOW, NOW, 100000, lp, on_plans, NULL), OMID_EINVAL);
}

/* ---------------------------------------------------------------- days */

static void claim(int64_t now)
{
    ANSWERED(store_day_claim(s, "cid", "2026-01-31", "UTC", now, lp, on_day, NULL), OMID_OK);
    CU_ASSERT_EQUAL_FATAL(got.rows, 1);
}

static void change(enum store_day_change what, const char *summary, int expected)
{
    ANSWERED(store_day_change(s, "cid", "2026-01-31", what, summary, lp, on_result, NULL), expected);
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

/* Completed ones that began within the day, in their order. */
static void test_what_a_day_holds(void)
{
    static const struct {
        const char *source;
        int64_t started;
        int status;
    } rows[] = {{"c", NOW + 3, 2},   {"a", NOW, 2},     {"x", NOW - 1, 2}, {"b", NOW + 2, 2},
                {"y", NOW + DAY, 2}, {"z", NOW + 1, 1}, {"w", NOW + 1, 4}, {"d", NOW + DAY - 1, 2}};
    char err[200], sql[400];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        snprintf(sql, sizeof sql,
                 "INSERT INTO conversation(id, uid, language, source, status, created, started, finished, timeout)"
                 " VALUES('day-%zu', 'dan', 'en', '%s', %d, 1, %lld, %lld, 1)",
                 i, rows[i].source, rows[i].status, (long long)rows[i].started, (long long)rows[i].started + 1000);
        CU_ASSERT_FATAL(unit_sql(path, sql));
    }
    struct seen seen = {.max = 100};
    CU_ASSERT_EQUAL(store_day_each(s, "dan", NOW, NOW + DAY, 10, on_conversation, &seen, err, sizeof err), OMID_OK);
    CU_ASSERT_STRING_EQUAL(seen.titles, "abcd");
    seen = (struct seen){.max = 100};
    CU_ASSERT_EQUAL(store_day_each(s, "dan", NOW, NOW + DAY, 2, on_conversation, &seen, err, sizeof err), OMID_OK);
    CU_ASSERT_STRING_EQUAL(seen.titles, "ab");
    seen = (struct seen){.max = 1};
    CU_ASSERT_EQUAL(store_day_each(s, "dan", NOW, NOW + DAY, 9, on_conversation, &seen, err, sizeof err), OMID_EFULL);
    seen = (struct seen){.max = 100};
    CU_ASSERT_EQUAL(store_day_each(s, "eve", NOW, NOW + DAY, 9, on_conversation, &seen, err, sizeof err), OMID_OK);
    CU_ASSERT_EQUAL(seen.n, 0);
}

int main(void)
{
    CU_TestInfo tests[] = {{"the end of a conversation", test_end},
                           {"plans", test_plans},
                           {"days", test_days},
                           {"what a day holds", test_what_a_day_holds},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {
        {.pName = "days in the store", .pInitFunc = setup, .pCleanupFunc = teardown, .pTests = tests},
        CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
