/* Deepgram: the URL that is asked for, and what is made of the provider's messages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"
#include "unit.h"

#define MAX ((size_t)1024 * 1024)

static const struct dg_languages plain;

/* -------------------------------------------------------------------- query */

static void test_models(void)
{
    enum dg_model m;
    CU_ASSERT(dg_model_find("dg-nova-3", &m) && m == DG_NOVA_3);
    CU_ASSERT(dg_model_find("dg-nova-2", &m) && m == DG_NOVA_2);
    CU_ASSERT(!dg_model_find("nova-3", &m));
    CU_ASSERT(!dg_model_find("sphinx", &m));
    CU_ASSERT(!dg_model_find("dg-nova-33", &m));
    CU_ASSERT(!dg_model_find("", &m));
}

static void test_multilingual(void)
{
    static const char *const multi[] = {"multi", "en",     "en-US", "en-AU", "en-GB", "en-IN", "en-NZ",
                                        "es",    "es-419", "fr",    "fr-CA", "de",    "hi",    "ru",
                                        "pt",    "pt-BR",  "pt-PT", "ja",    "it",    "nl"};
    struct dg_languages single = {.single = true};
    for (size_t i = 0; i < sizeof(multi) / sizeof(multi[0]); i++) {
        const char *got = dg_language_map(DG_NOVA_3, multi[i], &plain);
        CU_ASSERT(got && strcmp(got, "multi") == 0);
        got = dg_language_map(DG_NOVA_3, multi[i], &single);
        CU_ASSERT(got && strcmp(got, multi[i]) == 0);
        got = dg_language_map(DG_NOVA_2, multi[i], &plain);
        CU_ASSERT(got && strcmp(got, multi[i]) == 0);
    }
}

static void test_languages(void)
{
    const char *more[] = {"tlh", "zh"};
    struct dg_languages extra = {.extra = more, .n = 2};

    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "pl", &plain), "pl");
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "nl-BE", &plain), "nl-BE");
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "PT-br", &(struct dg_languages){.single = true}), "pt-BR");
    CU_ASSERT_PTR_NULL(dg_language_map(DG_NOVA_3, "zh", &plain));
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_2, "zh", &plain), "zh");
    CU_ASSERT_PTR_NULL(dg_language_map(DG_NOVA_3, "tlh", &plain));
    CU_ASSERT_PTR_NULL(dg_language_map(DG_NOVA_3, "", &plain));
    CU_ASSERT_PTR_NULL(dg_language_map(DG_NOVA_3, "e", &plain));
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "tlh", &extra), "tlh");
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "zh", &extra), "zh");
    CU_ASSERT_STRING_EQUAL(dg_language_map(DG_NOVA_3, "en", &extra), "multi");
}

static void endpoint_is(const char *base, const char *expected)
{
    char err[128] = "";
    char *got = dg_endpoint(base, err, sizeof(err));
    if (expected) {
        CU_ASSERT_PTR_NOT_NULL_FATAL(got);
        CU_ASSERT_STRING_EQUAL(got, expected);
    } else {
        CU_ASSERT_PTR_NULL(got);
        CU_ASSERT(err[0] != '\0');
    }
    free(got);
}

static void test_endpoint(void)
{
    endpoint_is("https://api.deepgram.com", "wss://api.deepgram.com/v1/listen");
    endpoint_is("http://127.0.0.1:8080/", "ws://127.0.0.1:8080/v1/listen");
    endpoint_is("HTTPS://h/base//", "wss://h/base/v1/listen");
    endpoint_is("ws://[::1]:9", "ws://[::1]:9/v1/listen");
    endpoint_is("wss://h", "wss://h/v1/listen");
    endpoint_is("", NULL);
    endpoint_is("api.deepgram.com", NULL);
    endpoint_is("ftp://h", NULL);
    endpoint_is("http://", NULL);
    endpoint_is("http:///x", NULL);
    endpoint_is("http://:80", NULL);
    endpoint_is("http://user:secret@h", NULL);
    endpoint_is("http://h?x=1", NULL);
    endpoint_is("http://h#x", NULL);
    endpoint_is("http://h h", NULL);
    endpoint_is("http://h\r\nX: y", NULL);
    endpoint_is("http://h/\xc3\xa9", NULL);
}

static void test_query(void)
{
    struct dg_query q = {.model = DG_NOVA_3, .language = "multi", .english = true, .sample_rate = 16000};
    char *url = dg_query_url("ws://h/v1/listen", &q);
    CU_ASSERT_PTR_NOT_NULL_FATAL(url);
    CU_ASSERT_STRING_EQUAL(url, "ws://h/v1/listen?punctuate=true&no_delay=true&endpointing=300&language=multi"
                                "&interim_results=false&smart_format=true&profanity_filter=false&diarize=true"
                                "&filler_words=false&channels=1&multichannel=false&model=nova-3&sample_rate=16000"
                                "&encoding=linear16");
    free(url);
}

static void test_query_terms(void)
{
    const char *terms[DG_MAX_KEYTERMS];
    char long_term[DG_MAX_KEYTERM + 1];
    struct dg_query q = {.model = DG_NOVA_2, .language = "pl", .sample_rate = 8000, .keyterms = terms, .n = 2};

    terms[0] = "a b&c=d#?";
    terms[1] = "caf\xc3\xa9~-._";
    char *url = dg_query_url("ws://h", &q);
    CU_ASSERT_PTR_NOT_NULL_FATAL(url);
    CU_ASSERT(strstr(url, "&filler_words=true&") != NULL);
    CU_ASSERT(strstr(url, "&model=nova-2&") != NULL);
    CU_ASSERT(strstr(url, "&keywords=a%20b%26c%3Dd%23%3F&keywords=caf%C3%A9~-._") != NULL);
    CU_ASSERT(strstr(url, "keyterm") == NULL);
    free(url);

    memset(long_term, '&', DG_MAX_KEYTERM); /* three bytes each when encoded */
    long_term[DG_MAX_KEYTERM] = '\0';
    for (int i = 0; i < DG_MAX_KEYTERMS; i++)
        terms[i] = long_term;
    q.model = DG_NOVA_3;
    q.n = DG_MAX_KEYTERMS;
    url = dg_query_url("ws://h", &q);
    CU_ASSERT_PTR_NOT_NULL_FATAL(url);
    size_t found = 0;
    for (const char *p = url; (p = strstr(p, "&keyterm=")); p++)
        found++;
    CU_ASSERT_EQUAL(found, DG_MAX_KEYTERMS);
    CU_ASSERT(strlen(url) > (size_t)DG_MAX_KEYTERMS * DG_MAX_KEYTERM * 3);
    free(url);
}

static void test_english(void)
{
    CU_ASSERT(dg_language_is_english("en"));
    CU_ASSERT(dg_language_is_english("en-GB"));
    CU_ASSERT(dg_language_is_english("EN"));
    CU_ASSERT(!dg_language_is_english("multi"));
    CU_ASSERT(!dg_language_is_english("enm"));
    CU_ASSERT(!dg_language_is_english("e"));
    CU_ASSERT(!dg_language_is_english(""));
}

/* ------------------------------------------------------------------ messages */

static struct dg_message parsed;

static struct dg_message *parse(const char *text)
{
    dg_message_free(&parsed);
    dg_message_parse(&parsed, text, strlen(text), MAX);
    return &parsed;
}

/* A result from 1 s to 3 s with this transcript (JSON) and these words (JSON). */
static struct dg_message *parse_words(const char *transcript, const char *words)
{
    char text[8192];
    snprintf(text, sizeof(text),
             "{\"type\":\"Results\",\"channel_index\":[0,1],\"duration\":2.0,\"start\":1.0,\"is_final\":true,"
             "\"channel\":{\"alternatives\":[{\"transcript\":%s,\"confidence\":0.9,\"words\":%s}]}}",
             transcript, words);
    return parse(text);
}

#define WORD(word, start, end, speaker) \
    "{\"word\":\"" word "\",\"start\":" #start ",\"end\":" #end ",\"speaker\":" #speaker "}"

static void segment_is(size_t i, const char *text, double start, double end, int speaker)
{
    CU_ASSERT_FATAL(i < parsed.n);
    CU_ASSERT_STRING_EQUAL(parsed.segments[i].text, text);
    CU_ASSERT_DOUBLE_EQUAL(parsed.segments[i].start, start, 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(parsed.segments[i].end, end, 1e-9);
    CU_ASSERT_EQUAL(parsed.segments[i].speaker, speaker);
}

static void test_speakers(void)
{
    struct dg_message *m = parse_words("\"x\"", "[" WORD("a", 1, 1.2, 0) "," WORD("b", 1.2, 1.4, 0) "," WORD(
                                                    "c", 1.4, 1.5, 1) "," WORD("d", 1.6, 1.7, 0) "]");
    CU_ASSERT_EQUAL(m->kind, DG_RESULTS);
    CU_ASSERT_EQUAL_FATAL(m->n, 3);
    segment_is(0, "a b", 1, 1.4, 0);
    segment_is(1, "c", 1.4, 1.5, 1);
    segment_is(2, "d", 1.6, 1.7, 0);
    CU_ASSERT_DOUBLE_EQUAL(m->until, 3.0, 1e-9);
    CU_ASSERT_EQUAL(m->bad, 0);
}

static void test_punctuated(void)
{
    parse_words("\"x\"", "[{\"word\":\"hello\",\"punctuated_word\":\"Hello,\",\"start\":1,\"end\":2,\"speaker\":0},"
                         "{\"word\":\"you\",\"punctuated_word\":\"\",\"start\":2,\"end\":3,\"speaker\":0},"
                         "{\"word\":\"t\\u00e9\\\"\",\"punctuated_word\":7,\"start\":3,\"end\":3,\"speaker\":0}]");
    CU_ASSERT_EQUAL_FATAL(parsed.n, 1);
    segment_is(0, "Hello, you t\xc3\xa9\"", 1, 3, 0);
}

static void test_no_speaker(void)
{
    parse_words("\"x\"", "[{\"word\":\"a\",\"start\":1,\"end\":1.1},{\"word\":\"b\",\"start\":1.2,\"end\":1.3,"
                         "\"speaker\":null}," WORD("c", 2, 2.1, 2) ",{\"word\":\"d\",\"start\":2.2,\"end\":2.3}]");
    CU_ASSERT_EQUAL_FATAL(parsed.n, 2);
    segment_is(0, "a b", 1, 1.3, -1);
    segment_is(1, "c d", 2, 2.3, 2);
    CU_ASSERT_EQUAL(parsed.bad, 0);
    parse_words("\"x\"", "[" WORD("a", 1, 2, "zero") "," WORD("b", 2, 3, -1) "," WORD("c", 3, 4, 1.5) "," WORD(
                             "d", 4, 5, 99999999999999999999) "]");
    CU_ASSERT_EQUAL_FATAL(parsed.n, 1);
    segment_is(0, "a b c d", 1, 5, -1);
    CU_ASSERT_EQUAL(parsed.bad, 4);
}

static void test_empty_transcript(void)
{
    struct dg_message *m = parse_words("\"\"", "[]");
    CU_ASSERT_EQUAL(m->kind, DG_RESULTS);
    CU_ASSERT_EQUAL(m->n, 0);
    CU_ASSERT_DOUBLE_EQUAL(m->until, 3.0, 1e-9);
    m = parse_words("\"\"", "[" WORD("ghost", 1, 2, 0) "]");
    CU_ASSERT_EQUAL(m->n, 0);
}

static void test_text_without_words(void)
{
    struct dg_message *m = parse_words("\"all there is\"", "[]");
    CU_ASSERT_EQUAL_FATAL(m->n, 1);
    segment_is(0, "all there is", 1, 3, -1);
    m = parse_words("\"all there is\"", "{\"word\":1}");
    CU_ASSERT_EQUAL_FATAL(m->n, 1);
    m = parse("{\"type\":\"Results\",\"channel\":{\"alternatives\":[{\"transcript\":\"when?\"}]}}");
    CU_ASSERT_EQUAL(m->kind, DG_MALFORMED);
    CU_ASSERT_EQUAL(m->n, 0);
}

static void test_bad_times(void)
{
    static const char *const bad[] = {"-1",   "1e999", "-1e999", "1e300", "null",   "\"1\"",
                                      "true", "[1]",   "{}",     "NaN",   "2000001"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char words[256];
        snprintf(words, sizeof(words),
                 "[{\"word\":\"bad\",\"start\":%s,\"end\":3},%s,{\"word\":\"worse\",\"start\":1,"
                 "\"end\":%s}]",
                 bad[i], WORD("good", 1, 2, 0), bad[i]);
        struct dg_message *m = parse_words("\"x\"", words);
        if (strcmp(bad[i], "NaN") == 0) { /* no JSON at all */
            CU_ASSERT_EQUAL(m->kind, DG_MALFORMED);
            continue;
        }
        CU_ASSERT_EQUAL(m->kind, DG_RESULTS);
        CU_ASSERT_EQUAL_FATAL(m->n, 1);
        segment_is(0, "good", 1, 2, 0);
        CU_ASSERT_EQUAL(m->bad, 2);
    }
    parse_words("\"x\"", "[" WORD("backwards", 2, 1, 0) "," WORD("good", 1, 2, 0) "]");
    CU_ASSERT_EQUAL(parsed.n, 1);
    CU_ASSERT_EQUAL(parsed.bad, 1);
}

static void test_bad_words(void)
{
    parse_words("\"x\"", "[1,null,\"w\",[],{},{\"word\":7,\"start\":1,\"end\":2},{\"word\":\"\",\"start\":1,\"end\":2},"
                         "{\"start\":1,\"end\":2}," WORD("good", 1, 2, 0) "]");
    CU_ASSERT_EQUAL_FATAL(parsed.n, 1);
    segment_is(0, "good", 1, 2, 0);
    CU_ASSERT_EQUAL(parsed.bad, 8);
}

static void test_unordered(void)
{
    parse_words("\"x\"",
                "[" WORD("c", 3, 4, 0) "," WORD("a", 1, 2, 1) "," WORD("b", 2, 3, 0) "," WORD("b2", 2, 3, 0) "]");
    CU_ASSERT_EQUAL_FATAL(parsed.n, 2);
    segment_is(0, "a", 1, 2, 1);
    segment_is(1, "b b2 c", 2, 4, 0);
    /* a long word around a short one: the segment ends where the last sound does */
    parse_words("\"x\"", "[" WORD("long", 1, 9, 0) "," WORD("short", 2, 3, 0) "]");
    segment_is(0, "long short", 1, 9, 0);
}

static void test_result_times(void)
{
    static const char *const bad[] = {"-1", "1e999", "null", "\"1\"", "true", "[1]", "{}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[512];
        snprintf(
            text, sizeof(text),
            "{\"type\":\"Results\",\"start\":1,\"duration\":%s,\"channel\":{\"alternatives\":[{\"transcript\":\"a\","
            "\"words\":[" WORD("a", 1, 2, 0) "]}]}}",
            bad[i]);
        struct dg_message *m = parse(text);
        CU_ASSERT_EQUAL(m->kind, DG_RESULTS);
        CU_ASSERT(m->until < 0);
        CU_ASSERT_EQUAL(m->n, 1); /* the words are good */
        CU_ASSERT_EQUAL(m->bad, 1);
    }
}

static void test_kinds(void)
{
    CU_ASSERT_EQUAL(parse("{\"type\":\"Metadata\",\"duration\":1}")->kind, DG_METADATA);
    CU_ASSERT_EQUAL(parse("{\"type\":\"SpeechStarted\",\"channel\":[0],\"timestamp\":1}")->kind, DG_SPEECH_STARTED);
    CU_ASSERT_EQUAL(parse("{\"type\":\"UtteranceEnd\",\"last_word_end\":1}")->kind, DG_UTTERANCE_END);
    CU_ASSERT_EQUAL(parse("{\"type\":\"Surprise\"}")->kind, DG_UNKNOWN);
    CU_ASSERT_EQUAL(parse("{\"type\":7}")->kind, DG_UNKNOWN);
    CU_ASSERT_EQUAL(parse("{}")->kind, DG_UNKNOWN);
    CU_ASSERT_EQUAL(parse("{\"type\":\"Results\",\"is_final\":false,\"start\":0,\"duration\":9,\"channel\":{"
                          "\"alternatives\":[{\"transcript\":\"x\"}]}}")
                        ->kind,
                    DG_INTERIM);
    CU_ASSERT_EQUAL(parsed.n, 0);
}

static void test_malformed(void)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "{]",
        "null",
        "[]",
        "7",
        "\"Results\"",
        "{} {}",
        "{}x",
        "{\"type\":\"Results\",}",
        "{\"type\":\"Results\"}",
        "{\"type\":\"Results\",\"channel\":[]}",
        "{\"type\":\"Results\",\"channel\":{\"alternatives\":[]}}",
        "{\"type\":\"Results\",\"channel\":{\"alternatives\":{\"transcript\":\"x\"}}}",
        "{\"type\":\"Results\",\"start\":0,\"duration\":1,\"channel\":{\"alternatives\":[{}]}}",
        "{\"type\":\"Results\",\"start\":0,\"duration\":1,\"channel\":{\"alternatives\":[7]}}",
        "{\"type\":\"Metadata\",\"x\":\"\xff\xfe\"}",
        "{\"type\":\"Metadata\",\"x\":\"cut",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        CU_ASSERT_EQUAL(parse(bad[i])->kind, DG_MALFORMED);
        CU_ASSERT_EQUAL(parsed.n, 0);
    }
    dg_message_free(&parsed);
    dg_message_parse(&parsed, "{\"type\":\"Metadata\"}\0{}", 22, MAX); /* a NUL would hide what follows */
    CU_ASSERT_EQUAL(parsed.kind, DG_MALFORMED);
}

/* Every prefix of a good message, and every byte of it changed, is read without a fault of memory. */
static void test_truncated_and_changed(void)
{
    char text[1024], cut[1024];
    snprintf(text, sizeof(text),
             "{\"type\":\"Results\",\"start\":1,\"duration\":2,\"is_final\":true,\"channel\":{\"alternatives\":["
             "{\"transcript\":\"a b\",\"words\":[%s,%s]}]}}",
             WORD("a", 1, 2, 0), WORD("b", 2, 3, 1));
    size_t len = strlen(text);
    for (size_t n = 0; n < len; n++) {
        char *exact = malloc(n ? n : 1); /* nothing behind it to read by mistake */
        CU_ASSERT_PTR_NOT_NULL_FATAL(exact);
        memcpy(exact, text, n);
        dg_message_free(&parsed);
        dg_message_parse(&parsed, exact, n, MAX);
        CU_ASSERT_EQUAL(parsed.kind, DG_MALFORMED);
        free(exact);
    }
    for (size_t n = 0; n < len; n++) {
        for (const char *c = "\"{}[],:7-e\\\x01\xff"; *c; c++) {
            memcpy(cut, text, len);
            cut[n] = *c;
            dg_message_free(&parsed);
            dg_message_parse(&parsed, cut, len, MAX);
            CU_ASSERT((unsigned)parsed.kind < DG_KINDS);
        }
    }
}

static void test_deep(void)
{
    size_t n = 200000;
    char *text = malloc(n * 2 + 64);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    size_t at = (size_t)sprintf(text, "{\"type\":\"Metadata\",\"x\":");
    memset(text + at, '[', n);
    memset(text + at + n, ']', n);
    strcpy(text + at + 2 * n, "}");
    CU_ASSERT_EQUAL(parse(text)->kind, DG_MALFORMED);
    at = (size_t)sprintf(text, "{\"type\":\"Metadata\",\"x\":");
    memset(text + at, '[', DG_MAX_DEPTH - 1);
    memset(text + at + DG_MAX_DEPTH - 1, ']', DG_MAX_DEPTH - 1);
    strcpy(text + at + 2 * (DG_MAX_DEPTH - 1), "}");
    CU_ASSERT_EQUAL(parse(text)->kind, DG_METADATA);
    at = (size_t)sprintf(text, "{\"type\":\"Metadata\",\"x\":");
    memset(text + at, '[', DG_MAX_DEPTH);
    memset(text + at + DG_MAX_DEPTH, ']', DG_MAX_DEPTH);
    strcpy(text + at + 2 * DG_MAX_DEPTH, "}");
    CU_ASSERT_EQUAL(parse(text)->kind, DG_MALFORMED);
    free(text);
}

static void test_big(void)
{
    const char *text = "{\"type\":\"Metadata\"}";
    dg_message_free(&parsed);
    dg_message_parse(&parsed, text, strlen(text), strlen(text) - 1);
    CU_ASSERT_EQUAL(parsed.kind, DG_TOO_BIG);
    dg_message_parse(&parsed, text, strlen(text), strlen(text));
    CU_ASSERT_EQUAL(parsed.kind, DG_METADATA);
}

static void test_many_words(void)
{
    size_t n = DG_MAX_WORDS + 10;
    char *text = malloc(n * 64 + 256);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    char *p = text + sprintf(text, "{\"type\":\"Results\",\"start\":0,\"duration\":1,\"channel\":{\"alternatives\":[{"
                                   "\"transcript\":\"x\",\"words\":[");
    for (size_t i = 0; i < n; i++)
        p += sprintf(p, "%s{\"word\":\"w\",\"start\":%zu,\"end\":%zu,\"speaker\":%zu}", i ? "," : "", i, i + 1, i % 2);
    strcpy(p, "]}]}}");
    struct dg_message *m = parse(text);
    CU_ASSERT_EQUAL(m->kind, DG_RESULTS);
    CU_ASSERT_EQUAL(m->n, DG_MAX_WORDS);
    CU_ASSERT_EQUAL(m->bad, 10);
    free(text);
}

static void test_error(void)
{
    struct dg_message *m = parse("{\"type\":\"Error\",\"description\":\"no\\nroom\",\"message\":\"later\",\"variant\":"
                                 "\"V\"}");
    CU_ASSERT_EQUAL(m->kind, DG_ERROR);
    CU_ASSERT_STRING_EQUAL(m->error, "V: no?room; later");
    char text[4096] = "{\"type\":\"Error\",\"description\":\"";
    memset(text + strlen(text), 'x', 3000);
    strcat(text, "\",\"message\":[]}");
    CU_ASSERT_EQUAL(parse(text)->kind, DG_ERROR);
    CU_ASSERT(strlen(parsed.error) < sizeof(parsed.error));
    CU_ASSERT_EQUAL(parse("{\"type\":\"Error\"}")->kind, DG_ERROR);
    CU_ASSERT_STRING_EQUAL(parsed.error, "");
}

int main(void)
{
    static const CU_TestInfo query[] = {{"models", test_models},       {"multilingual", test_multilingual},
                                        {"languages", test_languages}, {"endpoint", test_endpoint},
                                        {"query", test_query},         {"terms", test_query_terms},
                                        {"english", test_english},     CU_TEST_INFO_NULL};
    static const CU_TestInfo messages[] = {{"speakers", test_speakers},
                                           {"punctuated words", test_punctuated},
                                           {"words without speaker", test_no_speaker},
                                           {"empty transcript", test_empty_transcript},
                                           {"text without words", test_text_without_words},
                                           {"bad times of words", test_bad_times},
                                           {"bad words", test_bad_words},
                                           {"unordered words", test_unordered},
                                           {"bad times of results", test_result_times},
                                           {"kinds", test_kinds},
                                           {"malformed", test_malformed},
                                           {"truncated and changed", test_truncated_and_changed},
                                           {"deep", test_deep},
                                           {"big", test_big},
                                           {"many words", test_many_words},
                                           {"error", test_error},
                                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"query", NULL, NULL, NULL, NULL, (CU_TestInfo *)query},
                             {"messages", NULL, NULL, NULL, NULL, (CU_TestInfo *)messages},
                             CU_SUITE_INFO_NULL};

    int rc = unit_run(suites);
    dg_message_free(&parsed);
    return rc;
}
