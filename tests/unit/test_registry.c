/* The registry: what is kept, what is looked up meanwhile, secrets that end, failures that disable. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "fixture_store.h"
#include "store/registry.h"

#define HOUR INT64_C(3600000)
#define SECRET1 "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define SECRET2 "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="

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

/* ---------------------------------------------------------------- failures */

#define FAILED OMID_DELIVERY_FAILED

static void fail(const char *id, unsigned n, int64_t now, uint64_t mono)
{
    while (n-- > 0)
        registry_report(r, id, FAILED, 500, now, mono);
}

static unsigned failures(bool is_app, const char *id)
{
    struct registry_run run = {0};
    struct registry_entry *e = registry_get(r, is_app, id, &run);
    registry_entry_release(&e);
    return run.failures;
}

static bool is_disabled(bool is_app, const char *id, const char *reason)
{
    struct registry_entry *e = registry_get(r, is_app, id, NULL);
    bool yes = e != NULL && e->disabled_ms != 0 && strncmp(e->disabled_reason, reason, strlen(reason)) == 0;
    registry_entry_release(&e);
    return yes;
}

static void test_webhook_fails(void)
{
    int64_t now = clock_wall_ms();
    fresh();
    add(hook("h1", "ann"));
    add(hook("h2", "ann"));
    fail("h1", 99, now, 5);
    registry_report(r, "h1", OMID_DELIVERY_OK, 200, now, 5); /* ends the run */
    CU_ASSERT_EQUAL(failures(false, "h1"), 0);
    fail("h1", 99, now, 5);
    fail("h2", 1, now, 5);
    closed();
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_EQUAL(failures(false, "h1"), 99);
    CU_ASSERT_EQUAL(failures(false, "h2"), 1);
    CU_ASSERT_EQUAL(atomic_load(&told), 0);
    fail("h1", 1, now, 7);
    CU_ASSERT_TRUE(WAIT_FOR(atomic_load(&told) == 1));
    CU_ASSERT_STRING_EQUAL(told_id, "h1");
    CU_ASSERT_STRING_EQUAL(told_uid, "ann");
    CU_ASSERT_TRUE(is_disabled(false, "h1", "failures: 100 "));
    CU_ASSERT_EQUAL(found("h1", "ann"), 0);
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    fail("h1", 300, now, 9); /* of attempts that were under way */
    registry_report(r, "h1", OMID_DELIVERY_OK, 200, now, 9);
    fail("nobody", 1, now, 9);
    closed();
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_TRUE(is_disabled(false, "h1", "failures: 100 "));
    CU_ASSERT_EQUAL(failures(false, "h1"), 100);
    CU_ASSERT_EQUAL(atomic_load(&told), 1);
    /* Told again until it has been told for good. */
    CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
    CU_ASSERT_TRUE(WAIT_FOR(atomic_load(&told) == 2));
    CU_ASSERT_STRING_EQUAL(told_id, "h1");
    CU_ASSERT_STRING_EQUAL(told_uid, "ann");
    CU_ASSERT_EQUAL(strncmp(told_reason, "failures: 100 ", 14), 0);
    CU_ASSERT_EQUAL(registry_told(r, "h1", now), OMID_OK);
    CU_ASSERT_EQUAL(registry_retell(r), OMID_OK);
    CU_ASSERT_EQUAL(registry_told(r, "h1", now), OMID_OK);
    atomic_store(&told, 1);
    /* Enabled again it may fail as often again. */
    CU_ASSERT_EQUAL(CALL(registry_enable(r, false, "h1", true, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(failures(false, "h1"), 0);
    fail("h1", 99, now, 9);
    CU_ASSERT_EQUAL(n_of("ann"), 2);
    /* Another address has not failed yet. */
    struct registry_spec other = hook("h1", "ann");
    other.given = REGISTRY_URL;
    other.url = "https://other.example.com/";
    CU_ASSERT_EQUAL(CALL(registry_change(r, &other, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(failures(false, "h1"), 0);
    registry_report(r, "h1", OMID_DELIVERY_GONE, 410, now, 9);
    CU_ASSERT_TRUE(WAIT_FOR(atomic_load(&told) == 2));
    CU_ASSERT_TRUE(is_disabled(false, "h1", "gone: it answered 410"));
    closed();
}

static void test_app_fails(void)
{
    const uint64_t hour = (uint64_t)HOUR;
    int64_t now = clock_wall_ms();
    fresh();
    add(app("a1"));
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a1", "ann", true, lp, on_answer, &a)), OMID_OK);
    fail("a1", 500, now, 1000);                        /* however often: time counts */
    fail("a1", 1, now + 400 * HOUR, 1000 + 71 * hour); /* a clock that was set forward disables nobody */
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    registry_report(r, "a1", OMID_DELIVERY_OK, 200, now, 1000 + 71 * hour);
    fail("a1", 1, now - 400 * HOUR, 1000 + 71 * hour);
    fail("a1", 1, now, 1000 + 142 * hour);
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    CU_ASSERT_EQUAL(atomic_load(&told), 0);
    fail("a1", 1, now, 1000 + 143 * hour);
    CU_ASSERT_TRUE(WAIT_FOR(atomic_load(&told) == 1));
    CU_ASSERT_STRING_EQUAL(told_uid, "owner");
    CU_ASSERT_TRUE(is_disabled(true, "a1", "time: "));
    CU_ASSERT_EQUAL(n_of("ann"), 0);
    /* The run goes on behind a restart. */
    add(app("a2"));
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a2", "ann", true, lp, on_answer, &a)), OMID_OK);
    fail("a2", 1, clock_wall_ms() - 71 * HOUR, 1000);
    closed();
    CU_ASSERT_FATAL(opened());
    fail("a2", 1, clock_wall_ms(), clock_mono_ms());
    CU_ASSERT_EQUAL(failures(true, "a2"), 2);
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    fail("a2", 1, clock_wall_ms(), clock_mono_ms() + 2 * hour);
    CU_ASSERT_TRUE(WAIT_FOR(atomic_load(&told) == 2));
    CU_ASSERT_EQUAL(n_of("ann"), 0);
    closed();
}

/* ---------------------------------------------------------------- secrets */

static size_t secrets_at(const char *uid, int64_t now, const char **first)
{
    static char text[REGISTRY_MAX_SECRET];
    size_t n = 0;
    const struct omid_endpoints *e = registry_of(r, uid, now);
    while (e->n == 1 && e->endpoint[0]->secrets[n] != NULL)
        n++;
    snprintf(text, sizeof(text), "%s", n > 0 ? e->endpoint[0]->secrets[0] : "");
    *first = text;
    registry_release(&e);
    return n;
}

static int rotate(const char *secret)
{
    return CALL(registry_rotate(r, false, "h1", secret, lp, on_answer, &a));
}

static void test_rotation(void)
{
    const char *first;
    char made[REGISTRY_MAX_SECRET], again[REGISTRY_MAX_SECRET];
    fresh();
    add(hook("h1", "ann"));
    const struct omid_endpoints *held = registry_of(r, "ann", clock_wall_ms());
    CU_ASSERT_EQUAL(rotate(SECRET2), OMID_OK);
    int64_t now = clock_wall_ms();
    /* At no time is there none; both sign for a day. */
    CU_ASSERT_EQUAL(secrets_at("ann", now, &first), 2);
    CU_ASSERT_STRING_EQUAL(first, SECRET2);
    CU_ASSERT_EQUAL(secrets_at("ann", now + 24 * HOUR - 60000, &first), 2);
    CU_ASSERT_EQUAL(secrets_at("ann", now + 24 * HOUR + 1, &first), 1);
    CU_ASSERT_STRING_EQUAL(first, SECRET2);
    CU_ASSERT_STRING_EQUAL(held->endpoint[0]->secrets[0], SECRET1); /* what was looked up stays as it was */
    registry_release(&held);
    closed();
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_EQUAL(secrets_at("ann", now, &first), 2);
    for (int i = 2; i < REGISTRY_MAX_SECRETS; i++) {
        registry_secret_make(made);
        CU_ASSERT_TRUE(registry_secret_ok(made));
        CU_ASSERT_EQUAL(rotate(made), OMID_OK);
    }
    registry_secret_make(again);
    CU_ASSERT_STRING_NOT_EQUAL(made, again);
    CU_ASSERT_EQUAL(rotate(again), OMID_EINVAL);
    CU_ASSERT_EQUAL(secrets_at("ann", now, &first), REGISTRY_MAX_SECRETS);
    CU_ASSERT_STRING_EQUAL(first, made);
    closed();
}

/* ---------------------------------------------------------------- bounds, seeds, checks */

static void test_bounds(void)
{
    char id[16];
    fresh();
    for (int i = 0; i < 4; i++) {
        snprintf(id, sizeof(id), "a%d", i);
        CU_ASSERT_EQUAL(add(app(id)), OMID_OK);
    }
    CU_ASSERT_EQUAL(add(app("a4")), OMID_EFULL);
    CU_ASSERT_EQUAL(CALL(registry_remove(r, true, "a0", lp, on_answer, &a)), OMID_OK);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(add(app("a1")), OMID_EINVAL); /* gives its room back */
    CU_ASSERT_EQUAL(add(app("a4")), OMID_OK);
    for (int i = 0; i < REGISTRY_MAX_OF_UID - 1; i++) {
        snprintf(id, sizeof(id), "h%d", i);
        CU_ASSERT_EQUAL_FATAL(add(hook(id, "ann")), OMID_OK);
    }
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a4", "ann", true, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(add(hook("more", "ann")), OMID_EFULL);
    CU_ASSERT_EQUAL(CALL(registry_enable_for(r, "a2", "ann", true, lp, on_answer, &a)), OMID_EFULL);
    CU_ASSERT_EQUAL(add(hook("more", "bob")), OMID_OK);
    CU_ASSERT_EQUAL(n_of("ann"), REGISTRY_MAX_OF_UID);
    struct registry_counts n;
    registry_counts(r, &n);
    CU_ASSERT_EQUAL(n.apps, 4);
    CU_ASSERT_EQUAL(n.webhooks, REGISTRY_MAX_OF_UID);
    CU_ASSERT_EQUAL(n.enabled, 1);
    closed();
}

static int seed(struct registry_spec spec, const char *hash)
{
    return CALL(registry_seed(r, &spec, hash, lp, on_answer, &a));
}

static uint32_t rate_of(const char *id)
{
    struct registry_entry *e = registry_get(r, false, id, NULL);
    uint32_t rate = e != NULL ? e->rate_per_min : 9999;
    registry_entry_release(&e);
    return rate;
}

static void test_seeds(void)
{
    struct registry_spec h = hook("h1", "ann"), mine = hook("h1", "ann");
    const char *first;
    fresh();
    h.given |= REGISTRY_RATE;
    h.rate_per_min = 1;
    CU_ASSERT_EQUAL(seed(h, "one"), OMID_OK);
    mine.given = REGISTRY_RATE;
    mine.rate_per_min = 2;
    CU_ASSERT_EQUAL(CALL(registry_change(r, &mine, lp, on_answer, &a)), OMID_OK);
    CU_ASSERT_EQUAL(seed(h, "one"), OMID_OK);
    CU_ASSERT_EQUAL(rate_of("h1"), 2);
    closed();
    CU_ASSERT_FATAL(opened());
    CU_ASSERT_EQUAL(seed(h, "one"), OMID_OK);
    CU_ASSERT_EQUAL(rate_of("h1"), 2);
    h.secret = SECRET2;
    CU_ASSERT_EQUAL(seed(h, "two"), OMID_OK);
    CU_ASSERT_EQUAL(rate_of("h1"), 1);
    CU_ASSERT_EQUAL(secrets_at("ann", clock_wall_ms(), &first), 2);
    CU_ASSERT_STRING_EQUAL(first, SECRET2);
    CU_ASSERT_EQUAL(seed(app("h1"), "x"), OMID_EINVAL);
    h.uid = "bob";
    CU_ASSERT_EQUAL(seed(h, "three"), OMID_EINVAL);
    closed();
}

static void test_checks(void)
{
    static const char *const bad_urls[] = {"",
                                           "x",
                                           "ftp://x/",
                                           "https://",
                                           "http:///path",
                                           "http://u@x/",
                                           "https://u:p@x.example/",
                                           "https://x /",
                                           "https://x/#f",
                                           "https://x:0/",
                                           "https://x:65536/",
                                           "//x/"};
    static const char *const good_urls[] = {"http://x", "HTTPS://X.example:8443/a?b=c@d", "http://127.0.0.1/",
                                            "https://[::1]:80/x"};
    static const char *const bad_events[] = {"", ".*.", "a b", "a*", "*.a", "**", "a.*.b", "*a"};
    static const char *const good_events[] = {"*", "a", "order.paid", "order.*", "A_b-c.d"};
    char err[128], url[64] = "https://x.example/a,5";
    uint32_t ms = 0;
    for (size_t i = 0; i < ARRAY_LEN(bad_urls); i++)
        CU_ASSERT_FALSE(registry_url_ok(bad_urls[i], err, sizeof(err)));
    for (size_t i = 0; i < ARRAY_LEN(good_urls); i++)
        CU_ASSERT_TRUE(registry_url_ok(good_urls[i], err, sizeof(err)));
    for (size_t i = 0; i < ARRAY_LEN(bad_events); i++)
        CU_ASSERT_FALSE(registry_event_ok(bad_events[i]));
    for (size_t i = 0; i < ARRAY_LEN(good_events); i++)
        CU_ASSERT_TRUE(registry_event_ok(good_events[i]));
    CU_ASSERT_TRUE(registry_audio_split(url, &ms));
    CU_ASSERT_EQUAL(ms, 5000);
    CU_ASSERT_STRING_EQUAL(url, "https://x.example/a");
    CU_ASSERT_FALSE(registry_audio_split(url, &ms));
    for (size_t n = 0; n < 80; n++) { /* so many bytes */
        unsigned char key[80] = {0};
        struct buf b = BUF_INIT(0);
        CU_ASSERT_TRUE_FATAL(buf_puts(&b, "whsec_") && base64_encode(key, n, &b));
        CU_ASSERT_EQUAL(registry_secret_ok(b.data), n >= 24 && n <= 64);
        buf_free(&b);
    }
}

/* ---------------------------------------------------------------- threads */

static atomic_bool over;

static void *reader(void *arg)
{
    struct registry_entry *page[10];
    unsigned n = (unsigned)(uintptr_t)arg;
    char uid[16], id[16];
    while (!atomic_load(&over)) {
        snprintf(uid, sizeof(uid), "u%u", n % 7);
        snprintf(id, sizeof(id), "h%u", n % 40);
        const struct omid_endpoints *e = registry_of(r, uid, clock_wall_ms());
        for (size_t i = 0; i < e->n; i++) {
            if (e->endpoint[i]->secrets[0] == NULL || strlen(e->endpoint[i]->url) < 10)
                abort();
        }
        registry_release(&e);
        e = registry_find(r, id, n % 2 != 0 ? uid : NULL, clock_wall_ms());
        registry_release(&e);
        registry_report(r, id, n % 3 != 0 ? FAILED : OMID_DELIVERY_OK, 500, clock_wall_ms(), clock_mono_ms());
        const struct registry_list l = {.app = n % 5 == 0, .limit = 10, .disabled = n % 4 == 0};
        bool more;
        int got = registry_page(r, &l, page, &more);
        for (int i = 0; i < got; i++)
            registry_entry_release(&page[i]);
        if (n % 64 == 0)
            registry_flush(r);
        n++;
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t t[3];
    char id[16], uid[16];
    fresh();
    atomic_store(&over, false);
    for (uintptr_t i = 0; i < 3; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, reader, (void *)(i * 1000)), 0);
    add(app("app"));
    for (int i = 0; i < 200; i++) {
        snprintf(id, sizeof(id), "h%d", i % 40);
        snprintf(uid, sizeof(uid), "u%d", i % 40 % 7);
        struct registry_spec h = hook(id, uid), change = h;
        change.given = REGISTRY_RATE;
        add(h);
        (void)CALL(registry_change(r, &change, lp, on_answer, &a));
        (void)CALL(registry_enable(r, false, id, i % 2 == 0, lp, on_answer, &a));
        (void)CALL(registry_enable_for(r, "app", uid, i % 3 != 0, lp, on_answer, &a));
        if (i % 4 == 0)
            (void)CALL(registry_remove(r, false, id, lp, on_answer, &a));
        if (i == 150) {
            CU_ASSERT_EQUAL(CALL(registry_remove(r, true, "app", lp, on_answer, &a)), OMID_OK);
            registry_configure(r, &config);
        }
    }
    atomic_store(&over, true);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    struct registry_counts n, after;
    registry_counts(r, &n);
    closed();
    CU_ASSERT_FATAL(opened());
    registry_counts(r, &after);
    CU_ASSERT_EQUAL(n.webhooks, after.webhooks);
    CU_ASSERT_EQUAL(n.apps, after.apps);
    CU_ASSERT_EQUAL(n.enabled, after.enabled);
    CU_ASSERT_EQUAL(n.disabled, after.disabled);
    closed();
}

/* After the writer has stopped nothing is taken, and what it was asked is answered. */
static void test_after_stop(void)
{
    fresh();
    add(hook("h1", "ann"));
    store_stop(s);
    struct answer a = {0};
    struct registry_spec h = hook("h2", "ann");
    CU_ASSERT_EQUAL(registry_add(r, &h, lp, on_answer, &a), OMID_ECLOSED);
    fail("h1", 100, clock_wall_ms(), 1);
    registry_flush(r);
    CU_ASSERT_EQUAL(failures(false, "h1"), 100);
    CU_ASSERT_EQUAL(n_of("ann"), 1);
    registry_free(&r);
    store_free(&s);
    CU_ASSERT_EQUAL(atomic_load(&a.n), 0);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"kept", test_kept},
        {"a webhook that fails", test_webhook_fails},
        {"an app that fails", test_app_fails},
        {"rotation", test_rotation},
        {"bounds", test_bounds},
        {"seeds", test_seeds},
        {"checks", test_checks},
        {"threads", test_threads},
        {"after the stop", test_after_stop},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"registry", fixture_begin, fixture_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
