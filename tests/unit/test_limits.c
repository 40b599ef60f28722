/* Limits per address and user with a driven clock; networks; who is behind a proxy. */
#include <stdio.h>
#include <string.h>

#include "base/cidr.h"
#include "base/magic.h"
#include "ingress/limits.h"
#include "ingress/proxy.h"
#include "unit.h"

#define T0 UINT64_C(1000000)

static struct limits *l;
static unsigned retry_s;

static enum limits_verdict enter(const char *key, unsigned sessions, unsigned per_minute, uint64_t now)
{
    struct limits_bounds b = {sessions, per_minute};
    return limits_enter(l, LIMITS_UID, key, &b, now, &retry_s);
}

static void leave(const char *key, uint64_t now)
{
    limits_leave(l, LIMITS_UID, key, now);
}

static void fresh(size_t entries)
{
    limits_free(&l);
    l = limits_new(entries);
    CU_ASSERT_PTR_NOT_NULL_FATAL(l);
}

static void test_sessions(void)
{
    fresh(100);
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(enter("a", 3, 100, T0), LIMITS_OK);
    CU_ASSERT_EQUAL(enter("a", 3, 100, T0), LIMITS_SESSIONS);
    CU_ASSERT_EQUAL(retry_s, LIMITS_RETRY_S);
    CU_ASSERT_EQUAL(enter("b", 3, 100, T0), LIMITS_OK); /* another one */
    struct limits_bounds one = {1, 1};
    CU_ASSERT_EQUAL(limits_enter(l, LIMITS_ADDRESS, "a", &one, T0, &retry_s), LIMITS_OK); /* another table */
    leave("a", T0);
    CU_ASSERT_EQUAL(enter("a", 3, 100, T0), LIMITS_OK);
    CU_ASSERT_EQUAL(enter("a", 2, 100, T0), LIMITS_SESSIONS); /* lowered meanwhile */
    CU_ASSERT_EQUAL(enter("a", 4, 100, T0), LIMITS_OK);       /* raised */
}

static void test_rate(void)
{
    fresh(100);
    for (int i = 0; i < 60; i++) {
        CU_ASSERT_EQUAL(enter("a", 5, 60, T0), LIMITS_OK);
        leave("a", T0);
    }
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0), LIMITS_RATE);
    CU_ASSERT(retry_s >= 1 && retry_s <= 2);
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + 900), LIMITS_RATE);
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + 1000), LIMITS_OK); /* one a second */
    leave("a", T0 + 1000);
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + 1000), LIMITS_RATE);
    /* Asking in vain costs nothing, so that it does not shut out for ever. */
    for (uint64_t t = 1000; t < 2000; t += 10)
        CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + t), LIMITS_RATE);
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + 2001), LIMITS_OK);
    leave("a", T0 + 2001);
    /* A clock that is a little behind is no windfall, and no fault. */
    CU_ASSERT_EQUAL(enter("a", 5, 60, T0 + 1500), LIMITS_RATE);
    /* Never more than a minute's worth. */
    unsigned n = 0;
    while (enter("a", 1000, 60, T0 + 100 * LIMITS_MINUTE_MS) == LIMITS_OK)
        n++;
    CU_ASSERT_EQUAL(n, 60);
    CU_ASSERT_EQUAL(enter("slow", 5, 1, T0), LIMITS_OK);
    CU_ASSERT_EQUAL(enter("slow", 5, 1, T0), LIMITS_RATE);
    CU_ASSERT_EQUAL(retry_s, 61);
}

static void test_forgets(void)
{
    char key[16];
    fresh(10);
    for (int i = 0; i < 10; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        CU_ASSERT_EQUAL(enter(key, 1, 1, T0 + (uint64_t)i), LIMITS_OK);
        if (i > 0)
            leave(key, T0 + (uint64_t)i);
    }
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 10);
    CU_ASSERT_EQUAL(enter("new", 1, 1, T0 + 20), LIMITS_OK); /* k1 was idle longest */
    CU_ASSERT_EQUAL(limits_evicted(l), 1);
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 10);
    CU_ASSERT_EQUAL(enter("k0", 1, 1, T0 + 20), LIMITS_RATE); /* in use: known as before */
    CU_ASSERT_EQUAL(enter("k5", 1, 1, T0 + 20), LIMITS_RATE);
    CU_ASSERT_EQUAL(enter("k1", 1, 1, T0 + 20), LIMITS_OK); /* forgotten: as new */
    /* A minute later all idle ones go, with the next newcomer. */
    CU_ASSERT_EQUAL(enter("late", 1, 1, T0 + 21 + LIMITS_MINUTE_MS), LIMITS_OK);
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 4); /* k0, new, k1, late */
    /* A table full of those in use takes nobody. */
    for (int i = 0; i < 6; i++) {
        snprintf(key, sizeof(key), "x%d", i);
        CU_ASSERT_EQUAL(enter(key, 1, 1, T0 + 22 + LIMITS_MINUTE_MS), LIMITS_OK);
    }
    CU_ASSERT_EQUAL(enter("one more", 1, 1, T0 + 22 + LIMITS_MINUTE_MS), LIMITS_FULL);
    leave("x0", T0 + 10 * LIMITS_MINUTE_MS);
    CU_ASSERT_EQUAL(enter("one more", 1, 1, T0 + 10 * LIMITS_MINUTE_MS), LIMITS_OK);
}

/* What a user leaves behind is no more than what still counts. */
static void test_leaves_nothing(void)
{
    fresh(100);
    CU_ASSERT_EQUAL(enter("long", 5, 60, T0), LIMITS_OK);
    leave("long", T0 + 1000); /* a token a second */
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 0);
    CU_ASSERT_EQUAL(enter("short", 5, 60, T0), LIMITS_OK);
    leave("short", T0 + 900);
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 1);
    for (int i = 0; i < 60; i++) /* one token and nine tenths are gone */
        CU_ASSERT_EQUAL(enter("short", 60, 60, T0 + 900), i < 59 ? LIMITS_OK : LIMITS_RATE);
    for (int i = 0; i < 59; i++)
        leave("short", T0 + 2000);
    CU_ASSERT_EQUAL(enter("other", 5, 60, T0 + 10), LIMITS_OK);
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 2);
    leave("other", T0 + 2000 + LIMITS_MINUTE_MS); /* long after: "short" is forgotten, too */
    CU_ASSERT_EQUAL(limits_count(l, LIMITS_UID), 0);
}

static void test_strangers(void)
{
    struct limits_bounds b = {100, 100};
    char key[16];
    fresh(100);
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "10.0.0.%d", i);
        for (int k = 0; k < 3; k++)
            CU_ASSERT_EQUAL(limits_enter(l, LIMITS_ADDRESS, key, &b, T0, &retry_s), LIMITS_OK);
        CU_ASSERT(limits_stranger_enter(l, key, 7));
        CU_ASSERT_EQUAL(limits_stranger_enter(l, key, 7), i < 3); /* two are a quarter; in all seven */
        CU_ASSERT(!limits_stranger_enter(l, key, 7));
    }
    CU_ASSERT_EQUAL(limits_strangers(l), 7);
    limits_stranger_leave(l, "10.0.0.0");
    CU_ASSERT(limits_stranger_enter(l, "10.0.0.3", 7));
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof(key), "10.0.0.%d", i);
        for (int k = i == 0 ? 1 : 0; k < 2; k++)
            limits_stranger_leave(l, key);
        for (int k = 0; k < 3; k++)
            limits_leave(l, LIMITS_ADDRESS, key, T0);
    }
    CU_ASSERT_EQUAL(limits_strangers(l), 0);
}

static bool has(const char *net, const char *addr)
{
    struct cidr c;
    struct cidr_addr a;
    CU_ASSERT(cidr_parse(net, &c));
    CU_ASSERT(cidr_addr_parse(addr, strlen(addr), &a));
    return cidr_has(&c, &a);
}

static void test_cidr(void)
{
    static const char *const bad[] = {"",
                                      "/8",
                                      "10.0.0.0/33",
                                      "10.0.0.0/",
                                      "10.0.0.0/8x",
                                      "10.0.0/8",
                                      "10.0.0.0/-1",
                                      "2001:db8::/129",
                                      "fe80::1%eth0",
                                      "localhost",
                                      "10.0.0.0/08a",
                                      "10.0.0.0 /8",
                                      "[::1]",
                                      "1.2.3.4:80",
                                      "10.0.0.0/0000"};
    struct cidr c;
    struct cidr_addr a;
    char text[CIDR_TEXT];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        CU_ASSERT(!cidr_parse(bad[i], &c));
    CU_ASSERT(has("10.0.0.0/8", "10.255.1.2"));
    CU_ASSERT(has("10.9.9.9/8", "10.1.1.1")); /* bits behind the prefix do not matter */
    CU_ASSERT(!has("10.0.0.0/8", "11.0.0.0"));
    CU_ASSERT(has("192.0.2.128/25", "192.0.2.200"));
    CU_ASSERT(!has("192.0.2.128/25", "192.0.2.127"));
    CU_ASSERT(has("192.0.2.1", "192.0.2.1"));
    CU_ASSERT(!has("192.0.2.1", "192.0.2.2"));
    CU_ASSERT(has("0.0.0.0/0", "8.8.8.8"));
    CU_ASSERT(!has("0.0.0.0/0", "2001:db8::1"));
    CU_ASSERT(has("::/0", "2001:db8::1"));
    CU_ASSERT(has("2001:db8::/33", "2001:db8:7fff::1"));
    CU_ASSERT(!has("2001:db8::/33", "2001:db8:8000::1"));
    CU_ASSERT(has("10.0.0.0/8", "::ffff:10.1.2.3"));
    CU_ASSERT(has("::1", "::1"));
    CU_ASSERT(cidr_addr_parse("2001:db8:1:2:3:4:5:6", 20, &a));
    struct cidr_addr net = cidr_addr_net(&a, 64);
    cidr_addr_format(&net, text);
    CU_ASSERT_STRING_EQUAL(text, "2001:db8:1:2::");
    CU_ASSERT(cidr_addr_parse("::ffff:1.2.3.4", 14, &a));
    net = cidr_addr_net(&a, 64);
    cidr_addr_format(&net, text);
    CU_ASSERT_STRING_EQUAL(text, "1.2.3.4");
    CU_ASSERT(!cidr_addr_parse("1.2.3.4\0", 8, &a));
}

static void test_proxy(void)
{
    char *nets[] = {"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "no address"};
    struct conf_list texts = {nets, 4};
    struct proxy_list list;
    static const struct {
        const char *peer, *first, *second; /* headers; NULL: none */
        const char *client;
    } table[] = {
        {"198.51.100.7", NULL, NULL, "198.51.100.7"},
        {"198.51.100.7", "1.2.3.4", NULL, "198.51.100.7"}, /* a stranger's header */
        {"10.1.1.1", NULL, NULL, "10.1.1.1"},
        {"10.1.1.1", "", NULL, "10.1.1.1"},
        {"10.1.1.1", "1.2.3.4", NULL, "1.2.3.4"},
        {"10.1.1.1", " 1.2.3.4\t", NULL, "1.2.3.4"},
        {"10.1.1.1", "6.6.6.6, 1.2.3.4", NULL, "1.2.3.4"}, /* what the client wrote itself stands before */
        {"10.1.1.1", "6.6.6.6,1.2.3.4, 10.2.2.2 ,192.0.2.1", NULL, "1.2.3.4"},
        {"10.1.1.1", "1.2.3.4", "10.2.2.2", "1.2.3.4"},
        {"10.1.1.1", "10.2.2.2", "1.2.3.4", "1.2.3.4"},
        {"10.1.1.1", "10.3.3.3, 10.2.2.2", NULL, "10.3.3.3"}, /* one of ours asks itself */
        {"10.1.1.1", "1.2.3.4:5678", NULL, "1.2.3.4"},
        {"10.1.1.1", "2001:4860::8", NULL, "2001:4860::8"},
        {"10.1.1.1", "[2001:4860::8]:443", NULL, "2001:4860::8"},
        {"10.1.1.1", "[2001:4860::8", NULL, "10.1.1.1"},
        {"10.1.1.1", "unknown", NULL, "10.1.1.1"},
        {"10.1.1.1", "1.2.3.4, unknown, 10.2.2.2", NULL, "10.2.2.2"},
        {"10.1.1.1", "1.2.3.4,", NULL, "10.1.1.1"},
        {"10.1.1.1", ",,,,", NULL, "10.1.1.1"},
        {"10.1.1.1", "1.2.3.4.5", NULL, "10.1.1.1"},
        {"10.1.1.1", "::ffff:1.2.3.4", NULL, "1.2.3.4"},
        {"2001:db8::9", "1.2.3.4", NULL, "1.2.3.4"},
    };
    proxy_list_set(&list, &texts);
    CU_ASSERT_EQUAL(list.n, 3);
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct cidr_addr peer, client;
        char text[CIDR_TEXT];
        struct proxy_value v[2] = {{table[i].first, table[i].first ? strlen(table[i].first) : 0},
                                   {table[i].second, table[i].second ? strlen(table[i].second) : 0}};
        CU_ASSERT(cidr_addr_parse(table[i].peer, strlen(table[i].peer), &peer));
        client = proxy_client(&list, &peer, v, table[i].second ? 2 : table[i].first ? 1 : 0);
        cidr_addr_format(&client, text);
        if (strcmp(text, table[i].client) != 0)
            printf("\n%s, %s: %s\n", table[i].peer, table[i].first, text);
        CU_ASSERT_STRING_EQUAL(text, table[i].client);
    }
    /* A long chain of ours: looked at so far, and no further. */
    char chain[PROXY_MAX_HOPS * 20 + 20] = "1.2.3.4";
    for (int i = 0; i < PROXY_MAX_HOPS + 5; i++)
        strcat(chain, ",10.0.0.1");
    struct proxy_value v = {chain, strlen(chain)};
    struct cidr_addr peer, client;
    char text[CIDR_TEXT];
    CU_ASSERT(cidr_addr_parse("10.1.1.1", 8, &peer));
    client = proxy_client(&list, &peer, &v, 1);
    cidr_addr_format(&client, text);
    CU_ASSERT_STRING_EQUAL(text, "10.0.0.1");
}

static int end(void)
{
    limits_free(&l);
    return 0;
}

int main(void)
{
    CU_TestInfo limits[] = {{"at once", test_sessions},          {"a minute", test_rate},
                            {"what is forgotten", test_forgets}, {"what is left", test_leaves_nothing},
                            {"strangers", test_strangers},       CU_TEST_INFO_NULL};
    CU_TestInfo addresses[] = {{"networks", test_cidr}, {"behind a proxy", test_proxy}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"limits", NULL, end, NULL, NULL, limits},
                             {"addresses", NULL, NULL, NULL, NULL, addresses},
                             CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
