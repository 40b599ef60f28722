/* What decides, without sockets and with a driven clock: breakers, target keys, addresses, the upgrade's answer. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wsframe.h"
#include "lane/http/breaker.h"
#include "lane/http/cachecontrol.h"
#include "lane/http/guard.h"
#include "lane/http/lane_int.h"
#include "lane/http/wsupgrade.h"
#include "unit.h"

static const struct breaker_config conf = {.failures = 5,
                                           .open_ms = 30000,
                                           .open_max_ms = 600000,
                                           .min_attempts = 20,
                                           .error_rate = 0.5,
                                           .slow_share = 0.8,
                                           .period_ms = 30000};
#define MIDDLE 0.5 /* no jitter */

static void attempt(struct breaker *b, uint64_t now, enum breaker_outcome outcome)
{
    struct breaker_token t;
    CU_ASSERT_FATAL(breaker_admit(b, now, 1000, &t));
    breaker_report(b, &conf, now, MIDDLE, &t, outcome, 0);
}

/* A dead target gets five attempts, then one per window, which doubles up to the cap. */
static void test_breaker_dead(void)
{
    struct breaker b;
    struct breaker_token t;
    unsigned attempts = 0;
    uint64_t probes[64];

    breaker_init(&b, 0);
    for (uint64_t now = 0; now < 3600 * 1000; now += 100) {
        if (!breaker_admit(&b, now, 1000, &t))
            continue;
        CU_ASSERT_FATAL(attempts < 64);
        probes[attempts++] = now;
        breaker_report(&b, &conf, now, MIDDLE, &t, BREAKER_FAILURE, 0);
    }
    CU_ASSERT_EQUAL(b.why, BREAKER_PROBE_FAILED);
    CU_ASSERT_EQUAL(probes[4], 400);
    CU_ASSERT_EQUAL(probes[5] - probes[4], 30000);
    CU_ASSERT_EQUAL(probes[6] - probes[5], 60000);
    CU_ASSERT_EQUAL(probes[9] - probes[8], 480000);
    CU_ASSERT_EQUAL(probes[10] - probes[9], 600000);
    CU_ASSERT_EQUAL(probes[11] - probes[10], 600000);
    CU_ASSERT_EQUAL(attempts, 5 + 9);
}

static void test_breaker_jitter(void)
{
    for (unsigned i = 0; i < 2; i++) {
        struct breaker b;
        struct breaker_token t;
        breaker_init(&b, 0);
        for (unsigned k = 0; k < 5; k++) {
            CU_ASSERT_FATAL(breaker_admit(&b, 0, 1000, &t));
            breaker_report(&b, &conf, 0, i ? 0.999999 : 0, &t, BREAKER_FAILURE, 0);
        }
        uint64_t until = i ? 35999 : 24000;
        CU_ASSERT_FALSE(breaker_ready(&b, until - 2));
        CU_ASSERT_TRUE(breaker_ready(&b, until + 1));
    }
}

/* Never five in a row, but half of them: the window catches it at its twentieth attempt. */
static void test_breaker_every_second(void)
{
    struct breaker b;
    uint64_t now = 0;
    unsigned n = 0;

    breaker_init(&b, 0);
    while (b.state == BREAKER_CLOSED && now < 30000) {
        attempt(&b, now, n++ % 2 ? BREAKER_FAILURE : BREAKER_SUCCESS);
        now += 1000;
    }
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    CU_ASSERT_EQUAL(b.why, BREAKER_FAILURE_RATE);
    CU_ASSERT_EQUAL(n, 20);

    /* The same rate spread so thinly that no window holds twenty. */
    breaker_init(&b, 0);
    for (n = 0, now = 0; n < 200; n++, now += 2000)
        attempt(&b, now, n % 2 ? BREAKER_FAILURE : BREAKER_SUCCESS);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);

    /* A third fails: never. */
    breaker_init(&b, 0);
    for (n = 0, now = 0; n < 3000; n++, now += 10)
        attempt(&b, now, n % 3 ? BREAKER_SUCCESS : BREAKER_FAILURE);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
}

static void test_breaker_slow(void)
{
    struct breaker_config slow = conf;
    struct breaker b;
    struct breaker_token t;
    unsigned n = 0;

    slow.slow_ms = 500;
    breaker_init(&b, 0);
    for (; b.state == BREAKER_CLOSED && n < 100; n++) {
        CU_ASSERT_FATAL(breaker_admit(&b, n, 1000, &t));
        breaker_report(&b, &slow, n, MIDDLE, &t, BREAKER_SUCCESS, n % 5 ? 600 : 100);
    }
    CU_ASSERT_EQUAL(n, 20);
}

/* The window and the share of slow calls are settings; so is a change of the window while it is there. */
static void test_breaker_window(void)
{
    struct breaker_config with = conf;
    struct breaker b;
    uint64_t now = 0;
    unsigned n = 0;

    with.slow_ms = 500;
    with.slow_share = 0.3;
    breaker_init(&b, 0);
    for (; b.state == BREAKER_CLOSED && n < 100; n++) {
        struct breaker_token t;
        CU_ASSERT_FATAL(breaker_admit(&b, n, 1000, &t));
        breaker_report(&b, &with, n, MIDDLE, &t, BREAKER_SUCCESS, n % 10 < 3 ? 600 : 100);
    }
    CU_ASSERT_TRUE(n == 20 && b.why == BREAKER_SLOW_CALLS);
    /* Every second call fails, one a second: thirty of them are in 30 s, ten in 10 s, which are too few. */
    for (unsigned period = 10000; period <= 30000; period += 20000) {
        with = conf;
        with.period_ms = period;
        breaker_init(&b, 0);
        for (n = 0; b.state == BREAKER_CLOSED && n < 300; n++) {
            struct breaker_token t;
            CU_ASSERT_FATAL(breaker_admit(&b, n * 1000, 1000, &t));
            breaker_report(&b, &with, n * 1000, MIDDLE, &t, n % 2 ? BREAKER_FAILURE : BREAKER_SUCCESS, 0);
        }
        CU_ASSERT_EQUAL(n, period == 10000 ? 300 : 20);
    }
    /* Another window forgets what the old one counted; what came in a row, and the state, stay. */
    breaker_init(&b, 0);
    with.period_ms = 30000;
    for (n = 0; n < 19; n++) {
        struct breaker_token t;
        CU_ASSERT_FATAL(breaker_admit(&b, now, 1000, &t));
        breaker_report(&b, &with, now, MIDDLE, &t, n % 2 ? BREAKER_SUCCESS : BREAKER_FAILURE, 0);
    }
    CU_ASSERT_TRUE(b.state == BREAKER_CLOSED && b.consecutive == 1);
    with.period_ms = 60000;
    for (n = 0; n < 4; n++) {
        struct breaker_token t;
        CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
        CU_ASSERT_FATAL(breaker_admit(&b, now, 1000, &t));
        breaker_report(&b, &with, now, MIDDLE, &t, BREAKER_FAILURE, 0);
    }
    CU_ASSERT_TRUE(b.state == BREAKER_OPEN && b.why == BREAKER_CONSECUTIVE);
    with.period_ms = 1000;
    CU_ASSERT_FALSE(breaker_ready(&b, 29999));
    CU_ASSERT_TRUE(breaker_ready(&b, 30000));
}

/* The share and the number that it needs are settings. */
static void test_breaker_rate(void)
{
    struct breaker_config strict = conf;
    struct breaker b;
    struct breaker_token t;
    unsigned n = 0;

    strict.error_rate = 0.1;
    strict.min_attempts = 50;
    breaker_init(&b, 0);
    for (; b.state == BREAKER_CLOSED && n < 1000; n++) {
        CU_ASSERT_FATAL(breaker_admit(&b, n, 1000, &t));
        breaker_report(&b, &strict, n, MIDDLE, &t, n % 9 ? BREAKER_SUCCESS : BREAKER_FAILURE, 0);
    }
    CU_ASSERT_EQUAL(n, 50);
    breaker_init(&b, 0);
    for (n = 0; n < 1000; n++) { /* one of eleven: less than a tenth, once there are fifty */
        CU_ASSERT_FATAL(breaker_admit(&b, n, 1000, &t));
        breaker_report(&b, &strict, n, MIDDLE, &t, n % 11 == 10 ? BREAKER_FAILURE : BREAKER_SUCCESS, 0);
    }
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    strict.error_rate = 1; /* all of them */
    strict.failures = 1000;
    strict.min_attempts = 1;
    breaker_init(&b, 0);
    attempt(&b, 0, BREAKER_SUCCESS);
    CU_ASSERT_FATAL(breaker_admit(&b, 0, 1000, &t));
    breaker_report(&b, &strict, 0, MIDDLE, &t, BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    breaker_init(&b, 0);
    CU_ASSERT_FATAL(breaker_admit(&b, 0, 1000, &t));
    breaker_report(&b, &strict, 0, MIDDLE, &t, BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
}

static void test_breaker_4xx(void)
{
    struct breaker b;
    struct breaker_token t;

    breaker_init(&b, 0);
    for (unsigned i = 0; i < 1000; i++)
        attempt(&b, i, BREAKER_ANSWERED);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    /* It neither counts nor interrupts a row. */
    for (unsigned i = 0; i < 5; i++) {
        attempt(&b, 1000, BREAKER_FAILURE);
        if (i < 4)
            attempt(&b, 1000, BREAKER_ANSWERED);
    }
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    /* An answering target is a living one. */
    CU_ASSERT_TRUE(breaker_admit(&b, 31000, 1000, &t));
    breaker_report(&b, &conf, 31000, MIDDLE, &t, BREAKER_ANSWERED, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
}

static void open_it(struct breaker *b)
{
    breaker_init(b, 0);
    for (unsigned i = 0; i < 5; i++)
        attempt(b, 0, BREAKER_FAILURE);
    CU_ASSERT_EQUAL_FATAL(b->state, BREAKER_OPEN);
}

static void test_breaker_probe(void)
{
    struct breaker b;
    struct breaker_token first, second, other;

    open_it(&b);
    CU_ASSERT_FALSE(breaker_admit(&b, 29999, 1000, &first));
    CU_ASSERT_TRUE(breaker_admit(&b, 30000, 1000, &first));
    CU_ASSERT_TRUE(first.probe);
    CU_ASSERT_FALSE(breaker_admit(&b, 30500, 1000, &other)); /* one at a time */
    /* Its deadline passes: another takes its place, and the late one speaks for nobody. */
    CU_ASSERT_TRUE(breaker_admit(&b, 31000, 1000, &second));
    breaker_report(&b, &conf, 31001, MIDDLE, &first, BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_HALF_OPEN);
    CU_ASSERT_FALSE(breaker_admit(&b, 31500, 1000, &other));
    breaker_report(&b, &conf, 31600, MIDDLE, &second, BREAKER_SUCCESS, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    /* After a recovery the first window is the short one again. */
    for (unsigned i = 0; i < 5; i++)
        attempt(&b, 40000, BREAKER_FAILURE);
    CU_ASSERT_FALSE(breaker_ready(&b, 69999));
    CU_ASSERT_TRUE(breaker_ready(&b, 70000));
}

/* Cancelled and late probes, a thousand of them, leak no place. */
static void test_breaker_probe_leak(void)
{
    struct breaker b;
    struct breaker_token t, late;
    uint64_t now = 30000;

    open_it(&b);
    for (unsigned i = 0; i < 1000; i++) {
        CU_ASSERT_TRUE_FATAL(breaker_admit(&b, now, 1000, &t));
        breaker_report(&b, &conf, now, MIDDLE, &t, BREAKER_NEUTRAL, 0);
        CU_ASSERT_EQUAL(b.state, BREAKER_HALF_OPEN);
        CU_ASSERT_TRUE_FATAL(breaker_admit(&b, now, 1000, &late));
        now += 1000;
        CU_ASSERT_TRUE_FATAL(breaker_admit(&b, now, 1000, &t));
        breaker_report(&b, &conf, now, MIDDLE, &late, BREAKER_SUCCESS, 0);
        CU_ASSERT_EQUAL(b.state, BREAKER_HALF_OPEN);
        breaker_report(&b, &conf, now, MIDDLE, &t, BREAKER_NEUTRAL, 0);
    }
    CU_ASSERT_TRUE(breaker_ready(&b, now));
}

/* What was under way when it opened says nothing about the probe. */
static void test_breaker_old_attempts(void)
{
    struct breaker b;
    struct breaker_token old[10], probe;

    breaker_init(&b, 0);
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_TRUE(breaker_admit(&b, 0, 1000, &old[i]));
    for (unsigned i = 0; i < 5; i++)
        breaker_report(&b, &conf, 0, MIDDLE, &old[i], BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    breaker_report(&b, &conf, 10, MIDDLE, &old[5], BREAKER_SUCCESS, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    CU_ASSERT_TRUE(breaker_admit(&b, 30000, 1000, &probe));
    breaker_report(&b, &conf, 30001, MIDDLE, &old[6], BREAKER_SUCCESS, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_HALF_OPEN);
    breaker_report(&b, &conf, 30002, MIDDLE, &probe, BREAKER_SUCCESS, 0);
    breaker_report(&b, &conf, 30003, MIDDLE, &old[7], BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    CU_ASSERT_EQUAL(b.consecutive, 0);
}

/* An operator's word: closed at once, whatever was under way. */
static void test_breaker_reset(void)
{
    struct breaker b;
    struct breaker_token probe;

    open_it(&b);
    breaker_reset(&b, 10);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    CU_ASSERT_EQUAL(b.since_ms, 10);
    for (unsigned i = 0; i < 4; i++)
        attempt(&b, 20, BREAKER_FAILURE);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    breaker_reset(&b, 30); /* closed already: its counts stay */
    CU_ASSERT_EQUAL(b.since_ms, 10);
    attempt(&b, 40, BREAKER_FAILURE);
    CU_ASSERT_EQUAL(b.state, BREAKER_OPEN);
    /* While a probe is under way: it reports to nobody. */
    CU_ASSERT_TRUE_FATAL(breaker_admit(&b, 30040, 1000, &probe));
    breaker_reset(&b, 30050);
    breaker_report(&b, &conf, 30060, MIDDLE, &probe, BREAKER_FAILURE, 0);
    CU_ASSERT_EQUAL(b.state, BREAKER_CLOSED);
    CU_ASSERT_EQUAL(b.consecutive, 0);
    /* The next window is the first one again. */
    for (unsigned i = 0; i < 5; i++)
        attempt(&b, 40000, BREAKER_FAILURE);
    CU_ASSERT_TRUE(breaker_ready(&b, 70000));
}

static void test_latency(void)
{
    static struct latency t; /* zeroed */

    CU_ASSERT_EQUAL(latency_quantile(&t, 0, 0.5), 0);
    /* Every value lies below the bound that is told, and that by an eighth of it at most. */
    for (uint64_t us = 1; us < UINT64_C(1) << 31; us = us * 5 / 4 + 1) {
        struct latency one = {0};
        latency_add(&one, 0, us);
        uint64_t got = latency_quantile(&one, 0, 0.5);
        CU_ASSERT_TRUE(got > us && (us < 64 ? got <= us + 8 : got <= us + us / 8 + 1));
    }
    for (unsigned i = 0; i < 98; i++)
        latency_add(&t, 1000, 1000);
    latency_add(&t, 1000, 500000);
    latency_add(&t, 1000, UINT64_MAX); /* more than any bucket: the last one */
    CU_ASSERT_EQUAL(latency_quantile(&t, 1000, 0.5), 1024);
    CU_ASSERT_TRUE(latency_quantile(&t, 1000, 0.985) > 500000 && latency_quantile(&t, 1000, 0.985) < 600000);
    CU_ASSERT_EQUAL(latency_quantile(&t, 1000, 0.995), UINT64_C(1) << 32);
    /* What is old goes: two windows on, or much later. */
    latency_add(&t, 61000, 10);
    CU_ASSERT_EQUAL(latency_quantile(&t, 61000, 0.5), 1024);
    CU_ASSERT_EQUAL(latency_quantile(&t, 120000, 0.5), 16);
    CU_ASSERT_EQUAL(latency_quantile(&t, 180000, 0.5), 0);
    latency_add(&t, 3600000, 10);
    CU_ASSERT_EQUAL(latency_quantile(&t, 3600000, 0.99), 16);
}

static void test_target_keys(void)
{
    static const struct {
        const char *url, *key;
    } cases[] = {
        {"http://Example.COM/Hook?uid=secret", "http://example.com:80/Hook"},
        {"https://example.com", "https://example.com:443/"},
        {"HTTPS://example.com:8443/a/b#frag", "https://example.com:8443/a/b"},
        {"http://user:pass@host/x", "http://host:80/x"},
        {"http://user@evil:1@host?q", "http://host:80/"},
        {"http://[::1]:8080/x", "http://[::1]:8080/x"},
        {"http://[2001:db8::1]/", "http://[2001:db8::1]:80/"},
        {"wss://api.example.com/v1/listen?model=x", "wss://api.example.com:443/v1/listen"},
        {"http://host:/x", "http://host:80/x"},
        {"ftp://host/", NULL},
        {"http:/host", NULL},
        {"http://", NULL},
        {"http://?x", NULL},
        {"http://:80/", NULL},
        {"http://ho st/", NULL},
        {"http://host/\r\nX: y", NULL},
        {"http://host\\@evil/", NULL},
        {"", NULL},
        {"file:///etc/passwd", NULL},
    };
    char key[256];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool ok = url_key(cases[i].url, key, strlen(cases[i].url) + URL_KEY_EXTRA);
        CU_ASSERT_EQUAL(ok, cases[i].key != NULL);
        if (ok && cases[i].key && strcmp(key, cases[i].key) != 0) {
            fprintf(stderr, "%s: %s\n", cases[i].url, key);
            CU_FAIL("wrong key");
        }
    }
}

static void test_guard(void)
{
    static const char *const refused[] = {
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.0.3",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.7",
        "203.0.113.9",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd12::3",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001::1",
        "2001:db8::1",
        "100::1",
        "3fff::1",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "2001:0:7f00:1::1",
        "localhost",
        "",
        "127.1",
        "fe80::1%lo",
    };
    static const char *const allowed[] = {
        "1.1.1.1",         "8.8.8.8",        "100.63.255.255",   "100.128.0.1",     "172.15.0.1",
        "172.32.0.1",      "192.0.1.1",      "198.17.0.1",       "223.255.255.255", "2606:4700::1111",
        "2001:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (guard_allows_text(refused[i], NULL, 0)) {
            fprintf(stderr, "allowed: %s\n", refused[i]);
            CU_FAIL("a private address is allowed");
        }
    }
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++) {
        if (!guard_allows_text(allowed[i], NULL, 0)) {
            fprintf(stderr, "refused: %s\n", allowed[i]);
            CU_FAIL("a public address is refused");
        }
    }
    struct sockaddr_in6 scoped = {.sin6_family = AF_INET6, .sin6_scope_id = 1};
    inet_pton(AF_INET6, "2606:4700::1111", &scoped.sin6_addr);
    CU_ASSERT_FALSE(guard_allows((struct sockaddr *)&scoped, sizeof scoped, NULL, 0));
    struct sockaddr other = {.sa_family = AF_UNIX};
    CU_ASSERT_FALSE(guard_allows(&other, sizeof other, NULL, 0));
}

/* What is opened, and nothing beside it. */
static void test_guard_opened(void)
{
    static const char *const networks[] = {"127.0.0.0/8", "10.1.2.3", "fd00:1::/32", "fe80::/10"};
    static const char *const open_now[] = {"127.0.0.1",     "127.255.0.3",     "::ffff:127.0.0.1",
                                           "10.1.2.3",      "::ffff:10.1.2.3", "fd00:1::1",
                                           "fd00:1:ffff::", "fe80::1",         "8.8.8.8"};
    static const char *const shut[] = {"0.0.0.0",    "10.1.2.2",        "10.1.2.4",       "127.1",
                                       "::1",        "64:ff9b::7f00:1", "2002:7f00:1::",  "fd00:2::1",
                                       "fc00:1::1",  "::127.0.0.1",     "192.168.0.1",    "::",
                                       "fe80::1%lo", "ff02::1",         "169.254.169.254"};
    struct cidr open[ARRAY_LEN(networks)], all;

    for (size_t i = 0; i < ARRAY_LEN(networks); i++)
        CU_ASSERT_TRUE(cidr_parse(networks[i], &open[i]));
    for (size_t i = 0; i < ARRAY_LEN(open_now); i++)
        CU_ASSERT_TRUE(guard_allows_text(open_now[i], open, ARRAY_LEN(open)));
    for (size_t i = 0; i < ARRAY_LEN(shut); i++)
        CU_ASSERT_FALSE(guard_allows_text(shut[i], open, ARRAY_LEN(open)));
    struct sockaddr_in6 scoped = {.sin6_family = AF_INET6, .sin6_scope_id = 1};
    inet_pton(AF_INET6, "fe80::1", &scoped.sin6_addr);
    CU_ASSERT_FALSE(guard_allows((struct sockaddr *)&scoped, sizeof scoped, open, ARRAY_LEN(open)));
    scoped.sin6_scope_id = 0;
    CU_ASSERT_TRUE(guard_allows((struct sockaddr *)&scoped, sizeof scoped, open, ARRAY_LEN(open)));

    CU_ASSERT_TRUE(cidr_parse("::/0", &all));
    CU_ASSERT_TRUE(guard_allows_text("::1", &all, 1));
    CU_ASSERT_FALSE(guard_allows_text("127.0.0.1", &all, 1));
    CU_ASSERT_FALSE(guard_allows_text("::ffff:127.0.0.1", &all, 1));
    CU_ASSERT_TRUE(cidr_parse("0.0.0.0/0", &all));
    CU_ASSERT_TRUE(guard_allows_text("127.0.0.1", &all, 1));
    CU_ASSERT_FALSE(guard_allows_text("::1", &all, 1));

    CU_ASSERT_TRUE(guard_has_zone("http://[fe80::1%25lo]:80/"));
    CU_ASSERT_TRUE(guard_has_zone("http://[::1%lo]:80/"));
    CU_ASSERT_FALSE(guard_has_zone("http://[::1]:80/%25"));
    CU_ASSERT_FALSE(guard_has_zone("http://a%25b:80/"));
}

static void test_headers(void)
{
    const char *good[] = {"X-A: 1", "Authorization: Token abc", "Empty:", NULL};
    static const char *const bad[] = {
        "no colon", ": value", "A B: c", "X: a\r\nY: b", "X: a\n", "Content-Length: 3", "transfer-encoding: chunked",
        "X\r: y"};
    CU_ASSERT_TRUE(request_headers_ok(NULL));
    CU_ASSERT_TRUE(request_headers_ok(good));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *one[] = {bad[i], NULL};
        CU_ASSERT_FALSE(request_headers_ok(one));
    }
}

static int check(const char *text, const char *key, int *status)
{
    size_t used = 0;
    const char *why = NULL;
    return ws_answer_check(text, strlen(text), key, &used, status, &why);
}

static void test_upgrade(void)
{
    static const char key[] = "dGhlIHNhbXBsZSBub25jZQ=="; /* RFC 6455, 1.3 */
#define ACCEPT "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
#define UP "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    static const struct {
        const char *text;
        int rc, status;
    } cases[] = {
        {"HTTP/1.1 101 Switching Protocols\r\n" UP ACCEPT "\r\n", 1, 101},
        {"HTTP/1.1 101\r\n" UP ACCEPT "\r\n", 1, 101},
        {"HTTP/1.1 101 x\r\nUPGRADE: WebSocket\r\nconnection: keep-alive,  upgrade\r\n" ACCEPT "\r\n", 1, 101},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 x\r\n" UP ACCEPT "\r\n", 1, 101},
        {"HTTP/1.1 101 x\r\n" UP "\r\n", -1, 0},
        {"HTTP/1.1 101 x\r\n" UP "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", -1, 0},
        {"HTTP/1.1 101 x\r\nConnection: Upgrade\r\n" ACCEPT "\r\n", -1, 0},
        {"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n" ACCEPT "\r\n", -1, 0},
        {"HTTP/1.1 101 x\r\n" UP ACCEPT "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", -1, 0},
        {"HTTP/1.1 101 x\r\n" UP ACCEPT "garbage\r\n\r\n", -1, 0},
        {"HTTP/1.1 401 Unauthorized\r\n\r\n", -1, 401},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", -1, 200},
        {"HTTP/1.1 1011 x\r\n\r\n", -1, 0},
        {"HTTP/1.1 abc\r\n\r\n", -1, 0},
        {"HTTP/2 101\r\n\r\n", -1, 0},
        {"SSH-2.0-x\r\n", -1, 0},
        {"HT", 0, 0},
        {"HTTP/1.1 101 x\r\nUpgrade: ", 0, 0},
        {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = -1;
        CU_ASSERT_EQUAL(check(cases[i].text, key, &status), cases[i].rc);
        CU_ASSERT_EQUAL(status, cases[i].status);
    }
    char *endless = malloc(WS_MAX_ANSWER + 1);
    memset(endless, 'a', WS_MAX_ANSWER);
    endless[WS_MAX_ANSWER] = 0;
    memcpy(endless, "HTTP/1.1 101 x\r\n", 16);
    int status;
    CU_ASSERT_EQUAL(check(endless, key, &status), -1);
    free(endless);
}

static void test_ws_urls(void)
{
    struct ws_url u;
    const char *why;
    CU_ASSERT_TRUE_FATAL(ws_url_parse("wss://api.example.com/v1/listen?a=b&c=d", &u, &why));
    CU_ASSERT_STRING_EQUAL(u.http, "https://api.example.com/v1/listen?a=b&c=d");
    CU_ASSERT_STRING_EQUAL(u.host, "api.example.com");
    CU_ASSERT_STRING_EQUAL(u.path, "/v1/listen?a=b&c=d");
    CU_ASSERT_TRUE(u.tls);
    ws_url_free(&u);
    CU_ASSERT_TRUE_FATAL(ws_url_parse("WS://[::1]:9", &u, &why));
    CU_ASSERT_STRING_EQUAL(u.host, "[::1]:9");
    CU_ASSERT_STRING_EQUAL(u.path, "/");
    CU_ASSERT_FALSE(u.tls);
    ws_url_free(&u);
    static const char *const bad[] = {"http://x/", "ws://",       "ws:///x",  "ws://u:p@h/",
                                      "ws://h/ x", "ws://h\r\n/", "wsx://h/", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT_FALSE(ws_url_parse(bad[i], &u, &why));
        CU_ASSERT_PTR_NULL(u.http);
    }
}

static void test_cache_control(void)
{
    static const struct {
        const char *field;
        int64_t age;
    } table[] = {
        {"", -1},
        {",,", -1},
        {"public", -1},
        {"public, max-age=22000, must-revalidate, no-transform", 22000},
        {"MAX-AGE=5", 5},
        {" max-age=\"7\" ", 7},
        {"max-age=0", 0},
        {"max-age=100,max-age=20", 20},
        {"max-age=100, no-cache", 0},
        {"no-store", 0},
        {"no-cache=\"set-cookie\"", 0},
        {"s-maxage=9", -1},
        {"max-age", 0},
        {"max-age=", 0},
        {"max-age=-1", 0},
        {"max-age=1e3", 0},
        {"max-age= 5", 0},
        {"max-age=99999999999999999999999", CACHE_MAX_S},
        {"xmax-age=4", -1},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CU_ASSERT_EQUAL(cache_max_age(table[i].field), table[i].age);
    CU_ASSERT_EQUAL(cache_lesser(-1, 5), 5);
    CU_ASSERT_EQUAL(cache_lesser(5, -1), 5);
    CU_ASSERT_EQUAL(cache_lesser(5, 4), 4);
    CU_ASSERT_EQUAL(cache_lesser(-1, -1), -1);
    CU_ASSERT_EQUAL(cache_aged(100, NULL), 100);
    CU_ASSERT_EQUAL(cache_aged(100, "30"), 70);
    CU_ASSERT_EQUAL(cache_aged(100, "300"), 0);
    CU_ASSERT_EQUAL(cache_aged(100, "x"), 100);
    CU_ASSERT_EQUAL(cache_aged(-1, "30"), -1);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"a dead target: 5 attempts, then one per window", test_breaker_dead},
        {"the share of failures is a setting", test_breaker_rate},
        {"reset by an operator", test_breaker_reset},
        {"quantiles of late attempts", test_latency},
        {"jitter stays within 20 %", test_breaker_jitter},
        {"every second call fails", test_breaker_every_second},
        {"slow calls", test_breaker_slow},
        {"the window is a setting", test_breaker_window},
        {"4xx never trips", test_breaker_4xx},
        {"one probe at a time", test_breaker_probe},
        {"cancelled and late probes leak no place", test_breaker_probe_leak},
        {"attempts of before the opening", test_breaker_old_attempts},
        {"target keys", test_target_keys},
        {"public addresses", test_guard},
        {"opened addresses", test_guard_opened},
        {"header lines", test_headers},
        {"answers to the upgrade", test_upgrade},
        {"WebSocket URLs", test_ws_urls},
        {"Cache-Control", test_cache_control},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"lane rules", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
