/* Photos in pieces: a table of faults, bounds, and random orders. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/magic.h"
#include "session/photos.h"
#include "unit.h"

static const struct photo_limits limits = {.waiting = 3, .bytes = 20000, .photo = 4000, .time_ms = 1000};
static unsigned char *data;
static size_t len;
static const char *why;

static enum photo_verdict add(struct photo_parts *p, const char *id, int64_t index, int64_t total, const char *text,
                              uint64_t now)
{
    struct photo_piece piece = {.id = id, .index = index, .total = total, .data = text, .len = text ? strlen(text) : 0};
    data = NULL;
    return photo_parts_add(p, &limits, &piece, now, &data, &len, &why);
}

static void test_orders(void)
{
    struct photo_parts *p = photo_parts_new();
    CU_ASSERT_EQUAL(add(p, "a", 1, 3, "QU", 0), PHOTO_TAKEN);
    CU_ASSERT_EQUAL(add(p, "b", 0, 2, "QQ", 0), PHOTO_TAKEN);
    CU_ASSERT_EQUAL(add(p, "a", 1, 3, "XX", 0), PHOTO_REPEATED); /* the first counts */
    CU_ASSERT_EQUAL(add(p, "a", 2, 3, "JDQ==", 0), PHOTO_TAKEN);
    CU_ASSERT_EQUAL(add(p, "a", 0, 3, "Q", 0), PHOTO_WHOLE); /* Q QU JDQ== */
    CU_ASSERT_EQUAL(len, 4);
    free(data);
    CU_ASSERT_EQUAL(add(p, "b", 1, 2, "==", 0), PHOTO_WHOLE);
    CU_ASSERT_EQUAL(len, 1);
    CU_ASSERT_EQUAL(data[0], 'A');
    free(data);
    CU_ASSERT_EQUAL(photo_parts_waiting(p), 0);
    CU_ASSERT_EQUAL(photo_parts_bytes(p), 0);
    photo_parts_free(&p);
}

static void test_faults(void)
{
    static char big[5000], name[130];
    memset(big, 'A', sizeof big - 1);
    memset(name, 'n', sizeof name - 1);
    const struct {
        const char *id;
        int64_t index, total;
        const char *text, *named;
    } table[] = {
        {NULL, 0, 1, "QQ", "id"},         {"", 0, 1, "QQ", "id"},      {name, 0, 1, "QQ", "id"},
        {"a", 0, 0, "QQ", "total"},       {"a", 0, -5, "QQ", "total"}, {"a", 0, 10001, "QQ", "total"},
        {"a", 0, INT64_MAX, "", "total"}, {"a", -1, 2, "QQ", "index"}, {"a", 2, 2, "QQ", "index"},
        {"a", 0, 1, NULL, "data"},        {"a", 0, 1, big, "data"},    {"a", 0, 1, "Q", "data"},
        {"a", 0, 1, "", "data"},          {"a", 0, 1, "Q%==", "data"}, {"a", 0, 10000, "QQ", "data"},
    };
    struct photo_parts *p = photo_parts_new();
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        CU_ASSERT_EQUAL(add(p, table[i].id, table[i].index, table[i].total, table[i].text, 0), PHOTO_BAD);
        CU_ASSERT_TRUE(why && strncmp(why, table[i].named, strlen(table[i].named)) == 0);
        CU_ASSERT_PTR_NULL(data);
        CU_ASSERT_EQUAL(photo_parts_bytes(p), 0);
    }
    CU_ASSERT_EQUAL(add(p, "a", 0, 2, "QQ", 0), PHOTO_TAKEN);
    CU_ASSERT_EQUAL(add(p, "a", 1, 3, "QQ", 0), PHOTO_BAD);
    CU_ASSERT_TRUE(strncmp(why, "total", 5) == 0);
    CU_ASSERT_EQUAL(add(p, "a", 1, 2, "QU", 0), PHOTO_WHOLE); /* the other one was not harmed */
    free(data);
    photo_parts_free(&p);
}

static void test_bounds(void)
{
    static char piece[3001];
    struct photo_parts *p = photo_parts_new();
    memset(piece, 'A', sizeof piece - 1);
    for (int i = 0; i < 4; i++) { /* three may wait */
        char id[2] = {(char)('a' + i), 0};
        CU_ASSERT_EQUAL(add(p, id, 0, 2, "QQ", (uint64_t)i), PHOTO_TAKEN);
    }
    CU_ASSERT_EQUAL(photo_parts_waiting(p), 3);
    CU_ASSERT_EQUAL(photo_parts_dropped(p), 1);
    CU_ASSERT_EQUAL(add(p, "a", 1, 2, "==", 5), PHOTO_TAKEN); /* begins anew: its first piece is gone */
    CU_ASSERT_EQUAL(photo_parts_dropped(p), 2);
    photo_parts_expire(p, &limits, 1002); /* those of 2 and older; 3 and 5 are younger */
    CU_ASSERT_EQUAL(photo_parts_waiting(p), 2);
    CU_ASSERT_EQUAL(photo_parts_dropped(p), 3);
    photo_parts_expire(p, &limits, 1005);
    CU_ASSERT_EQUAL(photo_parts_waiting(p), 0);
    CU_ASSERT_EQUAL(photo_parts_bytes(p), 0);
    CU_ASSERT_EQUAL(add(p, "x", 0, 3, piece, 2000), PHOTO_TAKEN);
    CU_ASSERT_EQUAL(add(p, "x", 1, 3, piece, 2000), PHOTO_BAD); /* too big a photo */
    CU_ASSERT_EQUAL(photo_parts_bytes(p), 0);
    uint64_t before = photo_parts_dropped(p);
    for (int i = 0; i < 12; i++) { /* bytes: the oldest gives way */
        char id[2] = {(char)('k' + i / 3), 0};
        (void)add(p, id, i % 3, 900, piece, 3000);
        free(data);
        CU_ASSERT_TRUE(photo_parts_bytes(p) <= limits.bytes);
    }
    CU_ASSERT_TRUE(photo_parts_dropped(p) > before);
    photo_parts_free(&p);
}

static unsigned long long seed = 88172645463325252ull;
static unsigned rnd(unsigned n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % n);
}

/* Whatever the cut and the order, with some pieces twice, the bytes are those that were sent. */
static void test_random(void)
{
    for (unsigned round = 0; round < 500; round++) {
        unsigned char bytes[300];
        struct buf text = BUF_INIT(0);
        size_t n = 1 + rnd(sizeof bytes), total = 1 + rnd(12), order[12], cut[13];
        for (size_t i = 0; i < n; i++)
            bytes[i] = (unsigned char)rnd(256);
        CU_ASSERT_TRUE_FATAL(base64_encode(bytes, n, &text));
        cut[0] = 0;
        for (size_t i = 1; i < total; i++)
            cut[i] = cut[i - 1] + rnd((unsigned)(text.len - cut[i - 1]) + 1);
        cut[total] = text.len;
        for (size_t i = 0; i < total; i++)
            order[i] = i;
        for (size_t i = total; i > 1; i--) {
            size_t at = rnd((unsigned)i), t = order[at];
            order[at] = order[i - 1];
            order[i - 1] = t;
        }
        struct photo_parts *p = photo_parts_new();
        for (size_t i = 0; i < total; i++) {
            char piece[512];
            size_t k = order[i], size = cut[k + 1] - cut[k];
            memcpy(piece, text.data + cut[k], size);
            piece[size] = 0;
            enum photo_verdict v = add(p, "p", (int64_t)k, (int64_t)total, piece, 0);
            CU_ASSERT_EQUAL(v, i + 1 == total ? PHOTO_WHOLE : PHOTO_TAKEN);
            if (v == PHOTO_TAKEN && rnd(3) == 0)
                CU_ASSERT_EQUAL(add(p, "p", (int64_t)k, (int64_t)total, "AAAA", 0), PHOTO_REPEATED);
            if (v == PHOTO_WHOLE) {
                CU_ASSERT_EQUAL(len, n);
                CU_ASSERT_EQUAL(memcmp(data, bytes, n), 0);
                free(data);
            }
        }
        photo_parts_free(&p);
        buf_free(&text);
    }
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"out of order, and again", test_orders},
        {"faults", test_faults},
        {"bounds in number, bytes and time", test_bounds},
        {"random cuts and orders", test_random},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"photos", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
