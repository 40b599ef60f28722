/* buf, map, id, clock, utf8, query. */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/map.h"
#include "base/query.h"
#include "base/utf8.h"
#include "unit.h"

/* -------------------------------------------------------------------------- buf */

static void test_buf_bound(void)
{
    struct buf b = BUF_INIT(10);
    CU_ASSERT(buf_append(&b, "12345", 5));
    CU_ASSERT(buf_printf(&b, "%s", "67890"));
    CU_ASSERT_STRING_EQUAL(b.data, "1234567890");
    CU_ASSERT(!b.failed);
    CU_ASSERT(!buf_append(&b, "x", 1));
    CU_ASSERT(b.failed);
    CU_ASSERT(!buf_printf(&b, "%d", 1));
    CU_ASSERT_PTR_NULL(buf_reserve(&b, SIZE_MAX - 2));
    CU_ASSERT_EQUAL(b.len, 10);
    CU_ASSERT_STRING_EQUAL(b.data, "1234567890");
    buf_consume(&b, 8);
    CU_ASSERT_STRING_EQUAL(b.data, "90");
    CU_ASSERT(buf_puts(&b, "abc"));
    buf_clear(&b);
    CU_ASSERT(!b.failed);
    CU_ASSERT_STRING_EQUAL(b.data, "");
    char *to = buf_reserve(&b, 4);
    CU_ASSERT_PTR_NOT_NULL_FATAL(to);
    memcpy(to, "wxyz", 4);
    b.len += 4;
    CU_ASSERT_STRING_EQUAL(b.data, "wxyz");
    size_t len = 0;
    char *mine = buf_steal(&b, &len);
    CU_ASSERT_EQUAL(len, 4);
    CU_ASSERT_STRING_EQUAL(mine, "wxyz");
    free(mine);
    CU_ASSERT_PTR_NULL(b.data);
    CU_ASSERT_EQUAL(b.max, 10);
    mine = buf_steal(&b, NULL);
    CU_ASSERT_STRING_EQUAL(mine, "");
    free(mine);
    buf_free(&b);
}

static void test_buf_grows(void)
{
    struct buf b = BUF_INIT(0);
    for (int i = 0; i < 10000; i++)
        CU_ASSERT_FATAL(buf_printf(&b, "%04d", i));
    CU_ASSERT_EQUAL(b.len, 40000);
    buf_consume(&b, 39996);
    CU_ASSERT_STRING_EQUAL(b.data, "9999");
    buf_free(&b);
    buf_free(&b);
}

static void consume_too_much(void)
{
    struct buf b = BUF_INIT(0);
    buf_puts(&b, "ab");
    buf_consume(&b, 3);
}

static void test_buf_consume_bound(void)
{
    CU_ASSERT(unit_aborts(consume_too_much));
}

/* -------------------------------------------------------------------------- map */

static void test_siphash(void)
{
    /* OpenSSL's as the judge. */
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(mac);
    uint64_t secret[2];
    unsigned char text[100];
    for (size_t len = 0; len < sizeof text; len++) {
        id_random(secret, sizeof secret);
        id_random(text, sizeof text);
        unsigned compress = 1, final = 3;
        size_t size = 8, n = 0;
        OSSL_PARAM params[] = {OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_C_ROUNDS, &compress),
                               OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_D_ROUNDS, &final),
                               OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end()};
        unsigned char out[8];
        uint64_t expected;
        EVP_MAC_CTX *c = EVP_MAC_CTX_new(mac);
        CU_ASSERT_EQUAL(EVP_MAC_init(c, (unsigned char *)secret, 16, params), 1);
        EVP_MAC_update(c, text, len);
        CU_ASSERT_EQUAL(EVP_MAC_final(c, out, &n, sizeof out), 1);
        EVP_MAC_CTX_free(c);
        memcpy(&expected, out, 8);
        CU_ASSERT_EQUAL(hash_siphash(secret, text, len), expected);
    }
    EVP_MAC_free(mac);
    CU_ASSERT_EQUAL(hash_keyed("abc", 3), hash_keyed("abc", 3));
    CU_ASSERT_NOT_EQUAL(hash_keyed("abc", 3), hash_keyed("abd", 3));
}

static void test_map_basics(void)
{
    struct map *m = map_new();
    int a, b;
    void *old = &a;
    char key[8] = "one";
    CU_ASSERT(map_put(m, key, &a, &old));
    CU_ASSERT_PTR_NULL(old);
    strcpy(key, "two"); /* the table has a copy */
    CU_ASSERT_PTR_EQUAL(map_get(m, "one"), &a);
    CU_ASSERT_PTR_NULL(map_get(m, "two"));
    CU_ASSERT(map_put(m, "one", &b, &old));
    CU_ASSERT_PTR_EQUAL(old, &a);
    CU_ASSERT_EQUAL(map_count(m), 1);
    CU_ASSERT(map_put(m, "", &a, NULL));
    CU_ASSERT_PTR_EQUAL(map_get(m, ""), &a);
    CU_ASSERT_PTR_EQUAL(map_remove(m, "one"), &b);
    CU_ASSERT_PTR_NULL(map_remove(m, "one"));
    CU_ASSERT_EQUAL(map_count(m), 1);
    map_free(&m);
    CU_ASSERT_PTR_NULL(m);
    map_free(&m);
}

/* Against a plain array, through many puts and removals. */
static void test_map_churn(void)
{
    enum { KEYS = 2000, STEPS = 200000 };
    static void *shadow[KEYS];
    struct map *m = map_new();
    size_t count = 0;
    unsigned seed = 12345;
    memset(shadow, 0, sizeof shadow);
    for (int i = 0; i < STEPS; i++) {
        char key[32];
        seed = seed * 1103515245 + 12345;
        unsigned k = seed / 65536 % KEYS;
        snprintf(key, sizeof key, "key-%u", k);
        seed = seed * 1103515245 + 12345;
        if (seed / 65536 % 3 == 0) {
            if (map_remove(m, key) != shadow[k])
                CU_FAIL("removed another value");
            count -= shadow[k] != NULL;
            shadow[k] = NULL;
        } else {
            void *old, *value = (char *)shadow + i + 1;
            if (!map_put(m, key, value, &old) || old != shadow[k])
                CU_FAIL("replaced another value");
            count += shadow[k] == NULL;
            shadow[k] = value;
        }
    }
    CU_ASSERT_EQUAL(map_count(m), count);
    size_t pos = 0, seen = 0;
    const char *key;
    void *value;
    while (map_next(m, &pos, &key, &value)) {
        if (shadow[atoi(key + 4)] != value)
            CU_FAIL("another value");
        map_remove(m, key); /* the entry that it gave last */
        seen++;
    }
    CU_ASSERT_EQUAL(seen, count);
    CU_ASSERT_EQUAL(map_count(m), 0);
    CU_ASSERT_PTR_NULL(map_get(m, "key-1"));
    map_free(&m);
}

static void null_map(void)
{
    map_get(NULL, "x");
}

static void test_map_doors(void)
{
    CU_ASSERT(unit_aborts(null_map));
}

/* --------------------------------------------------------------------- id, clock */

static void test_id(void)
{
    char uuid[37], other[37];
    for (int i = 0; i < 200; i++) {
        id_uuid4(uuid);
        id_uuid4(other);
        CU_ASSERT(id_is_uuid(uuid));
        CU_ASSERT_EQUAL(uuid[14], '4');
        CU_ASSERT_PTR_NOT_NULL(strchr("89ab", uuid[19]));
        CU_ASSERT_STRING_NOT_EQUAL(uuid, other);
        double d = id_random_unit();
        CU_ASSERT(d >= 0 && d < 1);
    }
    CU_ASSERT(!id_is_uuid(""));
    CU_ASSERT(!id_is_uuid("0123"));
    CU_ASSERT(!id_is_uuid("01234567-89ab-cdef-0123-456789abcde"));
    CU_ASSERT(!id_is_uuid("01234567-89ab-cdef-0123-456789abcdef0"));
    CU_ASSERT(!id_is_uuid("01234567-89ab-cdef-0123-456789abcdeg"));
    CU_ASSERT(!id_is_uuid("0123456789ab-cdef-0123-4567-89abcdef"));
    CU_ASSERT(id_is_uuid("01234567-89AB-cdef-0123-456789abcdef"));
    unsigned char big[2000] = {0}, zero[2000] = {0};
    id_random(big, sizeof big);
    CU_ASSERT(memcmp(big, zero, sizeof big) != 0);
    char tag[16], tag2[16];
    hash_uid_tag("user", tag);
    hash_uid_tag("user", tag2);
    CU_ASSERT_STRING_EQUAL(tag, tag2);
    CU_ASSERT(strlen(tag) == 14 && strncmp(tag, "u:", 2) == 0);
    hash_uid_tag("user2", tag2);
    CU_ASSERT_STRING_NOT_EQUAL(tag, tag2);
    CU_ASSERT(id_equal_ct("abc", "abc", 3));
    CU_ASSERT(!id_equal_ct("abc", "abd", 3));
    CU_ASSERT(id_equal_ct("", "x", 0));
}

static void test_clock(void)
{
    char s[32];
    clock_format_utc(0, s);
    CU_ASSERT_STRING_EQUAL(s, "1970-01-01T00:00:00.000+00:00");
    clock_format_utc(1769860800123, s);
    CU_ASSERT_STRING_EQUAL(s, "2026-01-31T12:00:00.123+00:00");
    clock_format_utc(-1, s);
    CU_ASSERT_STRING_EQUAL(s, "1969-12-31T23:59:59.999+00:00");
    clock_format_utc(INT64_MAX, s);
    CU_ASSERT_EQUAL(strlen(s), 29);
    clock_format_utc(INT64_MIN, s);
    CU_ASSERT_EQUAL(strlen(s), 29);
    uint64_t ns = clock_mono_ns();
    CU_ASSERT(clock_mono_ns() >= ns);
    CU_ASSERT(clock_wall_ms() > 1700000000000);
}

/* ------------------------------------------------------------------------- utf8 */

/* The definition, told the other way round: decode, then ask whether encoding gives the same bytes. */
static bool is_utf8_slowly(const unsigned char *p, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = p[i] < 0x80 ? 1 : p[i] >> 5 == 6 ? 2 : p[i] >> 4 == 14 ? 3 : p[i] >> 3 == 30 ? 4 : 0;
        if (n == 0 || n > len - i)
            return false;
        uint32_t c = n == 1 ? p[i] : p[i] & (0x7fu >> n);
        for (size_t k = 1; k < n; k++) {
            if (p[i + k] >> 6 != 2)
                return false;
            c = c << 6 | (p[i + k] & 63);
        }
        size_t shortest = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        if (n != shortest || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
            return false;
        i += n;
    }
    return true;
}

static void test_utf8_all_short(void)
{
    size_t wrong = 0;
    for (uint32_t v = 0; v < 1u << 24; v += v < 1u << 16 ? 1 : 7) {
        unsigned char b[4] = {(unsigned char)v, (unsigned char)(v >> 8), (unsigned char)(v >> 16), 0x80};
        for (size_t len = 1; len <= 4; len++)
            wrong += utf8_valid(b, len) != is_utf8_slowly(b, len);
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void test_utf8_splits(void)
{
    /* Random text with every length of character, and the same with one byte changed, cut at every place. */
    size_t wrong = 0, bad = 0;
    for (int round = 0; round < 500; round++) {
        unsigned char text[64];
        size_t len = 0;
        while (len < 56) {
            static const char *const chars[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8e\xa4", "plain ascii"};
            const char *c = chars[id_random_u64() % 5];
            memcpy(text + len, c, strlen(c));
            len += strlen(c);
            if (len > 50)
                break;
        }
        if (round % 2)
            text[id_random_u64() % len] = (unsigned char)id_random_u64();
        bool expected = is_utf8_slowly(text, len);
        bad += !expected;
        for (size_t cut = 0; cut <= len; cut++) {
            struct utf8 u = {0};
            bool ok = utf8_feed(&u, text, cut) && utf8_feed(&u, text + cut, len - cut) && utf8_complete(&u);
            wrong += ok != expected;
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(bad > 50);
}

static void test_utf8_early(void)
{
    struct utf8 u = {0};
    CU_ASSERT(utf8_feed(&u, "ok \xf4", 4));
    CU_ASSERT(!utf8_complete(&u));
    CU_ASSERT(!utf8_feed(&u, "\x90", 1)); /* beyond U+10FFFF: known at the second byte */
    u = (struct utf8){0};
    CU_ASSERT(utf8_feed(&u, "\xed", 1));
    CU_ASSERT(!utf8_feed(&u, "\xa0", 1)); /* a surrogate */
}

static void test_utf8_clip(void)
{
    const char *s = "a\xe2\x82\xac"
                    "b\xffz";
    CU_ASSERT_EQUAL(utf8_clip(s, 7, 100), 5);
    CU_ASSERT_EQUAL(utf8_clip(s, 7, 3), 1);
    CU_ASSERT_EQUAL(utf8_clip(s, 7, 4), 4);
    CU_ASSERT_EQUAL(utf8_clip(s, 3, 100), 1);
    CU_ASSERT_EQUAL(utf8_clip(s, 7, 0), 0);
    CU_ASSERT_EQUAL(utf8_char_len("\xe2\x82", 2), 0);
    CU_ASSERT_EQUAL(utf8_char_len("\x80", 1), 0);
    CU_ASSERT_EQUAL(utf8_char_len("", 0), 0);
}

/* ------------------------------------------------------------------------ query */

/* From memory that ends with it, so that a read behind it is seen. */
static bool parse(struct query *q, const char *s, char err[128])
{
    size_t len = strlen(s);
    char *exact = malloc(len ? len : 1);
    memcpy(exact, s, len);
    bool ok = query_parse(q, exact, len, err, 128);
    free(exact);
    return ok;
}

static void test_query(void)
{
    struct query q;
    char err[128];
    CU_ASSERT_FATAL(parse(&q, "a=1&&b=x+y%20z&c&a=2&=v&d=%C3%A9%3D%26", err));
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_EQUAL(q.n, 6);
    CU_ASSERT_STRING_EQUAL(query_get(&q, "a"), "2");
    CU_ASSERT_STRING_EQUAL(query_get(&q, "b"), "x y z");
    CU_ASSERT_STRING_EQUAL(query_get(&q, "c"), "");
    CU_ASSERT_STRING_EQUAL(query_get(&q, ""), "v");
    CU_ASSERT_STRING_EQUAL(query_get(&q, "d"), "\xc3\xa9=&");
    CU_ASSERT_PTR_NULL(query_get(&q, "e"));
    query_free(&q);
    query_free(&q);
    CU_ASSERT(query_parse(&q, NULL, 0, err, sizeof err));
    CU_ASSERT_PTR_NULL(query_get(&q, "a"));
    query_free(&q);
}

static void test_query_bad(void)
{
    static const char *const bad[] = {"a=%", "a=%4", "a=%zz", "%=1", "a=1&b=%00", "a=%ff", "%c3=1", "a=%e2%82"};
    struct query q;
    char err[128];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CU_ASSERT(!parse(&q, bad[i], err));
        CU_ASSERT(strlen(err) > 10);
        CU_ASSERT_PTR_NULL(query_get(&q, "a"));
    }
    parse(&q, "a=1&b=%00", err);
    CU_ASSERT_STRING_EQUAL(err, "b: holds a NUL byte");
    parse(&q, "a=1&b\n<x>=%00", err); /* not repeated */
    CU_ASSERT_STRING_EQUAL(err, "query parameter 2: holds a NUL byte");
    /* The bound, and one more. The exact length counts: nothing behind it is read. */
    struct buf b = BUF_INIT(0);
    for (int i = 0; i < QUERY_MAX_PARAMS; i++)
        buf_printf(&b, "p%d=%d&", i, i);
    CU_ASSERT(query_parse(&q, b.data, b.len, err, sizeof err));
    CU_ASSERT_STRING_EQUAL(query_get(&q, "p63"), "63");
    query_free(&q);
    buf_puts(&b, "p=1");
    CU_ASSERT(!query_parse(&q, b.data, b.len, err, sizeof err));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "too many"));
    buf_free(&b);
}

static void test_query_append(void)
{
    static const char *const cases[][2] = {
        {"http://h/p", "http://h/p?k%20y=a%26b%3D%C3%A9~-._"},
        {"http://h/p?", "http://h/p?k%20y=a%26b%3D%C3%A9~-._"},
        {"http://h/p?x=1", "http://h/p?x=1&k%20y=a%26b%3D%C3%A9~-._"},
        {"http://h/p?x=1&", "http://h/p?x=1&k%20y=a%26b%3D%C3%A9~-._"},
        {"http://h/p?x=1#f?&", "http://h/p?x=1&k%20y=a%26b%3D%C3%A9~-._#f?&"},
        {"http://h/p#f", "http://h/p?k%20y=a%26b%3D%C3%A9~-._#f"},
        {"", "?k%20y=a%26b%3D%C3%A9~-._"},
        {"#f", "?k%20y=a%26b%3D%C3%A9~-._#f"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = BUF_INIT(0);
        if (cases[i][0][0])
            buf_puts(&b, cases[i][0]);
        CU_ASSERT(query_append(&b, "k y", "a&b=\xc3\xa9~-._"));
        CU_ASSERT_STRING_EQUAL(b.data, cases[i][1]);
        buf_free(&b);
    }
    struct buf b = BUF_INIT(16);
    buf_puts(&b, "http://h/#frag");
    CU_ASSERT(!query_append(&b, "name", "value"));
    CU_ASSERT_STRING_EQUAL(b.data, "http://h/#frag");
    buf_free(&b);
}

int main(void)
{
    CU_TestInfo buf[] = {{"bound", test_buf_bound},
                         {"grows", test_buf_grows},
                         {"consumes what is there", test_buf_consume_bound},
                         CU_TEST_INFO_NULL};
    CU_TestInfo map[] = {{"SipHash-1-3 as OpenSSL has it", test_siphash},
                         {"basics", test_map_basics},
                         {"churn", test_map_churn},
                         {"doors", test_map_doors},
                         CU_TEST_INFO_NULL};
    CU_TestInfo id[] = {{"ids", test_id}, {"clock", test_clock}, CU_TEST_INFO_NULL};
    CU_TestInfo utf8[] = {{"short sequences", test_utf8_all_short},
                          {"every cut", test_utf8_splits},
                          {"fails early", test_utf8_early},
                          {"clip", test_utf8_clip},
                          CU_TEST_INFO_NULL};
    CU_TestInfo query[] = {
        {"parse", test_query}, {"bad", test_query_bad}, {"append", test_query_append}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"buf", NULL, NULL, NULL, NULL, buf},     {"map", NULL, NULL, NULL, NULL, map},
                             {"id", NULL, NULL, NULL, NULL, id},       {"utf8", NULL, NULL, NULL, NULL, utf8},
                             {"query", NULL, NULL, NULL, NULL, query}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
