/* How segments combine: a table of cases, and properties over random transcripts: no text lost or doubled, time never
 * backwards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "session/extract.h"
#include "session/segments.h"
#include "unit.h"

#define P "p1"

static struct segment *make(int speaker, const char *text, double start, double end)
{
    struct segment *s = segment_new(text, speaker, false, start, end, P);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    return s;
}

/* "0:Hello there.|1:Yes" */
static void show(const struct segment_list *l, char *out, size_t len)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < l->n; i++)
        at += (size_t)snprintf(out + at, len - at, "%s%d:%s", i ? "|" : "", l->item[i]->speaker_id, l->item[i]->text);
}

struct one {
    int speaker;
    const char *text;
    double start, end;
};
static const struct {
    const char *what;
    struct one stored[3], batch[4];
    const char *want;
    unsigned deleted;
} cases[] = {
    {"first words", {{0}}, {{0, "hello", 0, 1}}, "0:hello", 0},
    {"same speaker, close by", {{0, "Hello", 0, 1}}, {{0, "There", 2, 3}}, "0:Hello There", 0},
    {"gap of 3 s", {{0, "Hello.", 0, 1}}, {{0, "There", 4, 5}}, "0:Hello.|0:There", 0},
    {"just under 3 s", {{0, "Hello.", 0, 1}}, {{0, "There", 3.999, 5}}, "0:Hello. There", 0},
    {"open sentence goes on in lower case, whatever the gap",
     {{0, "Hello", 0, 1}},
     {{0, "there", 60, 61}},
     "0:Hello there",
     0},
    {"open sentence, upper case, far", {{0, "Hello", 0, 1}}, {{0, "There", 60, 61}}, "0:Hello|0:There", 0},
    {"lower case of another script",
     {{0, "\xd0\x94\xd0\xb0", 0, 1}},
     {{0, "\xd0\xbd\xd0\xb5\xd1\x82", 60, 61}},
     "0:\xd0\x94\xd0\xb0 \xd0\xbd\xd0\xb5\xd1\x82",
     0},
    {"125 characters and ended: a new segment",
     {{0,
       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
       "aaaaaaaaaaaaa.",
       0, 1}},
     {{0, "b", 1, 2}},
     "0:"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaa.|0:b",
     0},
    {"125 characters and open: appended",
     {{0,
       "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
       "aaaaaaaaaaaaaa",
       0, 1}},
     {{0, "B", 1, 2}},
     "0:"
     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaaa B",
     0},
    {"another speaker after a whole sentence", {{0, "Hello.", 0, 1}}, {{1, "Hi", 1, 2}}, "0:Hello.|1:Hi", 0},
    {"short start of b belongs to a's sentence",
     {{0, "I would like to go", 0, 1}},
     {{1, "home. Are you sure", 1, 2}},
     "0:I would like to go home.|1:Are you sure",
     0},
    {"b has no more text: it keeps its own",
     {{0, "I would like to go", 0, 1}},
     {{1, "home.", 1, 2}},
     "0:I would like to go|1:home.",
     0},
    {"a's short fragment belongs to b",
     {{0, "Fine. So", 0, 1}},
     {{1, "what do you want to do today?", 1, 2}},
     "0:Fine.|1:So what do you want to do today?",
     0},
    {"an emptied a is deleted and told",
     {{0, "So", 0, 1}},
     {{1, "what do you want?", 1, 2}},
     "1:So what do you want?",
     1},
    {"an emptied one of the batch is not told",
     {{0}},
     {{0, "So", 0, 1}, {1, "what do you want?", 1, 2}},
     "1:So what do you want?",
     0},
    {"what begins before the tail goes before it",
     {{0, "Third.", 10, 11}},
     {{0, "Second", 5, 6}},
     "0:Second|0:Third.",
     0},
    {"lengths are compared in characters",
     {{0, "\xd0\x94\xd0\xb0 \xd0\xbd\xd0\xb5", 0, 1}},
     {{1, "yes no. And more", 1, 2}},
     "1:\xd0\x94\xd0\xb0 \xd0\xbd\xd0\xb5 yes no. And more",
     1},
    {"batch is sorted", {{0}}, {{1, "Second.", 5, 6}, {0, "First.", 0, 1}}, "0:First.|1:Second.", 0},
    {"batch combines among itself",
     {{0}},
     {{0, "one", 0, 1}, {0, "two", 1, 2}, {0, "three", 2, 3}},
     "0:one two three",
     0},
    {"tail only: an older one is left alone",
     {{0, "One", 0, 1}, {1, "Two.", 1, 2}},
     {{0, "Three", 2, 3}},
     "0:One|1:Two.|0:Three",
     0},
    {"tidied", {{0}}, {{0, "  a  b , c .  Why ? ", 0, 1}}, "0:a b, c. Why?", 0},
    {"empty text is nothing", {{0}}, {{0, "   ", 0, 1}}, "", 0},
};

static void test_cases(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct segment_list stored = {0}, batch = {0};
        struct id_list deleted = {0};
        char got[2048];
        for (size_t k = 0; k < 3 && cases[i].stored[k].text; k++)
            segment_list_push(&stored, make(cases[i].stored[k].speaker, cases[i].stored[k].text,
                                            cases[i].stored[k].start, cases[i].stored[k].end));
        for (size_t k = 0; k < 4 && cases[i].batch[k].text; k++)
            segment_list_push(&batch, make(cases[i].batch[k].speaker, cases[i].batch[k].text, cases[i].batch[k].start,
                                           cases[i].batch[k].end));
        for (size_t k = 0; k < stored.n; k++)
            stored.item[k]->unseen = 0;
        CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
        show(&stored, got, sizeof got);
        if (strcmp(got, cases[i].want) != 0 || deleted.n != cases[i].deleted)
            printf("\n%s: got \"%s\" (%zu deleted), want \"%s\"\n", cases[i].what, got, deleted.n, cases[i].want);
        CU_ASSERT_STRING_EQUAL(got, cases[i].want);
        CU_ASSERT_EQUAL(deleted.n, cases[i].deleted);
        CU_ASSERT_EQUAL(batch.n, 0);
        segment_list_free(&stored);
        segment_list_free(&batch);
        id_list_free(&deleted);
    }
}

static void test_other_provider_stays_apart(void)
{
    struct segment_list stored = {0}, batch = {0};
    struct id_list deleted = {0};
    segment_list_push(&stored, make(0, "one", 0, 1));
    segment_list_push(&batch, segment_new("two", 0, false, 1, 2, "p2"));
    CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
    CU_ASSERT_EQUAL(stored.n, 2);
    segment_list_free(&stored);
    segment_list_free(&batch);
    id_list_free(&deleted);
}

static void test_owner_on_two_speakers(void)
{
    struct segment_list stored = {0}, batch = {0};
    struct id_list deleted = {0};
    segment_list_push(&stored, segment_new("one", 0, true, 0, 1, P));
    segment_list_push(&batch, segment_new("two", 3, true, 1, 2, P));
    CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
    CU_ASSERT_EQUAL(stored.n, 1);
    CU_ASSERT_STRING_EQUAL(stored.item[0]->text, "one two");
    CU_ASSERT_DOUBLE_EQUAL(stored.item[0]->end, 2, 1e-9);
    segment_list_free(&stored);
    segment_list_free(&batch);
    id_list_free(&deleted);
}

/* Only what changed is told again. */
static void test_unseen(void)
{
    struct segment_list stored = {0}, batch = {0};
    struct id_list deleted = {0};
    segment_list_push(&stored, make(0, "Old.", 0, 1));
    segment_list_push(&stored, make(1, "Tail", 1, 2));
    stored.item[0]->unseen = stored.item[1]->unseen = 0;
    segment_list_push(&batch, make(1, "more.", 2, 3));
    segment_list_push(&batch, make(0, "New.", 3, 4));
    CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
    CU_ASSERT_EQUAL(stored.n, 3);
    CU_ASSERT_EQUAL(stored.item[0]->unseen, 0);
    CU_ASSERT_EQUAL(stored.item[1]->unseen, SEGMENT_ALL);
    CU_ASSERT_EQUAL(stored.item[2]->unseen, SEGMENT_ALL);
    segment_list_free(&stored);
    segment_list_free(&batch);
    id_list_free(&deleted);
}

/* Without any end mark a text would be appended to for ever, and be sent again as a whole each time. */
static void test_no_text_without_bound(void)
{
    struct segment_list stored = {0}, batch = {0};
    struct id_list deleted = {0};
    size_t words = 0;
    for (unsigned i = 0; i < 10000; i++) {
        segment_list_push(&batch, make(0, "lower case", i, i + 1));
        CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
    }
    CU_ASSERT_TRUE(stored.n > 1 && stored.n < 20);
    for (size_t i = 0; i < stored.n; i++) {
        CU_ASSERT_TRUE(strlen(stored.item[i]->text) <= 16384);
        words += (strlen(stored.item[i]->text) + 1) / strlen("lower case ");
    }
    CU_ASSERT_EQUAL(words, 10000);
    segment_list_free(&stored);
    segment_list_free(&batch);
    id_list_free(&deleted);
}

/* ------------------------------------------------------------------- properties */

static unsigned long long seed = 88172645463325252ull;
static unsigned rnd(unsigned n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % n);
}

/* Every word carries a number of its own. */
static void test_nothing_lost_or_doubled(void)
{
    for (unsigned round = 0; round < 300; round++) {
        struct segment_list stored = {0}, batch = {0};
        struct id_list deleted = {0};
        unsigned words = 0;
        double now = 0;
        for (unsigned b = 0; b < 12; b++) {
            unsigned n = rnd(5);
            for (unsigned k = 0; k < n; k++) {
                char text[512] = "";
                size_t at = 0;
                for (unsigned w = 1 + rnd(6); w > 0; w--)
                    at += (size_t)snprintf(text + at, sizeof text - at, " %c%u%s", rnd(2) ? 'w' : 'W', words++,
                                           rnd(4) ? "" : &".\0?\0!"[2 * rnd(3)]);
                double len = 0.1 + rnd(30) / 10.;
                CU_ASSERT_TRUE(segment_list_push(&batch, make((int)rnd(3), text, now + rnd(10) / 10., now + len + 1)));
                now += len + rnd(40) / 10.;
            }
            CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
        }
        unsigned char *seen = calloc(words + 1, 1);
        unsigned count = 0;
        for (size_t i = 0; i < stored.n; i++) {
            const struct segment *s = stored.item[i];
            CU_ASSERT_TRUE(s->text[0] != 0);
            CU_ASSERT_TRUE(s->end >= s->start);
            CU_ASSERT_TRUE(i == 0 || stored.item[i - 1]->start <= s->start);
            for (const char *p = s->text; *p; p++) {
                if (*p == 'w' || *p == 'W') {
                    unsigned id = (unsigned)strtoul(p + 1, NULL, 10);
                    CU_ASSERT_TRUE_FATAL(id < words);
                    CU_ASSERT_EQUAL(seen[id], 0);
                    seen[id] = 1;
                    count++;
                }
            }
        }
        CU_ASSERT_EQUAL(count, words);
        for (size_t i = 0; i < deleted.n; i++)
            CU_ASSERT_PTR_NULL(segment_list_find(&stored, deleted.id[i]));
        free(seen);
        segment_list_free(&stored);
        segment_list_free(&batch);
        id_list_free(&deleted);
    }
}

/* ------------------------------------------------------------------------ summary */

static void test_extract(void)
{
    struct store_segment s[] = {
        {.id = "a", .text = "Hello there.", .speaker = "SPEAKER_00"},
        {.id = "b",
         .text = "the garden needs water, and the garden needs new roses this summer.",
         .speaker = "SPEAKER_01"},
        {.id = "c", .text = "Okay. We buy roses for the garden tomorrow.", .speaker = "SPEAKER_00"},
        {.id = "d", .text = "Bye.", .speaker = "SPEAKER_00"},
    };
    struct store_conversation c = {.segment = s, .n_segments = 4};
    struct buf out = BUF_INIT(0);
    char err[64];
    CU_ASSERT_TRUE_FATAL(extract_summary(&c, &out));
    yajl_val v = json_parse(out.data, out.len, 0, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    const char *title = json_str(v, "title"), *overview = json_str(v, "overview");
    CU_ASSERT_PTR_NOT_NULL_FATAL(title);
    CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(title, "garden"));
    CU_ASSERT_TRUE(strlen(title) <= 60);
    CU_ASSERT_TRUE(title[0] >= 'A' && title[0] <= 'Z');
    CU_ASSERT_PTR_NOT_NULL_FATAL(strstr(overview, "roses"));
    CU_ASSERT_STRING_EQUAL(json_str(v, "source"), "extractive");
    CU_ASSERT_PTR_NOT_NULL(json_array(v, "action_items"));
    json_free(&v);
    buf_free(&out);
}

/* What strangers say: no sentence end at all, nothing at all, other scripts, very long. */
static void test_extract_odd(void)
{
    char *longest = malloc(400001);
    for (unsigned i = 0; i < 400000; i++)
        longest[i] = i % 7 == 6 ? ' ' : "\xd0\xb6"[i & 1];
    longest[400000] = 0;
    const char *texts[] = {"", "   ", "...", "word", "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c", longest};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct store_segment s = {.id = "a", .text = texts[i], .speaker = "SPEAKER_00"};
        struct store_conversation c = {.segment = &s, .n_segments = 1};
        struct buf out = BUF_INIT(0);
        char err[64];
        CU_ASSERT_TRUE_FATAL(extract_summary(&c, &out));
        yajl_val v = json_parse(out.data, out.len, 0, err, sizeof err);
        CU_ASSERT_PTR_NOT_NULL(v);
        json_free(&v);
        buf_free(&out);
    }
    free(longest);
}

/* Batches in any order, as from two sessions: nothing lost or doubled, starts never run backwards, and who follows the
 * deletions and upserts has what is stored. */
static void test_views_agree(void)
{
    for (unsigned round = 0; round < 300; round++) {
        struct segment_list stored = {0}, batch = {0};
        struct id_list deleted = {0};
        struct {
            char id[37];
            char text[4096];
        } *view = calloc(200, sizeof *view);
        size_t n_view = 0;
        unsigned words = 0;
        for (unsigned b = 0; b < 15; b++) {
            for (unsigned k = rnd(5); k > 0; k--) {
                char text[256] = "";
                size_t at = 0;
                for (unsigned w = 1 + rnd(4); w > 0; w--)
                    at += (size_t)snprintf(text + at, sizeof text - at, " %c%u%s", rnd(2) ? 'w' : 'W', words++,
                                           rnd(3) ? "" : ".");
                double start = rnd(600) / 10.;
                CU_ASSERT_TRUE(segment_list_push(&batch, make((int)rnd(3), text, start, start + rnd(40) / 10.)));
            }
            id_list_clear(&deleted);
            CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
            for (size_t i = 0; i < deleted.n; i++) {
                for (size_t v = 0; v < n_view; v++) {
                    if (strcmp(view[v].id, deleted.id[i]) == 0)
                        view[v] = view[--n_view];
                }
            }
            for (size_t i = 0; i < stored.n; i++) {
                struct segment *s = stored.item[i];
                size_t v = 0;
                CU_ASSERT_TRUE(i == 0 || stored.item[i - 1]->start <= s->start);
                CU_ASSERT_TRUE(s->end >= s->start);
                if (!(s->unseen & SEGMENT_CLIENT))
                    continue;
                s->unseen &= ~(unsigned)SEGMENT_CLIENT;
                while (v < n_view && strcmp(view[v].id, s->id) != 0)
                    v++;
                n_view += v == n_view;
                snprintf(view[v].id, sizeof view[v].id, "%s", s->id);
                snprintf(view[v].text, sizeof view[v].text, "%s", s->text);
            }
            CU_ASSERT_EQUAL(n_view, stored.n);
            for (size_t v = 0; v < n_view; v++) {
                const struct segment *s = segment_list_find(&stored, view[v].id);
                CU_ASSERT_TRUE(s && strcmp(s->text, view[v].text) == 0);
            }
        }
        unsigned count = 0;
        for (size_t i = 0; i < stored.n; i++) {
            for (const char *p = stored.item[i]->text; *p; p++)
                count += *p == 'w' || *p == 'W';
        }
        CU_ASSERT_EQUAL(count, words);
        free(view);
        segment_list_free(&stored);
        segment_list_free(&batch);
        id_list_free(&deleted);
    }
}

/* A name given between two segments that are one holds for both. */
static void test_names_when_appended(void)
{
    struct segment_list stored = {0}, batch = {0};
    struct id_list deleted = {0};
    segment_list_push(&stored, make(1, "one", 0, 1));
    segment_list_push(&batch, make(1, "two", 1, 2));
    batch.item[0]->person_id = strdup("ben");
    CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
    CU_ASSERT_EQUAL(stored.n, 1);
    CU_ASSERT_TRUE(stored.item[0]->person_id && strcmp(stored.item[0]->person_id, "ben") == 0);
    segment_list_free(&stored);
    segment_list_free(&batch);
    id_list_free(&deleted);
}

/* A provider's text may be anything, a client's name of one longer than is kept. */
static void test_heard_by(void)
{
    static const struct {
        uint64_t first, second, both;
    } cases_heard[] = {{3, 3, 3}, {3, 4, 0}, {0, 4, 0}, {3, 0, 0}};
    for (size_t i = 0; i < sizeof cases_heard / sizeof cases_heard[0]; i++) {
        struct segment_list stored = {0}, batch = {0};
        struct id_list gone = {0};
        struct segment *a = make(0, "hello", 0, 1), *b = make(0, "there", 1, 2);
        a->heard_by = cases_heard[i].first;
        b->heard_by = cases_heard[i].second;
        CU_ASSERT_TRUE(segment_list_push(&stored, a) && segment_list_push(&batch, b));
        CU_ASSERT_TRUE(segments_merge(&stored, &batch, &gone));
        CU_ASSERT_EQUAL_FATAL(stored.n, 1);
        CU_ASSERT_EQUAL(stored.item[0]->heard_by, cases_heard[i].both);
        segment_list_free(&stored);
        segment_list_free(&batch);
        id_list_free(&gone);
    }
}

static void test_nothing_but_utf8(void)
{
    char name[64] = "x";
    for (size_t i = 1; i + 2 < sizeof name; i += 2)
        memcpy(name + i, "\xc3\xa9", 2); /* the bound falls into one of them */
    for (size_t from = 0; from < 2; from++) {
        struct segment *s = segment_new(" a\xff\xc3(\xc3\xa9 \xe2\x82", 0, false, 0, 1, name + from);
        CU_ASSERT_PTR_NOT_NULL_FATAL(s);
        CU_ASSERT_STRING_EQUAL(s->text, "a\?\?(\xc3\xa9??");
        CU_ASSERT(utf8_valid(s->provider, strlen(s->provider)));
        CU_ASSERT(strlen(s->provider) >= sizeof s->provider - 2 - from);
        segment_free(&s);
    }
}

/* Each at its start, behind those that came before it with the same. */
static void test_place(void)
{
    struct segment_list stored = {0};
    struct id_list deleted = {0};
    for (int i = 0; i < 200; i++) {
        struct segment_list batch = {0};
        char text[32];
        snprintf(text, sizeof text, "Number %d.", i);
        CU_ASSERT_TRUE(segment_list_push(&batch, make(i, text, (i * 37) % 50 * 10, (i * 37) % 50 * 10 + 1)));
        CU_ASSERT_TRUE(segments_merge(&stored, &batch, &deleted));
        segment_list_free(&batch);
    }
    CU_ASSERT_EQUAL(stored.n, 200);
    for (size_t i = 1; i < stored.n; i++) {
        const struct segment *a = stored.item[i - 1], *b = stored.item[i];
        CU_ASSERT(a->start < b->start || (a->start == b->start && a->speaker_id < b->speaker_id));
    }
    segment_list_free(&stored);
    id_list_free(&deleted);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"table of cases", test_cases},
        {"another provider stays apart", test_other_provider_stays_apart},
        {"the owner on two speakers is one", test_owner_on_two_speakers},
        {"only what changed is unseen", test_unseen},
        {"no text grows without a bound", test_no_text_without_bound},
        {"nothing lost or doubled", test_nothing_lost_or_doubled},
        {"the client's view is the stored one, in any order", test_views_agree},
        {"names when segments are appended", test_names_when_appended},
        {"who has heard it, when segments are appended", test_heard_by},
        {"nothing but UTF-8", test_nothing_but_utf8},
        {"in any order, in its place", test_place},
        CU_TEST_INFO_NULL,
    };
    CU_TestInfo summary[] = {
        {"title and overview", test_extract},
        {"odd texts", test_extract_odd},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"segments", NULL, NULL, NULL, NULL, tests},
                             {"extractive summary", NULL, NULL, NULL, NULL, summary},
                             CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
