/*
 * Text messages of a client on /v4/listen, one a line, to a session that brings its own speech-to-text and has a
 * conversation. Whatever a client sends, what the conversation holds then is text in order of time, and can be told.
 */
#include <math.h>
#include <string.h>

#include "bus/channel.h"
#include "bus/route.h"
#include "fuzz.h"
#include "session/state.h"

static struct sessions ss = {.magic = SESSIONS_MAGIC};
static struct channel *channel;

static void never_woken(struct channel_sink *sink)
{
    (void)sink;
}

static void set_up(void)
{
    static const struct route route = {.path = "/v4/listen", .handler = &session_channel_handler};
    static struct channel_sink sink;
    struct conf_faults faults = {.text = BUF_INIT(0)};
    struct channel_request req = {.uid = strdup("u"), .websocket = true};
    ss.conf = conf_load_text("", "fuzz", NULL, &faults);
    ss.env.conf = ss.conf;
    ss.env.loop = loop_new("fuzz");
    ss.conversation = map_new();
    ss.open_of = map_new();
    FUZZ_CHECK(ss.conf != NULL && ss.env.loop != NULL && ss.conversation != NULL && ss.open_of != NULL);
    loop_stop(ss.env.loop); /* not started: this thread's from here on */
    channel_sink_init(&sink, never_woken);
    channel = channel_new(&req, &route, &sink, &sink, ss.env.loop, &session_channel_handler, 1u << 20, 1u << 20);
    FUZZ_CHECK(channel != NULL);
}

static void check(struct conversation *c)
{
    const struct segment_list *held = &c->segments;
    struct buf out = BUF_INIT(0);
    struct json_w w;
    char err[96];
    conversation_flush_client(c);
    FUZZ_CHECK(c->fresh.n == 0);
    json_w_start(&w, &out);
    json_w_open(&w, '[');
    for (size_t i = 0; i < held->n; i++) {
        const struct segment *g = held->item[i];
        FUZZ_CHECK(g->text[0] != '\0' && isfinite(g->start) && isfinite(g->end) && g->start >= 0 && g->start <= g->end);
        FUZZ_CHECK(i == 0 || held->item[i - 1]->start <= g->start);
        FUZZ_CHECK(memchr(g->provider, '\0', sizeof(g->provider)) != NULL && g->speaker_id >= 0);
        segment_json(&w, g);
    }
    json_w_close(&w, ']');
    FUZZ_CHECK(json_w_end(&w));
    yajl_val v = json_parse(out.data, out.len, 0, err, sizeof(err));
    FUZZ_CHECK(v != NULL && json_len(v) == held->n);
    json_free(&v);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (channel == NULL)
        set_up();
    /* Without a way down: what it would be told is not of interest here. */
    struct session s = {.magic = SESSION_MAGIC, .state = SESSION_LIVE, .ss = &ss, .uid = "u"};
    s.params.custom_stt = true;
    s.params.sample_rate = 16000;
    list_init(&s.conversation_link);
    list_init(&s.queued);
    struct conversation *c = conversation_new(&ss, NULL, &s);
    FUZZ_CHECK(c != NULL);
    list_append(&c->session, &s.conversation_link);
    s.conversation = c;
    channel_set_user(channel, &s);
    for (size_t at = 0; at < size;) {
        const uint8_t *end = memchr(data + at, '\n', size - at);
        size_t n = end != NULL ? (size_t)(end - data) - at : size - at;
        unsigned char *line = malloc(n > 0 ? n : 1); /* of just this size, for the sanitizers */
        FUZZ_CHECK(line != NULL);
        memcpy(line, data + at, n);
        FUZZ_CHECK(session_message(channel, WS_TEXT, line, n));
        free(line);
        at += n + 1;
    }
    check(c);
    channel_set_user(channel, NULL);
    list_remove(&s.conversation_link);
    session_photos_free(&s);
    session_outbound_free(&s);
    conversation_free(c);
    return 0;
}
