/* Plugins' own values in the store: kept, over, bounded. */

#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"
#include "fixture_store.h"
#include "store/values.h"

#define HOUR INT64_C(3600000)

static int64_t now;

/* An empty store with these bounds; 0: the default. */
static void fresh(uint64_t max, uint64_t max_bytes)
{
    options.max_values = max;
    options.max_value_bytes = max_bytes;
    now = clock_wall_ms();
    fixture_fresh();
}

struct answer {
    _Atomic int n;
    int result;
    bool there;
    char data[256];
    size_t len;
};

static void on_put(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    a->n++;
}

static void on_get(void *arg, int result, const void *value, size_t len)
{
    struct answer *a = arg;
    a->result = result;
    a->there = value != NULL;
    a->len = len;
    if (value != NULL && len < sizeof(a->data))
        memcpy(a->data, value, len);
    a->n++;
}

static int put_len(const char *owner, const char *key, const void *value, size_t len, int64_t ttl)
{
    struct answer a = {0};
    int rc = store_value_put(s, owner, key, value, len, now, ttl, lp, on_put, &a);
    if (rc != OMID_OK)
        return rc;
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(a.n == 1));
    return a.result;
}

static int put(const char *owner, const char *key, const char *value, int64_t ttl)
{
    return put_len(owner, key, value, value ? strlen(value) : 0, ttl);
}

/* Is it this? NULL: there is none. */
static bool is(const char *owner, const char *key, const char *value)
{
    struct answer a = {0};
    CU_ASSERT_EQUAL_FATAL(store_value_get(s, owner, key, now, lp, on_get, &a), OMID_OK);
    CU_ASSERT_TRUE_FATAL(WAIT_FOR(a.n == 1));
    CU_ASSERT_EQUAL(a.result, OMID_OK);
    return value == NULL ? !a.there : a.there && a.len == strlen(value) && memcmp(a.data, value, a.len) == 0;
}

static int64_t number(const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    int64_t n = -1;
    CU_ASSERT_EQUAL_FATAL(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW)
        n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static void test_kept(void)
{
    fresh(0, 0);
    CU_ASSERT_TRUE(is("a", "k", NULL));
    CU_ASSERT_EQUAL(put("a", "k", "one", 0), OMID_OK);
    CU_ASSERT_EQUAL(put("b", "k", "other", 0), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "k", "three", 0), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "empty", "", 0), OMID_OK);
    CU_ASSERT_TRUE(is("a", "k", "three"));
    CU_ASSERT_TRUE(is("b", "k", "other"));
    CU_ASSERT_TRUE(is("a", "empty", ""));
    fixture_close();
    CU_ASSERT_FATAL(fixture_open());
    CU_ASSERT_TRUE(is("a", "k", "three"));
    CU_ASSERT_EQUAL(put("a", "k", NULL, 0), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "never", NULL, 0), OMID_OK);
    CU_ASSERT_TRUE(is("a", "k", NULL));
    CU_ASSERT_TRUE(is("b", "k", "other"));
    CU_ASSERT_EQUAL(number("SELECT sum(n) FROM value_owner"), 2);
    CU_ASSERT_EQUAL(number("SELECT sum(bytes) FROM value_owner"), 5 + 6);
    fixture_close();
}

static void test_refused(void)
{
    static char big[STORE_MAX_VALUE + 1], key[STORE_MAX_VALUE_KEY + 2];
    fresh(0, 0);
    memset(key, 'k', sizeof(key) - 1);
    CU_ASSERT_EQUAL(put("a", key, "v", 0), OMID_EINVAL);
    CU_ASSERT_EQUAL(put("a", "", "v", 0), OMID_EINVAL);
    CU_ASSERT_EQUAL(put_len("a", "k", big, sizeof(big), 0), OMID_EINVAL);
    CU_ASSERT_EQUAL(put("a", "k", "v", -1), OMID_EINVAL);
    CU_ASSERT_EQUAL(put("a", key + 1, "v", 0), OMID_OK);
    CU_ASSERT_EQUAL(put_len("a", "k", big, sizeof(big) - 1, INT64_MAX), OMID_OK);
    CU_ASSERT_EQUAL(store_value_get(s, "a", "", now, lp, on_get, NULL), OMID_EINVAL);
    fixture_close();
}

static void test_over(void)
{
    fresh(0, 0);
    CU_ASSERT_EQUAL(put("a", "short", "v", 2 * HOUR), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "long", "v", 4 * HOUR), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "again", "v", 2 * HOUR), OMID_OK);
    now += HOUR;
    CU_ASSERT_TRUE(is("a", "short", "v"));
    CU_ASSERT_EQUAL(put("a", "again", "w", 2 * HOUR), OMID_OK);
    now += HOUR;
    CU_ASSERT_TRUE(is("a", "short", NULL));
    CU_ASSERT_TRUE(is("a", "again", "w"));
    CU_ASSERT_TRUE(is("a", "long", "v"));
    fixture_close();
    CU_ASSERT_EQUAL(number("SELECT count(*) FROM value"), 3);
}

static bool only(int64_t n)
{
    return number("SELECT count(*) FROM value") == n;
}

/* By the clock of the machine: what ended before it is deleted without anybody asking, also after a restart. */
static void test_purged(void)
{
    int64_t before = metric_value(metric_counter("omid_store_values_expired_total",
                                                 "Values of plugins that were deleted because their time was over."));
    fresh(0, 0);
    now = 1000;
    for (int i = 0; i < 5; i++) {
        char key[8];
        snprintf(key, sizeof(key), "k%d", i);
        CU_ASSERT_EQUAL(put("a", key, "v", 10), OMID_OK);
    }
    CU_ASSERT_EQUAL(put("a", "stays", "v", 0), OMID_OK);
    CU_ASSERT_TRUE(WAIT_FOR(only(1)));
    CU_ASSERT_EQUAL(number("SELECT n FROM value_owner"), 1);
    CU_ASSERT_EQUAL(metric_value(metric_counter("omid_store_values_expired_total", "")) - before, 5);
    fixture_close();
    sqlite3 *db;
    CU_ASSERT_EQUAL_FATAL(sqlite3_open(path, &db), SQLITE_OK);
    CU_ASSERT_EQUAL(sqlite3_exec(db, "INSERT INTO value VALUES('a','old',x'00',5,4)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    CU_ASSERT_FATAL(fixture_open());
    CU_ASSERT_TRUE(WAIT_FOR(only(1)));
    fixture_close();
}

static void test_bounds(void)
{
    fresh(3, 100);
    CU_ASSERT_EQUAL(put("a", "1", "v", 0), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "2", "v", 0), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "3", "v", HOUR), OMID_OK);
    CU_ASSERT_EQUAL(put("a", "4", "v", 0), OMID_EFULL);
    CU_ASSERT_TRUE(is("a", "4", NULL));
    CU_ASSERT_EQUAL(put("a", "2", "w", 0), OMID_OK); /* no more than before */
    CU_ASSERT_EQUAL(put("b", "4", "v", 0), OMID_OK); /* another's */
    now += 2 * HOUR;
    CU_ASSERT_EQUAL(put("a", "4", "v", 0), OMID_OK); /* 3 is over */
    CU_ASSERT_EQUAL(put("a", "5", "v", 0), OMID_EFULL);
    CU_ASSERT_EQUAL(put("a", "4", NULL, 0), OMID_OK);
    char value[100];
    memset(value, 'x', sizeof(value));
    CU_ASSERT_EQUAL(put_len("a", "5", value, 96, 0), OMID_EFULL); /* 2 + 2 + 97 */
    CU_ASSERT_EQUAL(put_len("a", "5", value, 95, 0), OMID_OK);
    CU_ASSERT_EQUAL(put_len("a", "5", value, 96, 0), OMID_EFULL);
    CU_ASSERT_EQUAL(put_len("a", "5", value, 90, 0), OMID_OK);
    fixture_close();
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    CU_TestInfo tests[] = {
        {"kept", test_kept},     {"refused", test_refused}, {"over", test_over},
        {"purged", test_purged}, {"bounds", test_bounds},   CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"values", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
