/* The query of the listen endpoints: what each parameter takes, what it refuses, what it means when absent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/utf8.h"
#include "session/params.h"
#include "unit.h"

static const struct {
    const char *query, *fault; /* what the answer must begin with; NULL: taken */
} table[] = {
    {"", NULL},
    {"&&&", NULL},
    {"sample_rate=16000&codec=pcm16&language=en", NULL},

    {"sample_rate=abc", "sample_rate: expected an integer"},
    {"sample_rate=", "sample_rate: expected an integer"},
    {"sample_rate", "sample_rate: expected an integer"},
    {"sample_rate=-", "sample_rate: expected an integer"},
    {"sample_rate=16000.5", "sample_rate: expected an integer"},
    {"sample_rate=16000.0", "sample_rate: expected an integer"},
    {"sample_rate=1e4", "sample_rate: expected an integer"},
    {"sample_rate=0x3e80", "sample_rate: expected an integer"},
    {"sample_rate=16000%20", "sample_rate: expected an integer"},
    {"sample_rate=+16000", "sample_rate: expected an integer"}, /* a space */
    {"sample_rate=%0916000", "sample_rate: expected an integer"},
    {"sample_rate=%0b16000", "sample_rate: expected an integer"},
    {"sample_rate=16000%00", "sample_rate: holds a NUL byte"},
    {"sample_rate=NaN", "sample_rate: expected an integer"},
    {"sample_rate=99999999999999999999", "sample_rate: expected an integer"},
    {"sample_rate=-99999999999999999999", "sample_rate: expected an integer"},
    {"sample_rate=%EF%BC%91", "sample_rate: expected an integer"}, /* a digit, but a wide one */
    {"sample_rate=%2B16000", NULL},
    {"sample_rate=016000", NULL},
    /* They parse; a close code refuses them. */
    {"sample_rate=7", NULL},
    {"sample_rate=-16000", NULL},
    {"sample_rate=0", NULL},

    {"channels=1", NULL},
    {"channels=8", NULL},
    {"channels=0", "channels: expected 1 to 8, found 0"},
    {"channels=9", "channels: expected 1 to 8, found 9"},
    {"channels=-1", "channels: expected 1 to 8, found -1"},
    {"channels=x", "channels: expected an integer"},
    {"channels=", "channels: expected an integer"},

    {"conversation_timeout=-1", NULL},
    {"conversation_timeout=-2", NULL},
    {"conversation_timeout=0", NULL},
    {"conversation_timeout=soon", "conversation_timeout: expected an integer"},
    {"conversation_timeout=120s", "conversation_timeout: expected an integer"},
    {"conversation_timeout=", "conversation_timeout: expected an integer"},
    {"conversation_timeout=9223372036854775808", "conversation_timeout: expected an integer"},

    {"include_speech_profile=True", NULL},
    {"include_speech_profile=0", NULL},
    {"include_speech_profile=off", NULL},
    {"include_speech_profile=maybe", "include_speech_profile: expected true or false"},
    {"include_speech_profile=", "include_speech_profile: expected true or false"},
    {"include_speech_profile=2", "include_speech_profile: expected true or false"},

    {"custom_stt=enabled", NULL},
    {"custom_stt=disabled", NULL},
    {"custom_stt=on", "custom_stt: expected enabled or disabled"},
    {"custom_stt=", "custom_stt: expected enabled or disabled"},
    {"vad_gate=enabled", NULL},
    {"vad_gate=Enabled", "vad_gate: expected enabled or disabled"},
    {"vad_gate=true", "vad_gate: expected enabled or disabled"},
    {"speaker_auto_assign=1", "speaker_auto_assign: expected enabled or disabled"},

    {"language=%zz", "language: bad percent escape"},
    {"language=%", "language: bad percent escape"},
    {"language=%e", "language: bad percent escape"},
    {"source=%ff", "source: not UTF-8"},
    {"source=%ed%a0%80", "source: not UTF-8"},
    {"source=%c0%af", "source: not UTF-8"},
    {"call_id=%00", "call_id: holds a NUL byte"},
    {"%ff=1", "query parameter 1: not UTF-8"},
    {"language=en&%zz=1", "query parameter 2: bad percent escape"},

    /* Nothing to refuse before the upgrade. */
    {"codec=mp3", NULL},
    {"codec=", NULL},
    {"language=", NULL},
    {"stt_service=nobody", NULL},
    {"client_conversation_id=nonsense", NULL},
    {"uid=somebody&unknown=1", NULL},
    {"sample_rate=abc&sample_rate=16000", NULL}, /* the last counts */
    {"sample_rate=16000&sample_rate=abc", "sample_rate: expected an integer"},
};

static void test_faults(void)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct listen_params p;
        char err[128] = "";
        const char *fault = table[i].fault;
        bool ok = listen_params_parse(&p, table[i].query, err, sizeof err);
        bool as_wanted = ok == !fault && (!fault || strncmp(err, fault, strlen(fault)) == 0);
        if (!as_wanted)
            printf("\n%s: %s \"%s\"\n", table[i].query, ok ? "taken" : "refused", err);
        CU_ASSERT(as_wanted);
    }
}

static struct listen_params parsed(const char *query)
{
    struct listen_params p;
    char err[128];
    CU_ASSERT_TRUE_FATAL(listen_params_parse(&p, query, err, sizeof err));
    return p;
}

static void test_defaults(void)
{
    struct listen_params p = parsed("");
    CU_ASSERT_STRING_EQUAL(p.language, "en");
    CU_ASSERT_EQUAL(p.sample_rate, 8000);
    CU_ASSERT_EQUAL(p.codec, CODEC_PCM8);
    CU_ASSERT_STRING_EQUAL(p.codec_name, "pcm8");
    CU_ASSERT_EQUAL(p.channels, 1);
    CU_ASSERT_TRUE(p.include_speech_profile);
    CU_ASSERT_FALSE(p.timeout_given);
    CU_ASSERT_STRING_EQUAL(p.source, "omi");
    CU_ASSERT_FALSE(p.custom_stt);
    CU_ASSERT_STRING_EQUAL(p.stt_service, "");
    CU_ASSERT_EQUAL(p.vad_gate, CHOICE_NONE);
    CU_ASSERT_FALSE(p.speaker_auto_assign);
    CU_ASSERT_STRING_EQUAL(p.resume_id, "");
    CU_ASSERT_STRING_EQUAL(p.call_id, "");
}

static void test_values(void)
{
    struct listen_params p = parsed("language=pt-BR&sample_rate=48000&codec=lc3_fs1030&channels=2&source=a%20b%2Bc+d&"
                                    "include_speech_profile=no&custom_stt=enabled&stt_service=dg-nova-3&"
                                    "vad_gate=disabled&speaker_auto_assign=enabled&call_id=call-%C3%A9&"
                                    "client_conversation_id=0f8fad5b-d9cb-469f-a165-70867728950e&uid=mallory");
    CU_ASSERT_STRING_EQUAL(p.language, "pt-BR");
    CU_ASSERT(p.client_rate == 48000 && p.sample_rate == 16000);
    CU_ASSERT_EQUAL(p.codec, CODEC_LC3_FS1030);
    CU_ASSERT_EQUAL(p.channels, 2);
    CU_ASSERT_STRING_EQUAL(p.source, "a b+c d");
    CU_ASSERT_FALSE(p.include_speech_profile);
    CU_ASSERT_TRUE(p.custom_stt);
    CU_ASSERT_STRING_EQUAL(p.stt_service, "dg-nova-3");
    CU_ASSERT_EQUAL(p.vad_gate, CHOICE_DISABLED);
    CU_ASSERT_TRUE(p.speaker_auto_assign);
    CU_ASSERT_STRING_EQUAL(p.call_id, "call-\xc3\xa9");
    CU_ASSERT_STRING_EQUAL(p.resume_id, "0f8fad5b-d9cb-469f-a165-70867728950e");
    p = parsed("vad_gate=enabled&vad_gate=disabled&codec=pcm16&codec=opus&client_conversation_id=xyz");
    CU_ASSERT_EQUAL(p.vad_gate, CHOICE_DISABLED);
    CU_ASSERT_EQUAL(p.codec, CODEC_OPUS);
    CU_ASSERT_STRING_EQUAL(p.resume_id, "");
    CU_ASSERT_STRING_EQUAL(parsed("language=auto").language, "multi");
    CU_ASSERT_STRING_EQUAL(parsed("language=Multi").language, "multi");
}

static void test_codecs(void)
{
    static const char *const names[] = {"pcm8", "pcm16", "opus", "opus_fs320", "aac", "lc3", "lc3_fs1030"};
    char query[64];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(query, sizeof query, "codec=%s", names[i]);
        CU_ASSERT_EQUAL(parsed(query).codec, (enum listen_codec)i);
        snprintf(query, sizeof query, "codec=%sx", names[i]);
        CU_ASSERT_EQUAL(parsed(query).codec, CODEC_UNKNOWN);
    }
    CU_ASSERT_EQUAL(parsed("codec=PCM16").codec, CODEC_UNKNOWN);
    CU_ASSERT_EQUAL(parsed("codec=").codec, CODEC_UNKNOWN);
    CU_ASSERT_EQUAL(parsed("codec=pcm16%20").codec, CODEC_UNKNOWN);
}

static void test_timeout(void)
{
    static const struct {
        const char *query;
        int64_t ms;
    } cases[] = {
        {"", 150000},
        {"conversation_timeout=-1", 14400000},
        {"conversation_timeout=-2", 120000},
        {"conversation_timeout=-9223372036854775807", 120000},
        {"conversation_timeout=0", 120000},
        {"conversation_timeout=119", 120000},
        {"conversation_timeout=120", 120000},
        {"conversation_timeout=121", 121000},
        {"conversation_timeout=14400", 14400000},
        {"conversation_timeout=14401", 14400000},
        {"conversation_timeout=9223372036854775807", 14400000},
        {"channels=2", 14400000},
        {"channels=2&conversation_timeout=300", 14400000},
        {"channels=1&conversation_timeout=300", 300000},
    };
    struct conf conf = {.listen = {.conversation_timeout_ms = 150000, .conversation_timeout_floor_ms = 120000}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct listen_params p = parsed(cases[i].query);
        CU_ASSERT_EQUAL(listen_params_timeout_ms(&p, &conf), cases[i].ms);
    }
    conf.listen.conversation_timeout_floor_ms = 2000;
    struct listen_params p = parsed("conversation_timeout=1");
    CU_ASSERT_EQUAL(listen_params_timeout_ms(&p, &conf), 2000);
    p = parsed("conversation_timeout=3");
    CU_ASSERT_EQUAL(listen_params_timeout_ms(&p, &conf), 3000);
}

/* Long texts are cut, never in the middle of a character. */
static void test_long(void)
{
    static const char *const names[] = {"source", "call_id", "language", "stt_service", "codec"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        for (size_t pad = 0; pad < 3; pad++) {
            char query[1200];
            size_t at = (size_t)snprintf(query, sizeof query, "%s=%.*s", names[i], (int)pad, "xx");
            while (at + 10 < sizeof query)
                at += (size_t)snprintf(query + at, sizeof query - at, "%%E2%%82%%AC");
            struct listen_params p = parsed(query);
            const char *texts[] = {p.source, p.call_id, p.language, p.stt_service, p.codec_name};
            CU_ASSERT_TRUE(utf8_valid(texts[i], strlen(texts[i])));
            CU_ASSERT_TRUE(strlen(texts[i]) > 16);
        }
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"faults name their parameter", test_faults},
                           {"defaults", test_defaults},
                           {"values", test_values},
                           {"codecs", test_codecs},
                           {"conversation_timeout", test_timeout},
                           {"long texts", test_long},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"parameters", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
