/* Deepgram: one stream against a host that the test plays, its clock included. */
#include <stdlib.h>
#include <string.h>

#include "deepgram_rig.h"
#include "unit.h"

static void test_configure(void)
{
    static const char *const empty[] = {""};
    const char *many[101];
    memset(&h, 0, sizeof(h));
    c_url = "ftp://h";
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "url:", 4) == 0);
    c_url = "http://h";
    c_key = "sekrit\r\nX: y";
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "key:", 4) == 0 && !strstr(h.conf_error, "sekrit"));
    c_key = NULL;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    c_key = "sekrit";
    c_terms = empty;
    c_n_terms = 1;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "keyterms:", 9) == 0);
    for (int i = 0; i < 101; i++)
        many[i] = "word";
    c_terms = many;
    c_n_terms = 101;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    c_n_terms = 0;
    c_backoff = 40000;
    CU_ASSERT_EQUAL(omid_plugin.configure(NULL, &host, &shared), OMID_EINVAL);
    CU_ASSERT(strncmp(h.conf_error, "backoff_max:", 12) == 0);
    c_backoff = 1000;
}

static void test_request(void)
{
    static const char *const terms[] = {"omid"};
    c_terms = terms;
    c_n_terms = 1;
    begin();
    CU_ASSERT_STRING_EQUAL(h.header, "Authorization: Token sekrit");
    CU_ASSERT_EQUAL(h.req.attempts, 3);
    CU_ASSERT_EQUAL(h.req.backoff_ms, 1000);
    CU_ASSERT_EQUAL(h.req.backoff_cap_ms, 32000);
    CU_ASSERT(strstr(h.url, "language=multi&") && strstr(h.url, "filler_words=false") && strstr(h.url, "keyterm=omid"));
    finish(true);
    struct omid_stt_params two = params_16k;
    two.multi_channel = true;
    two.channel = 1;
    begin_with(&two);
    CU_ASSERT(!strstr(h.url, "keyterm"));
    finish(true);
    c_n_terms = 0;
}

/* A stream that takes no more is to be seen before stt.replay has forgotten what it did not get, at the lowest rate,
 * too: with the 256 KiB that the kernel takes and what the peer's does there is not much left of those 30 s. */
static void test_little_is_under_way(void)
{
    begin_with(&params_16k);
    CU_ASSERT_TRUE(h.req.send_buffer >= 64 << 10);
    CU_ASSERT_TRUE(h.req.send_buffer + (256 << 10) <= (size_t)22 * 8000 * 2);
    finish(true);
}

static void test_open_refusals(void)
{
    struct omid_stt_params p = params_16k;
    begin_with(NULL);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "sphinx", "en"), -1);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "dg-nova-3", "tlh"), 0);
    CU_ASSERT_EQUAL(omid_plugin.stt->serves(state, "dg-nova-3", "en"), 1);
    p.language = "tlh";
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &p, &session, &stream), OMID_ENOTSUP);
    p.model = "sphinx";
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &p, &session, &stream), OMID_EINVAL);
    h.connect_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(omid_plugin.stt->open(state, &params_16k, &session, &stream), OMID_EFULL);
    CU_ASSERT_EQUAL(h.ended, 0);
    finish(false);
}

static void test_normal(void)
{
    opened();
    CU_ASSERT_EQUAL(speak(16000), OMID_OK);
    CU_ASSERT_EQUAL(speak(0), OMID_OK);
    receive_result(0, 0.5, "one");
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 0.5, 1e-6);
    omid_plugin.stt->finalize(stream);
    omid_plugin.stt->close(stream);
    CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
    receive_result(0.5, 0.5, "two");
    receive("{\"type\":\"Metadata\"}");
    CU_ASSERT_EQUAL(h.closed_with, 1000);
    CU_ASSERT_EQUAL(h.ended, 0);
    peer_ends(OMID_WS_CLOSED, 1000, 0);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    CU_ASSERT_STRING_EQUAL(wire(), "B32000 Finalize CloseStream");
    CU_ASSERT_STRING_EQUAL(h.text, "one|two|");
    CU_ASSERT_EQUAL(counted("streams reason=done"), 1);
    CU_ASSERT_EQUAL(counted("finalizes"), 1);
    finish(true);
}

static void test_done_without_metadata(void)
{
    opened();
    omid_plugin.stt->close(stream);
    peer_ends(OMID_WS_CLOSED, 1000, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
    opened();
    omid_plugin.stt->close(stream);
    peer_ends(OMID_WS_CLOSED, 1011, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
    opened();
    omid_plugin.stt->close(stream);
    receive("{\"type\":\"Metadata\"}");
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
}

static void test_peer_never_closes(void)
{
    opened();
    omid_plugin.stt->close(stream);
    omid_plugin.stt->close(stream);
    advance(9999);
    CU_ASSERT_EQUAL(h.ended, 0);
    receive_result(0, 1, "late");
    advance(1);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    CU_ASSERT_STRING_EQUAL(h.text, "late|");
    CU_ASSERT(h.ws.released);
    advance(100000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
}

static void test_close_while_connecting(void)
{
    begin();
    CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
    omid_plugin.stt->finalize(stream);
    omid_plugin.stt->close(stream);
    CU_ASSERT(h.ws.released); /* no further attempt */
    CU_ASSERT_EQUAL(h.ended, 0);
    advance(0);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_DONE);
    finish(true);
    begin(); /* or the session just goes */
    finish(true);
    begin(); /* or goes between the two */
    omid_plugin.stt->close(stream);
    finish(true);
    CU_ASSERT_EQUAL(h.ended, 0);
}

static void test_ends(void)
{
    static const struct {
        enum omid_ws_end end;
        int status;
        enum omid_stt_reason reason;
        bool config;
    } ends[] = {
        {OMID_WS_REJECTED, 401, OMID_STT_CONFIG, true},  {OMID_WS_REJECTED, 400, OMID_STT_CONFIG, true},
        {OMID_WS_REJECTED, 403, OMID_STT_CONFIG, true},  {OMID_WS_CONNECT, 500, OMID_STT_UNREACHED, false},
        {OMID_WS_CONNECT, 0, OMID_STT_UNREACHED, false}, {OMID_WS_BREAKER, 0, OMID_STT_UNREACHED, false},
        {OMID_WS_FULL, 0, OMID_STT_BUSY, false},
    };
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        begin();
        peer_ends(ends[i].end, 1006, ends[i].status);
        CU_ASSERT_EQUAL(h.ended, 1);
        CU_ASSERT_EQUAL(h.ready, 0);
        CU_ASSERT_EQUAL(h.reason, ends[i].reason);
        CU_ASSERT_EQUAL(strncmp(h.log, "0 configuration:", 16) == 0, ends[i].config);
        finish(true);
    }
    opened();
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
    opened();
    peer_ends(OMID_WS_CLOSED, 1000, 0); /* before our CloseStream */
    CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
    finish(true);
}

static void test_keepalive(void)
{
    opened();
    advance(4999);
    CU_ASSERT_EQUAL(h.n_sent, 0);
    advance(1);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive");
    advance(2000);
    speak(160);
    advance(4999);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive B320");
    advance(1);
    CU_ASSERT_STRING_EQUAL(wire(), "KeepAlive B320 KeepAlive");
    advance(20000);
    CU_ASSERT_EQUAL(counted("keepalives"), 6);
    for (int i = 0; i < 100; i++) { /* never while audio flows */
        speak(1600);
        advance(100);
    }
    CU_ASSERT_EQUAL(counted("keepalives"), 6);
    omid_plugin.stt->close(stream);
    unsigned n = h.n_sent;
    advance(9000);
    CU_ASSERT_EQUAL(h.n_sent, n);
    finish(true);
}

static struct omid_stt_stats stats_of(void *of)
{
    struct omid_stt_stats stats = {.size = sizeof(stats)};
    omid_plugin.stt->stats(of, &stats);
    CU_ASSERT_EQUAL(stats.size, sizeof(stats));
    return stats;
}

/* The gate is shut for hours: one KeepAlive every five seconds, and then audio goes as before. */
static void test_hours_of_silence(void)
{
    opened();
    speak(1600);
    omid_plugin.stt->finalize(stream);
    for (int minute = 1; minute <= 180; minute++) {
        h.n_sent = 0;
        advance(60000);
        CU_ASSERT_EQUAL(h.n_sent, 12);
        CU_ASSERT_EQUAL(stats_of(stream).keepalives, 12 * (unsigned)minute);
    }
    CU_ASSERT_EQUAL(speak(1600), OMID_OK);
    omid_plugin.stt->finalize(stream);
    struct omid_stt_stats stats = stats_of(stream);
    CU_ASSERT_EQUAL(stats.finalizes, 2);
    CU_ASSERT_EQUAL(stats.finalize_errors, 0);
    CU_ASSERT_EQUAL(h.ended, 0);
    omid_plugin.stt->close(stream);
    finish(true);
}

/* What was asked for and never left is told, also when the stream is dead. */
static void test_finalize_errors(void)
{
    opened();
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    omid_plugin.stt->finalize(stream);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 1); /* as long as it waits */
    h.accept = UINT32_MAX;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 0);
    CU_ASSERT_EQUAL(stats_of(stream).finalizes, 1);
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    omid_plugin.stt->finalize(stream); /* fails */
    omid_plugin.stt->finalize(stream); /* too late */
    CU_ASSERT_EQUAL(stats_of(stream).finalizes, 1);
    CU_ASSERT_EQUAL(stats_of(stream).finalize_errors, 2);
    advance(0);
    finish(true);
}

static void test_full(void)
{
    opened();
    h.accept = 1;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    omid_plugin.stt->finalize(stream);
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    h.ws.events->writable(h.ws.arg, &h.ws); /* still no room */
    CU_ASSERT_EQUAL(h.writable, 0);
    h.accept = UINT32_MAX;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.writable, 1);
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    CU_ASSERT_STRING_EQUAL(wire(), "B320 Finalize B320");
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.writable, 1); /* told once for each refusal */
    finish(true);
}

/* More than a frame's worth is taken as a whole and sent in pieces, with what follows in order. */
static void test_large_audio(void)
{
    opened();
    h.accept = 2;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_OK);
    CU_ASSERT_STRING_EQUAL(wire(), "B32768 B32768");
    CU_ASSERT_EQUAL(speak(160), OMID_EFULL);
    h.accept = UINT32_MAX; /* room again, of which nobody has been told: the rest goes first */
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    omid_plugin.stt->close(stream);
    CU_ASSERT_STRING_EQUAL(wire(), "B32768 B32768 B32768 B1696 B320 CloseStream");
    CU_ASSERT_EQUAL(h.bytes, 100320);
    finish(true);
    opened();
    h.accept = 1;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_OK);
    finish(true); /* the rest is freed */
    opened();
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    CU_ASSERT_EQUAL(speak(50000), OMID_EFULL); /* none of it */
    CU_ASSERT_EQUAL(h.n_sent, 0);
    finish(true);
}

static void test_send_fails(void)
{
    for (int how = 0; how < 5; how++) {
        opened();
        speak(160);
        h.accept = how == 4 ? 1 : 0;
        h.send_rc = how == 1 ? OMID_ERR : OMID_ECLOSED;
        if (how < 2)
            CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
        if (how == 2)
            omid_plugin.stt->finalize(stream);
        if (how == 3)
            omid_plugin.stt->close(stream);
        if (how == 4)
            CU_ASSERT_EQUAL(speak(50000), OMID_ECLOSED); /* in the second piece */
        CU_ASSERT_EQUAL(h.ended, 0);                     /* not within the session's call */
        CU_ASSERT(h.ws.released);
        h.accept = UINT32_MAX; /* once and for all */
        CU_ASSERT_EQUAL(speak(160), OMID_ECLOSED);
        omid_plugin.stt->finalize(stream);
        omid_plugin.stt->close(stream);
        advance(0);
        CU_ASSERT_EQUAL(h.ended, 1);
        CU_ASSERT_EQUAL(h.reason, OMID_STT_LOST);
        advance(60000);
        CU_ASSERT_EQUAL(h.ended, 1);
        finish(true);
    }
    opened(); /* a KeepAlive that fails */
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    advance(5000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
    opened(); /* what waited fails */
    h.accept = 0;
    h.send_rc = OMID_EFULL;
    speak(160);
    omid_plugin.stt->finalize(stream);
    h.send_rc = OMID_ECLOSED;
    h.ws.events->writable(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.ended, 1);
    CU_ASSERT_EQUAL(h.writable, 0);
    finish(true);
}

static void test_transcribed(void)
{
    opened();
    speak(32000); /* 2 s */
    receive_result(0.5, 0.5, "second");
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.0, 1e-6);
    receive_result(0, 0.5, "first"); /* out of order: its words count, the clock stays */
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.0, 1e-6);
    receive(
        "{\"type\":\"Results\",\"start\":1,\"duration\":0.5,\"channel\":{\"alternatives\":[{\"transcript\":\"\"}]}}");
    CU_ASSERT_EQUAL(h.results, 3);
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 1.5, 1e-6);
    receive_result(1, 100000, "boast"); /* nobody can have heard what was not sent */
    CU_ASSERT_DOUBLE_EQUAL(h.transcribed, 2.0, 1e-6);
    CU_ASSERT_STRING_EQUAL(h.text, "second|first|boast|");
    finish(true);
}

static void test_hostile_messages(void)
{
    opened();
    speak(16000);
    receive("{");
    receive("[]");
    receive("{\"type\":\"Results\",\"channel\":7}");
    receive("{\"type\":\"Metadata\"}"); /* nobody has asked for the end */
    receive("{\"type\":\"Error\",\"description\":\"odd\"}");
    receive("{\"type\":\"Novelty\"}");
    h.ws.events->message(h.ws.arg, &h.ws, OMID_BINARY, "\0\1", 2);
    char *big = malloc(2000000);
    CU_ASSERT_PTR_NOT_NULL_FATAL(big);
    memset(big, '[', 2000000);
    h.ws.events->message(h.ws.arg, &h.ws, OMID_TEXT, big, 2000000);
    free(big);
    CU_ASSERT_EQUAL(h.results, 0);
    CU_ASSERT_EQUAL(h.ended, 0);
    CU_ASSERT_EQUAL(counted("messages kind=malformed"), 3);
    CU_ASSERT_EQUAL(counted("messages kind=unknown"), 2);
    CU_ASSERT_EQUAL(counted("messages kind=error"), 1);
    CU_ASSERT_EQUAL(counted("messages kind=too_big"), 1);
    receive_result(0, 1, "alive");
    CU_ASSERT_STRING_EQUAL(h.text, "alive|");
    finish(true);
}

/* The session may let go within any callback. */
static void test_release_within(void)
{
    opened();
    h.release_in_result = stream;
    speak(160);
    receive_result(0, 1, "bye");
    finish(false);
    opened();
    h.release_in_end = stream;
    peer_ends(OMID_WS_LOST, 1006, 0);
    CU_ASSERT_STRING_EQUAL(h.end_text, "why");
    finish(false);
    opened();
    h.release_in_end = stream;
    h.accept = 0;
    h.send_rc = OMID_ECLOSED;
    speak(160);
    advance(0);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(false);
    opened();
    h.release_in_end = stream;
    omid_plugin.stt->close(stream);
    advance(10000);
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(false);
}

static void test_no_timers(void)
{
    begin();
    h.timers_fail = true;
    h.ws.open = true;
    h.ws.events->open(h.ws.arg, &h.ws);
    CU_ASSERT_EQUAL(h.ready, 1);
    CU_ASSERT_EQUAL(speak(160), OMID_OK);
    omid_plugin.stt->close(stream); /* without a bound it must not wait */
    CU_ASSERT_EQUAL(h.ended, 1);
    finish(true);
}

static void test_left_behind(void)
{
    opened();
    void *left = state;
    omid_plugin.stop(state);
    CU_ASSERT(strstr(h.log, "1 streams") != NULL);
    omid_plugin.stt->release(stream);
    free(left);
    omid_plugin.unconfigure(shared);
}

int main(void)
{
    static const CU_TestInfo tests[] = {{"configure", test_configure},
                                        {"request", test_request},
                                        {"little is under way", test_little_is_under_way},
                                        {"open refused", test_open_refusals},
                                        {"normal", test_normal},
                                        {"done without Metadata", test_done_without_metadata},
                                        {"peer never closes", test_peer_never_closes},
                                        {"close while connecting", test_close_while_connecting},
                                        {"ends", test_ends},
                                        {"KeepAlive", test_keepalive},
                                        {"hours of silence", test_hours_of_silence},
                                        {"Finalize that fails", test_finalize_errors},
                                        {"full", test_full},
                                        {"large audio", test_large_audio},
                                        {"a send fails", test_send_fails},
                                        {"transcribed", test_transcribed},
                                        {"hostile messages", test_hostile_messages},
                                        {"release within a callback", test_release_within},
                                        {"no timers", test_no_timers},
                                        {"left behind", test_left_behind},
                                        CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"stream", NULL, NULL, NULL, NULL, (CU_TestInfo *)tests}, CU_SUITE_INFO_NULL};

    return unit_run(suites);
}
