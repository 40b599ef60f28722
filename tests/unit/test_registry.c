/* The registry: what is kept, what is looked up meanwhile, secrets that end, failures that disable. */
#include <CUnit/Basic.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "store/registry.h"
#include "unit_db.h"

#define HOUR INT64_C(3600000)
#define SECRET1 "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define SECRET2 "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="

static char dir[64], path[96];
static struct loop *lp;
static struct store *s;
static struct registry *r;
static _Atomic int told;
static char told_id[80], told_reason[128], told_uid[80];

static void on_disabled(void *arg, const struct registry_disabled *d)
{
    (void)arg;
    snprintf(told_id, sizeof(told_id), "%s", d->id);
    snprintf(told_uid, sizeof(told_uid), "%s", d->uid);
    snprintf(told_reason, sizeof(told_reason), "%s", d->reason);
    atomic_fetch_add(&told, 1);
}

static const struct registry_config config = {.max_apps = 4,
                                              .max_webhooks = 1000,
                                              .max_enabled = 1000,
                                              .failures = 100,
                                              .failing_ms = 72 * HOUR,
                                              .overlap_ms = 24 * HOUR,
                                              .disabled = on_disabled};

static bool opened(void)
{
    char err[512];
    bool aside;
    struct store_config c = {.path = path, .commit_ms = 1};
    s = store_open(&c, &aside, err, sizeof(err));
    r = s != NULL ? registry_new(s, &config, err, sizeof(err)) : NULL;
    if (r == NULL)
        fprintf(stderr, "open: %s\n", err);
    return r != NULL && store_start(s);
}

static void closed(void)
{
    registry_flush(r);
    store_stop(s);
    registry_free(&r);
    store_free(&s);
}

static int setup(void)
{
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, LOG_TARGET_STDERR);
    snprintf(dir, sizeof(dir), "/tmp/omid-registry-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/store.db", dir);
    lp = loop_new("test");
    return lp != NULL && loop_start(lp) ? 0 : -1;
}

static int teardown(void)
{
    unit_rm_dir(dir);
    loop_stop(lp);
    loop_free(&lp);
    return 0;
}

static void fresh(void)
{
    unit_rm_dir(dir);
    mkdir(dir, 0700);
    atomic_store(&told, 0);
    CU_ASSERT_FATAL(opened());
}

/* ---------------------------------------------------------------- calls, waited for */

struct answer {
    _Atomic int n;
    int result;
};

static void on_answer(void *arg, int result)
{
    struct answer *a = arg;
    a->result = result;
    atomic_fetch_add(&a->n, 1);
}

#define CALL(call)                                             \
    __extension__({                                            \
        struct answer a = {0};                                 \
        int rc_ = (call);                                      \
        if (rc_ == OMID_OK) {                                  \
            CU_ASSERT_FATAL(WAIT_FOR(atomic_load(&a.n) == 1)); \
            rc_ = a.result;                                    \
        }                                                      \
        rc_;                                                   \
    })

static const char *const no_events[] = {NULL};

static struct registry_spec hook(const char *id, const char *uid)
{
    return (struct registry_spec){.given = REGISTRY_UID | REGISTRY_URL | REGISTRY_TRIGGERS | REGISTRY_SECRET,
                                  .id = id,
                                  .uid = uid,
                                  .url = "https://hooks.example.com/in",
                                  .triggers = 1u << OMID_TRIGGER_MEMORY,
                                  .events = no_events,
                                  .secret = SECRET1};
}

static struct registry_spec app(const char *id)
{
    struct registry_spec a = hook(id, "owner");
    a.app = true;
    a.given |= REGISTRY_NAME;
    a.name = "An app";
    return a;
}

static int add(struct registry_spec spec)
{
    return CALL(registry_add(r, &spec, lp, on_answer, &a));
}

static size_t n_of(const char *uid)
{
    const struct omid_endpoints *e = registry_of(r, uid, clock_wall_ms());
    size_t n = e->n;
    registry_release(&e);
    return n;
}

static size_t found(const char *id, const char *uid)
{
    const struct omid_endpoints *e = registry_find(r, id, uid, clock_wall_ms());
    size_t n = e->n;
    registry_release(&e);
    return n;
}

/* ---------------------------------------------------------------- tests */

static void check_kept(void)
{
    const struct omid_endpoints *e = registry_of(r, "ann", clock_wall_ms());
    CU_ASSERT_EQUAL_FATAL(e->n, 2);
    const struct omid_endpoint *h = e->endpoint[0]->app ? e->endpoint[1] : e->endpoint[0];
    const struct omid_endpoint *a = e->endpoint[0]->app ? e->endpoint[0] : e->endpoint[1];
    CU_ASSERT_STRING_EQUAL(h->id, "h1");
    CU_ASSERT_STRING_EQUAL(h->uid, "ann");
    CU_ASSERT_STRING_EQUAL(h->url, "https://hooks.example.com/in");
    CU_ASSERT_STRING_EQUAL(h->secrets[0], SECRET1);
    CU_ASSERT_PTR_NULL(h->secrets[1]);
    CU_ASSERT_EQUAL(h->triggers, 1u << OMID_TRIGGER_MEMORY | 1u << OMID_TRIGGER_EVENT);
    CU_ASSERT_STRING_EQUAL(h->events[0], "order.*");
    CU_ASSERT_STRING_EQUAL(h->events[1], "paid");
    CU_ASSERT_PTR_NULL(h->events[2]);
    CU_ASSERT_STRING_EQUAL(h->filter, "{\"a.b\":1}");
    CU_ASSERT_TRUE(h->ordered);
    CU_ASSERT_EQUAL(h->rate_per_min, 60);
    CU_ASSERT_EQUAL(h->audio_ms, 7000);
    CU_ASSERT_STRING_EQUAL(a->id, "a1");
    CU_ASSERT_STRING_EQUAL(a->name, "An app");
    CU_ASSERT_STRING_EQUAL(a->uid, "owner");
    CU_ASSERT_EQUAL(a->capabilities, OMID_CAPABLE_PROACTIVE_NOTIFICATION);
    registry_release(&e);
    CU_ASSERT_EQUAL(n_of("bob"), 0);
    CU_ASSERT_EQUAL(found("h1", "ann"), 1);
    CU_ASSERT_EQUAL(found("h1", "bob"), 0);
    CU_ASSERT_EQUAL(found("h1", NULL), 1);
    CU_ASSERT_EQUAL(found("a1", "ann"), 1);
    CU_ASSERT_EQUAL(found("a1", "bob"), 0);
}

static void test_kept(void)
{
    static const char *const events[] = {"order.*", "paid", NULL};
    fresh();
    struct registry_spec h = hook("h1", "ann");
    h.given |= REGISTRY_EVENTS | REGISTRY_FILTER | REGISTRY_ORDERED | REGISTRY_RATE | REGISTRY_AUDIO;
    h.events = events;
    h.filter = "{\"a.b\":1}";
    h.ordered = true;
    h.rate_per_min = 60;
    h.audio_ms = 7000;
    CU_ASSERT_EQUAL(add(h), OMID_OK);
    CU_ASSERT_EQUAL(add(h), OMID_EINVAL);
    struct registry_spec one = app("a1");
    one.given |= REGISTRY_CAPABILITIES;
    one.capabilities = OMID_CAPABLE_PROACTIVE_NOTIFICATION;
    CU_ASSERT_EQUAL(add(one), OMID_OK);
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a1", "ann", true, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a1", "ann", true, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "h1", "ann", true, lp, on_answer, &a)), OMID_ENOTSUP);
    check_kept();
    closed();
    CU_ASSERT_FATAL(opened());
    check_kept();
    CU_ASSERT_EQUAL(CALL(registry_remove(r, false, "a1", lp, on_answer, &a)), OMID_ENOTSUP);
    CU_ASSERT_EQUAL(CALL(registry_remove(r, true, "a1", lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    CU_ASSERT_EQUAL(CALL(registry_remove(r, false, "h1", lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(n_of("ann"), 0);
    closed();
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM endpoint"), 0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM endpoint_secret"), 0);
    CU_ASSERT_EQUAL(unit_sql_int(path, "SELECT count(*) FROM endpoint_user"), 0);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("registry", setup, teardown);
    CU_add_test(suite, "kept", test_kept);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed != 0;
}
