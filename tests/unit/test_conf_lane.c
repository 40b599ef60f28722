/* What a lane is told beside its numbers: target blocks, proxies, certificates; and whether two of them are the same.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_fake.h"
#include "pem.h"
#include "unit.h"

static struct conf_faults faults;
static char dir[] = "/tmp/omid-conf-lane-XXXXXX";

static void put(const char *name, const char *text, mode_t mode)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    FILE *f = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
}

/* From a file, so that other files are named beside it. */
static struct conf *load(const char *text)
{
    char path[256];
    put("omi.conf", text, 0600);
    snprintf(path, sizeof path, "%s/omi.conf", dir);
    conf_faults_free(&faults);
    return conf_load(path, &fake_source, &faults);
}

static struct conf *load_fatal(const char *text)
{
    struct conf *c = load(text);
    if (!c)
        fputs(faults.text.data, stderr);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    return c;
}

static bool said(const char *text)
{
    bool ok = faults.text.data && strstr(faults.text.data, text);
    if (!ok)
        fprintf(stderr, "missing: %s\nsaid: %s", text, faults.text.data ? faults.text.data : "nothing\n");
    return ok;
}

static bool leaked(const char *text)
{
    return faults.text.data && strstr(faults.text.data, text);
}

static const struct conf_target *target_of(const struct conf *c, const char *prefix)
{
    const struct conf_targets *t = c->plugin[0].lane.targets;
    for (size_t i = 0; t && i < t->n; i++) {
        if (strcmp(t->target[i].prefix, prefix) == 0)
            return &t->target[i];
    }
    CU_FAIL_FATAL("no such target");
    return NULL;
}

static void test_targets(void)
{
    struct conf *c =
        load_fatal("plugin fake { word = w timeout = 20s breaker { failures = 9 window = 10s slow_share = 0.6 }\n"
                   " follow = 2\n"
                   " target \"https://A.example\" { timeout = 60s semaphore = 3 breaker { open = 20min } }\n"
                   " target \"https://a.example/v1/\" { follow = 0 timeout = 500ms }\n"
                   " target \"wss://a.example/v1/\" { breaker { failures = 2 slow = 1s } }\n}\n"
                   "plugin bare { target \"https://a.example/v1/\" { timeout = 7s } }\n");
    CU_ASSERT_EQUAL(faults.warnings, 0);
    const struct conf_lane *l = &c->plugin[0].lane;
    CU_ASSERT(l->follow == 2 && l->breaker_window_ms == 10000 && l->breaker_slow_share == 0.6);
    CU_ASSERT_EQUAL_FATAL(l->targets->n, 3);
    CU_ASSERT_STRING_EQUAL(l->targets->target[2].prefix, "https://a.example:443/"); /* the shortest is last */
    l = &target_of(c, "https://a.example:443/")->lane;
    CU_ASSERT(l->timeout_ms == 60000 && l->semaphore == 3 && l->follow == 2 && l->pool == 16);
    CU_ASSERT(l->breaker_open_ms == 1200000 && l->breaker_open_max_ms == 1200000 && l->breaker_failures == 9);
    l = &target_of(c, "https://a.example:443/v1/")->lane;
    CU_ASSERT(l->timeout_ms == 500 && l->connect_timeout_ms == 500 && l->follow == 0 && l->semaphore == 12);
    CU_ASSERT(l->breaker_failures == 9 && l->breaker_open_ms == 30000);
    l = &target_of(c, "wss://a.example:443/v1/")->lane;
    CU_ASSERT(l->timeout_ms == 20000 && l->breaker_failures == 2 && l->breaker_slow_ms == 1000);
    CU_ASSERT(l->breaker_slow_share == 0.6 && l->targets == NULL && l->outside == NULL);
    CU_ASSERT_EQUAL_FATAL(c->plugin[1].lane.targets->n, 1);
    CU_ASSERT_EQUAL(c->plugin[1].lane.targets->target[0].lane.timeout_ms, 7000);
    conf_free(&c);

    struct buf text = BUF_INIT(0);
    buf_puts(&text, "plugin bare {\n");
    for (unsigned i = 0; i <= CONF_MAX_TARGETS; i++)
        buf_printf(&text, "target \"http://%u.example/\" { timeout = 5s }\n", i);
    buf_puts(&text, "}\n");
    CU_ASSERT_PTR_NULL(load(text.data));
    CU_ASSERT(said("omi.conf:66: plugin bare: target http://64.example/: expected at most 64 target blocks"));
    buf_free(&text);
}

static void test_proxy(void)
{
    put("auth", "me:p:w%41\n", 0600);
    setenv("OMID_OTHER_DASH_PROXY_AUTH", "env:pw", 1);
    struct conf *c = load_fatal("plugin fake { word = w proxy = \"http://127.0.0.1:3128\" proxy_auth_file = auth\n"
                                " target \"http://a.example/\" { proxy = none }\n"
                                " target \"http://b.example/\" { proxy = \"http://b:1\" }\n"
                                " target \"http://c.example/\" { timeout = 5s }\n}\n"
                                "plugin other-dash { proxy = \"http://c:1\" target \"http://a/\" { timeout = 5s } }\n");
    const struct conf_outside *o = c->plugin[0].lane.outside;
    CU_ASSERT_STRING_EQUAL(o->proxy, "http://127.0.0.1:3128");
    CU_ASSERT_STRING_EQUAL(o->proxy_auth, "me:p:w%41");
    CU_ASSERT_PTR_NULL(target_of(c, "http://a.example:80/")->lane.outside);
    CU_ASSERT_PTR_EQUAL(target_of(c, "http://c.example:80/")->lane.outside, o); /* shared, where it is the same */
    o = target_of(c, "http://b.example:80/")->lane.outside;
    CU_ASSERT_STRING_EQUAL(o->proxy, "http://b:1");
    CU_ASSERT_PTR_NULL(o->proxy_auth); /* another proxy's is not for it */
    CU_ASSERT_STRING_EQUAL(c->plugin[1].lane.outside->proxy_auth, "env:pw");
    unsetenv("OMID_OTHER_DASH_PROXY_AUTH");
    conf_free(&c);
}

static void test_allow_private(void)
{
    static const char *const bad[] = {"10.0.0.0/33", "localhost", "10.0.0/8",  "::1%lo",
                                      "fe80::/129",  "",          "10.0.0.0/", "*"};
    char text[256];
    struct conf *c = load_fatal("plugin fake { word = w allow_private = { \"127.0.0.1/8\", \"fd00::/8\" }\n"
                                " target \"http://a.example/\" { timeout = 5s } }\n"
                                "plugin bare { allow_private = {} }\n");
    const struct conf_outside *o = c->plugin[0].lane.outside;
    CU_ASSERT_EQUAL_FATAL(o->n_private, 2);
    CU_ASSERT(o->allow_private[0].bits == 104 && o->allow_private[1].bits == 8);
    CU_ASSERT_PTR_EQUAL(target_of(c, "http://a.example:80/")->lane.outside, o);
    CU_ASSERT_PTR_NULL(c->plugin[1].lane.outside);
    struct conf_lane kept;
    conf_lane_copy(&kept, &c->plugin[0].lane);
    conf_free(&c);
    c = load_fatal("plugin fake { word = w allow_private = { \"127.0.0.0/8\", \"fd00::/8\" }\n"
                   " target \"http://a.example/\" { timeout = 5s } }\n");
    CU_ASSERT_TRUE(conf_lane_same(&kept, &c->plugin[0].lane));
    conf_free(&c);
    c = load_fatal("plugin fake { word = w allow_private = { \"127.0.0.0/9\", \"fd00::/8\" }\n"
                   " target \"http://a.example/\" { timeout = 5s proxy = \"http://b:1\" } }\n");
    CU_ASSERT_FALSE(conf_lane_same(&kept, &c->plugin[0].lane));
    CU_ASSERT_EQUAL(target_of(c, "http://a.example:80/")->lane.outside->n_private, 2);
    conf_free(&c);
    conf_lane_clear(&kept);

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        snprintf(text, sizeof text, "plugin bare {\nallow_private = { \"10.0.0.0/8\", \"%s\" } }\n", bad[i]);
        CU_ASSERT_PTR_NULL(load(text));
        CU_ASSERT(said("omi.conf:2: plugin bare: allow_private: expected "));
    }
    CU_ASSERT_PTR_NULL(load("plugin bare { target \"http://a.example/\" {\nallow_private = { \"10.0.0.0/8\" } } }\n"));
    CU_ASSERT(said("omi.conf:2: "));
}

#define CLIENT "plugin bare {\n tls {\n  certificate = \"c.pem\"\n  key = \"k.pem\"\n }\n}\n"

/* What is wrong with an address is told, not the password that somebody put into it. */
static void test_bad_addresses(void)
{
    static const struct {
        const char *prefix, *said;
    } targets[] = {
        {"https://me:hush@a.example/", "expected a URL without user, query and fragment"},
        {"https://a.example/?key=hush", "expected a URL without user, query and fragment"},
        {"https://a.example/#hush", "expected a URL without user, query and fragment"},
        {"me:hush@a.example", "expected the beginning of a URL"},
        {"me://hu://sh:hush@a.example", "expected the beginning of a URL"},
        {"https://me:hu/sh:hush@a.example/", ""}, /* a path with an @ in it; its port is none */
        {"https://a.example:0/", "expected a port from 1 to 65535"},
        {"https://a.example:65536/", "expected a port from 1 to 65535"},
        {"https://a.example:443x/", "expected a port from 1 to 65535"},
        {"https://a.example:0443/", "expected a port from 1 to 65535"},
        {"https://[::1/", "expected a port from 1 to 65535"},
        {"https://:443/", "expected the beginning of a URL"},
        {"https://", "expected the beginning of a URL"},
        {"ftp://a.example/", "expected the beginning of a URL"},
        {"", "expected the beginning of a URL"},
    };
    static const char *const proxies[] = {"http://me:hush@a:3128", "http://a:3128/?hush", "me:hush@a:3128",
                                          "https://me:hush@a:1",   "http://a:0",          "http://a:65536",
                                          "http://a:99999",        "http://:3128",        "http://a"};
    char text[256];
    struct conf *c;

    for (size_t i = 0; i < ARRAY_LEN(targets); i++) {
        snprintf(text, sizeof text, "plugin bare { target \"%s\" {\ntimeout = 5s } }\n", targets[i].prefix);
        CU_ASSERT_PTR_NULL(load(text));
        CU_ASSERT(said("omi.conf:1: plugin bare: target ") && said(targets[i].said));
        CU_ASSERT_FALSE(leaked("hush"));
        snprintf(text, sizeof text, "plugin bare { target \"%s\" {\ntimeout = 5 } }\n", targets[i].prefix);
        CU_ASSERT_PTR_NULL(load(text));
        CU_ASSERT_FALSE(leaked("hush"));
    }
    for (size_t i = 0; i < ARRAY_LEN(proxies); i++) {
        snprintf(text, sizeof text, "plugin bare {\nproxy = \"%s\" }\n", proxies[i]);
        CU_ASSERT_PTR_NULL(load(text));
        CU_ASSERT(said("omi.conf:2: plugin bare: proxy: expected http://HOST:PORT or none"));
        CU_ASSERT_FALSE(leaked("hush"));
    }
    CU_ASSERT_PTR_NULL(load("plugin bare { proxy = \"http://a:1\"\nproxy_auth = me:correct hush\n }\n"));
    CU_ASSERT(said("omi.conf:2: plugin bare: proxy_auth: expected one value, found more behind it"));
    CU_ASSERT_FALSE(leaked("hush"));
    CU_ASSERT_PTR_NULL(load("plugin fake { word = w\nkey = correct hush\n }\n"));
    CU_ASSERT(said("omi.conf:2: plugin fake: key: expected one value, found more behind it"));
    CU_ASSERT_FALSE(leaked("hush"));
    c = load_fatal("plugin bare { proxy = \"http://[::1]:65535\" target \"wss://[::1]:1/@x\" { timeout = 5s } }\n");
    CU_ASSERT_STRING_EQUAL(c->plugin[0].lane.targets->target[0].prefix, "wss://[::1]:1/@x");
    conf_free(&c);
}

static void test_certificates(void)
{
    EVP_PKEY *k = pem_key(), *other = pem_key();
    char *cert = pem_of_certificate(k, "client", 86400), *old = pem_of_certificate(k, "client", -3600);
    char *key = pem_of_key(k, NULL), *wrong = pem_of_key(other, NULL), *locked = pem_of_key(k, "secret");

    put("c.pem", cert, 0644);
    put("k.pem", key, 0600);
    struct conf *c = load_fatal(CLIENT "plugin fake { word = w tls { ca = c.pem }\n"
                                       " target \"https://a/\" { tls { certificate = c.pem key = k.pem } } }\n");
    CU_ASSERT_EQUAL(faults.warnings, 0);
    const struct conf_outside *o = c->plugin[0].lane.outside;
    CU_ASSERT(o->certificate.len == strlen(cert) && memcmp(o->certificate.data, cert, o->certificate.len) == 0);
    CU_ASSERT(o->key.len == strlen(key) && o->ca.data == NULL && o->proxy == NULL);
    o = c->plugin[1].lane.outside;
    CU_ASSERT(o->ca.len == strlen(cert) && o->certificate.data == NULL);
    o = c->plugin[1].lane.targets->target[0].lane.outside;
    CU_ASSERT(o->ca.len == strlen(cert) && o->key.len == strlen(key));

    /* Renewed in place: it is another one, though not a byte of omi.conf has changed. */
    struct conf_lane kept;
    conf_lane_copy(&kept, &c->plugin[0].lane);
    conf_free(&c);
    c = load_fatal(CLIENT);
    CU_ASSERT(conf_lane_same(&kept, &c->plugin[0].lane));
    conf_free(&c);
    put("c.pem", old, 0644);
    c = load_fatal(CLIENT);
    CU_ASSERT(said("omi.conf:3: warning: plugin bare: tls.certificate: the certificate in "));
    CU_ASSERT_FALSE(conf_lane_same(&kept, &c->plugin[0].lane));
    conf_free(&c);
    conf_lane_clear(&kept);

    put("c.pem", cert, 0644);
    put("k.pem", key, 0644);
    c = load_fatal(CLIENT);
    CU_ASSERT(said("omi.conf:4: warning: plugin bare: tls.key: every user of this machine can read "));
    conf_free(&c);

    put("k.pem", wrong, 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("omi.conf:4: plugin bare: tls.key: expected the key of the certificate in "));
    put("k.pem", locked, 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("omi.conf:4: plugin bare: tls.key: ") && said("has a passphrase"));
    put("k.pem", cert, 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("there is no private key in it"));
    put("k.pem", key, 0600);
    put("c.pem", key, 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("omi.conf:3: plugin bare: tls.certificate: ") && said("there is no certificate in it"));
    cert[strlen(cert) / 2] = '!';
    put("c.pem", cert, 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("omi.conf:3: plugin bare: tls.certificate: "));
    CU_ASSERT_PTR_NULL(strstr(faults.text.data, "PRIVATE"));
    put("c.pem", "", 0600);
    CU_ASSERT_PTR_NULL(load(CLIENT));
    CU_ASSERT(said("there is no certificate in it"));
    free(cert);
    free(old);
    free(key);
    free(wrong);
    free(locked);
    EVP_PKEY_free(k);
    EVP_PKEY_free(other);
}

static void test_same(void)
{
    static const char *const texts[] = {
        "plugin bare { }",
        "plugin bare { follow = 1 }",
        "plugin bare { breaker { window = 31s } }",
        "plugin bare { breaker { slow_share = 0.7 } }",
        "plugin bare { proxy = \"http://a:1\" }",
        "plugin bare { proxy = \"http://a:2\" }",
        "plugin bare { proxy = \"http://a:1\" proxy_auth = \"a:b\" }",
        "plugin bare { target \"http://a/\" { timeout = 5s } }",
        "plugin bare { target \"http://a/\" { timeout = 6s } }",
        "plugin bare { target \"http://a/b\" { timeout = 5s } }",
        "plugin bare { target \"http://a/\" { timeout = 5s proxy = \"http://a:1\" } }",
        "plugin bare { target \"http://a/\" { timeout = 5s } target \"http://b/\" { timeout = 5s } }",
    };
    enum { N = sizeof texts / sizeof texts[0] };
    struct conf *a[N], *b[N];

    for (unsigned i = 0; i < N; i++) {
        a[i] = load_fatal(texts[i]);
        b[i] = load_fatal(texts[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        for (unsigned k = 0; k < N; k++)
            CU_ASSERT_EQUAL(conf_lane_same(&a[i]->plugin[0].lane, &b[k]->plugin[0].lane), i == k);
    }
    for (unsigned i = 0; i < N; i++) {
        conf_free(&a[i]);
        conf_free(&b[i]);
    }
}

static int suite_end(void)
{
    char command[300];
    conf_faults_free(&faults);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    if (!mkdtemp(dir))
        return 1;
    CU_TestInfo tests[] = {
        {"target blocks", test_targets},
        {"proxies", test_proxy},
        {"opened networks", test_allow_private},
        {"bad addresses", test_bad_addresses},
        {"certificates", test_certificates},
        {"what differs", test_same},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"conf, lanes", NULL, suite_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
