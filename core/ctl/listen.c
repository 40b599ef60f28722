/* omictl listen: streams a recording as a phone would, by one client or many, and shows what comes back. */
#include <ev.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/map.h"
#include "base/query.h"
#include "ctl/audio.h"
#include "ctl/ctl.h"
#include "ctl/opus.h"
#include "ctl/wsclient.h"

#define MAX_SESSIONS 10000
#define PATH "/v4/listen" /* of a --url that has none */
/* With --speed 0: how much may wait for the socket before the next frame. */
#define MAX_QUEUED (256u * 1024)
#define MEMORY_WAIT_S 60.

struct options {
    const char *url, *token, *codec, *language, *query, *cacert, *file;
    bool raw, insecure, wait_memory, quiet, json;
    double rate, speed, frame_ms, sessions, hangup_after, wait;
};

struct run;
struct client {
    struct run *run;
    unsigned number;
    struct wsclient *ws;
    ev_io io;
    ev_timer frame, end;
    struct map *seen; /* segment ids already printed */
    size_t sent;      /* samples */
    double began;
    bool finished, failed, memory, timed_out;
};
struct run {
    struct ev_loop *ev;
    struct options o;
    struct audio audio;
    struct opus_packets opus; /* of the audio, with such a codec */
    struct client *client;
    unsigned live;
    unsigned long segments, messages, frames;
    unsigned long long bytes;
    bool bar;
};

/* ------------------------------------------------------------------------ output */

static void bar_clear(const struct run *r)
{
    if (r->bar)
        fputs("\r\033[K", stderr);
}

static void bar_draw(const struct run *r)
{
    enum { WIDTH = 40 };
    size_t sent = 0, total = r->audio.samples * (size_t)r->o.sessions;
    if (!r->bar)
        return;
    for (unsigned i = 0; i < (unsigned)r->o.sessions; i++)
        sent += r->client[i].sent;
    int filled = (int)(sent * WIDTH / total);
    fprintf(stderr, "\r[%.*s%*s] %.1f/%.1f s  %lu segments ", filled, "########################################",
            WIDTH - filled, "", (double)sent / r->o.sessions / r->audio.sample_rate,
            (double)r->audio.samples / r->audio.sample_rate, r->segments);
    fflush(stderr);
}

static void who(const struct client *c)
{
    if (c->run->o.sessions > 1)
        printf("[%u] ", c->number);
}

static void segments_show(struct client *c, yajl_val v)
{
    for (size_t i = 0; i < json_len(v); i++) {
        yajl_val s = json_at(v, i);
        const char *id = json_str(s, "id"), *text = json_str(s, "text"), *speaker = json_str(s, "speaker");
        void *old = NULL;
        if (!id || !map_put(c->seen, id, c, &old))
            continue;
        if (!old)
            c->run->segments++;
        if (c->run->o.json)
            continue;
        who(c);
        printf("%s %s %.2f-%.2f %s\n", old ? "update " : "segment", speaker ? speaker : "?", json_num(s, "start", 0),
               json_num(s, "end", 0), text ? text : "");
    }
}

static void object_show(struct client *c, yajl_val v)
{
    const char *type = json_str(v, "type"), *status = json_str(v, "status");
    if (type && strcmp(type, "memory_created") == 0)
        c->memory = true;
    if (c->run->o.json || !type)
        return;
    who(c);
    if (strcmp(type, "service_status") == 0) {
        const char *reason = json_str(v, "reason");
        printf("status  %s%s%s\n", status ? status : "?", reason ? ": " : "", reason ? reason : "");
    } else if (strcmp(type, "memory_created") == 0) {
        yajl_val structured = json_object(json_object(v, "memory"), "structured");
        const char *title = json_str(structured, "title");
        printf("memory  %s\n", title ? title : "");
    } else if (strcmp(type, "app_message") == 0) {
        const char *message = json_str(v, "message");
        printf("message %s\n", message ? message : "");
    } else {
        const char *id = json_str(v, "conversation_id");
        printf("event   %s%s%s\n", type, id ? " " : "", id ? id : "");
    }
}

static void raw_show(struct client *c, enum ws_opcode op, const char *data, size_t len)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kint(&w, "session", c->number);
    json_w_knum(&w, "at", ev_now(c->run->ev) - c->began);
    json_w_key(&w, "message");
    if (op == WS_TEXT && len > 0 && (data[0] == '{' || data[0] == '['))
        json_w_raw(&w, data, len);
    else
        json_w_strn(&w, data, len);
    json_w_close(&w, '}');
    if (json_w_end(&w))
        puts(b.data);
    buf_free(&b);
}

static void on_message(void *arg, enum ws_opcode op, const char *data, size_t len)
{
    struct client *c = arg;
    char err[64];
    c->run->messages++;
    bar_clear(c->run);
    if (c->run->o.json)
        raw_show(c, op, data, len);
    if (op == WS_TEXT && !(len == 4 && memcmp(data, "ping", 4) == 0)) {
        yajl_val v = json_parse(data, len, 0, err, sizeof err);
        if (YAJL_IS_ARRAY(v))
            segments_show(c, v);
        else if (v)
            object_show(c, v);
        json_free(&v);
    }
    fflush(stdout);
    bar_draw(c->run);
}

/* -------------------------------------------------------------------------- life */

static void client_end(struct client *c)
{
    struct run *r = c->run;
    if (!c->ws)
        return;
    ev_io_stop(r->ev, &c->io);
    ev_timer_stop(r->ev, &c->frame);
    ev_timer_stop(r->ev, &c->end);
    wsclient_free(&c->ws);
    if (--r->live == 0)
        ev_break(r->ev, EVBREAK_ALL);
}

static void client_fail(struct client *c, const char *what, unsigned code, const char *reason)
{
    bar_clear(c->run);
    fprintf(stderr, "omictl listen: session %u: %s", c->number, what);
    if (code)
        fprintf(stderr, " %u %s", code, reason);
    fputc('\n', stderr);
    c->failed = true;
    client_end(c);
}

static void client_goodbye(struct client *c)
{
    unsigned char payload[WS_MAX_CONTROL];
    wsclient_send(c->ws, WS_CLOSE, payload, ws_close_payload(payload, WS_CODE_NORMAL, NULL));
    wsclient_flush(c->ws);
    client_end(c);
}

/* Takes what has come. false: the connection has ended, and so has the client. */
static bool client_read(struct client *c)
{
    int rc = wsclient_read(c->ws, on_message, c);
    if (rc > 0)
        return true;
    unsigned code = wsclient_code(c->ws);
    if (rc < 0)
        client_fail(c, "the connection was lost", 0, "");
    else if (c->finished && (code == WS_CODE_NORMAL || code == WS_CODE_GOING_AWAY))
        client_end(c);
    else
        client_fail(c, "closed by the daemon:", code, wsclient_reason(c->ws));
    return false;
}

static void client_write(struct client *c)
{
    int rc = wsclient_flush(c->ws);
    if (rc < 0) {
        /* Why is in what the daemon said before it closed. */
        if (client_read(c))
            client_fail(c, "the connection was lost", 0, "");
        return;
    }
    int events = EV_READ | (rc == 0 ? EV_WRITE : 0);
    if (c->io.events != events) {
        ev_io_stop(c->run->ev, &c->io);
        ev_io_set(&c->io, wsclient_fd(c->ws), events);
        ev_io_start(c->run->ev, &c->io);
    }
}

static void on_io(struct ev_loop *ev, ev_io *w, int revents)
{
    (void)ev;
    struct client *c = w->data;
    if (revents & EV_READ) {
        if (!client_read(c))
            return;
        if (c->finished && c->memory && c->run->o.wait_memory) {
            client_goodbye(c);
            return;
        }
    }
    client_write(c);
}

/* The audio is out, and the time for more has passed. */
static void on_end(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    struct client *c = w->data;
    if (c->run->o.hangup_after > 0) {
        client_end(c);
        return;
    }
    c->timed_out = c->run->o.wait_memory && !c->memory;
    client_goodbye(c);
}

static void audio_finished(struct client *c)
{
    struct options *o = &c->run->o;
    c->finished = true;
    ev_timer_stop(c->run->ev, &c->frame);
    if (o->wait_memory && c->memory) {
        client_goodbye(c);
        return;
    }
    if (o->hangup_after > 0)
        return; /* `end` runs already */
    ev_timer_set(&c->end, o->wait, 0.);
    ev_timer_start(c->run->ev, &c->end);
}

static bool packet_send(struct client *c)
{
    struct run *r = c->run;
    const struct opus_packet *p = &r->opus.packet[c->sent / r->opus.samples];
    size_t left = r->audio.samples - c->sent;
    c->sent += left < r->opus.samples ? left : r->opus.samples;
    r->frames++;
    r->bytes += p->len;
    return wsclient_send(c->ws, WS_BINARY, r->opus.data + p->at, p->len);
}

static bool frame_send(struct client *c)
{
    struct run *r = c->run;
    if (r->opus.n > 0)
        return packet_send(c);
    size_t want = (size_t)(r->o.frame_ms / 1000. * r->audio.sample_rate), left = r->audio.samples - c->sent;
    size_t n = want < left ? want : left;
    if (n == 0)
        n = left;
    unsigned char *bytes = malloc(n * 2);
    if (!bytes)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint16_t v = (uint16_t)r->audio.pcm[c->sent + i];
        bytes[2 * i] = (unsigned char)v;
        bytes[2 * i + 1] = (unsigned char)(v >> 8);
    }
    bool ok = wsclient_send(c->ws, WS_BINARY, bytes, n * 2);
    free(bytes);
    c->sent += n;
    r->frames++;
    r->bytes += n * 2;
    return ok;
}

static void on_frame(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)revents;
    struct client *c = w->data;
    struct run *r = c->run;
    bool ok = true;
    /* By the clock, not by counting ticks: what a late tick missed is sent with it. */
    double due = r->o.speed > 0 ? (ev_now(ev) - c->began) * r->o.speed * r->audio.sample_rate : INFINITY;
    while (ok && c->sent < r->audio.samples && (double)c->sent <= due && wsclient_queued(c->ws) < MAX_QUEUED)
        ok = frame_send(c);
    client_write(c);
    if (!c->ws)
        return;
    bar_draw(r);
    if (c->sent >= r->audio.samples)
        audio_finished(c);
}

/* ------------------------------------------------------------------------- start */

static bool client_begin(struct client *c, const char *url)
{
    struct options *o = &c->run->o;
    char err[512], token[512];
    int status;
    snprintf(token, sizeof token, c->number > 0 ? "%s-%u" : "%s", o->token ? o->token : "", c->number);
    struct wsclient_params p = {
        .url = url, .token = o->token ? token : NULL, .cacert = o->cacert, .insecure = o->insecure};
    c->seen = map_new();
    c->ws = wsclient_connect(&p, &status, err, sizeof err);
    if (!c->ws) {
        fprintf(stderr, "omictl listen: %s: %s\n", url, err);
        c->failed = true;
        return false;
    }
    ev_now_update(c->run->ev);
    c->began = ev_now(c->run->ev);
    c->run->live++;
    ev_io_init(&c->io, on_io, wsclient_fd(c->ws), EV_READ);
    double tick = o->speed > 0 ? o->frame_ms / 1000. / o->speed : 0.001;
    ev_timer_init(&c->frame, on_frame, 0., tick < 0.001 ? 0.001 : tick);
    ev_timer_init(&c->end, on_end, o->hangup_after, 0.);
    c->io.data = c->frame.data = c->end.data = c;
    ev_io_start(c->run->ev, &c->io);
    ev_timer_start(c->run->ev, &c->frame);
    if (o->hangup_after > 0)
        ev_timer_start(c->run->ev, &c->end);
    client_read(c); /* what came with the handshake */
    return true;
}

static void on_interrupt(struct ev_loop *ev, ev_signal *w, int revents)
{
    (void)ev;
    (void)revents;
    struct run *r = w->data;
    for (unsigned i = 0; i < (unsigned)r->o.sessions; i++) {
        if (r->client[i].ws)
            client_goodbye(&r->client[i]);
    }
}

static bool url_make(const struct run *r, struct buf *url)
{
    char rate[16];
    snprintf(rate, sizeof rate, "%u", r->audio.sample_rate);
    const char *host = strstr(r->o.url, "://") + 3; /* seen to when it was parsed */
    bool ok = buf_puts(url, r->o.url) && (strchr(host, '/') || buf_puts(url, PATH)) &&
              query_append(url, "codec", r->o.codec) && query_append(url, "sample_rate", rate) &&
              query_append(url, "language", r->o.language);
    if (ok && r->o.query)
        ok = buf_printf(url, "&%s", r->o.query);
    return ok;
}

static int summary(const struct run *r)
{
    unsigned failed = 0, waiting = 0;
    for (unsigned i = 0; i < (unsigned)r->o.sessions; i++) {
        failed += r->client[i].failed;
        waiting += r->client[i].timed_out;
    }
    bar_clear(r);
    if (waiting)
        fprintf(stderr, "omictl listen: the conversation was not completed within %g s\n", r->o.wait);
    if (r->o.json)
        printf("{\"summary\":{\"sessions\":%u,\"failed\":%u,\"segments\":%lu,\"messages\":%lu,\"frames\":%lu,"
               "\"bytes\":%llu}}\n",
               (unsigned)r->o.sessions, failed, r->segments, r->messages, r->frames, r->bytes);
    else
        fprintf(stderr, "sessions=%u failed=%u segments=%lu messages=%lu frames=%lu bytes=%llu\n",
                (unsigned)r->o.sessions, failed, r->segments, r->messages, r->frames, r->bytes);
    return failed ? CTL_FAULT : waiting ? CTL_TIMEOUT : CTL_OK;
}

static int run_clients(struct run *r)
{
    struct buf url = BUF_INIT(8192);
    ev_signal interrupt;
    r->ev = ev_default_loop(0);
    r->client = calloc((size_t)r->o.sessions, sizeof *r->client);
    if (!r->client || !url_make(r, &url)) {
        buf_free(&url);
        free(r->client);
        return ctl_usage("listen", "--url or --query is too long");
    }
    r->bar = !r->o.quiet && !r->o.json && isatty(STDERR_FILENO);
    ev_signal_init(&interrupt, on_interrupt, SIGINT);
    interrupt.data = r;
    ev_signal_start(r->ev, &interrupt);
    ev_unref(r->ev);
    for (unsigned i = 0; i < (unsigned)r->o.sessions; i++) {
        r->client[i].run = r;
        r->client[i].number = i;
        client_begin(&r->client[i], url.data);
    }
    if (r->live > 0)
        ev_run(r->ev, 0);
    int rc = summary(r);
    for (unsigned i = 0; i < (unsigned)r->o.sessions; i++)
        map_free(&r->client[i].seen);
    ev_ref(r->ev);
    ev_signal_stop(r->ev, &interrupt);
    free(r->client);
    buf_free(&url);
    return rc;
}

/* ----------------------------------------------------------------------- options */

enum {
    O_URL = 1,
    O_TOKEN,
    O_RAW,
    O_RATE,
    O_CODEC,
    O_LANGUAGE,
    O_SPEED,
    O_FRAME,
    O_SESSIONS,
    O_HANGUP,
    O_WAIT,
    O_MEMORY,
    O_QUERY,
    O_CACERT,
    O_INSECURE,
    O_QUIET
};

static const struct option long_options[] = {
    {"url", required_argument, NULL, O_URL},
    {"token", required_argument, NULL, O_TOKEN},
    {"raw", no_argument, NULL, O_RAW},
    {"rate", required_argument, NULL, O_RATE},
    {"codec", required_argument, NULL, O_CODEC},
    {"language", required_argument, NULL, O_LANGUAGE},
    {"speed", required_argument, NULL, O_SPEED},
    {"frame", required_argument, NULL, O_FRAME},
    {"sessions", required_argument, NULL, O_SESSIONS},
    {"hangup-after", required_argument, NULL, O_HANGUP},
    {"wait", required_argument, NULL, O_WAIT},
    {"wait-memory", no_argument, NULL, O_MEMORY},
    {"query", required_argument, NULL, O_QUERY},
    {"cacert", required_argument, NULL, O_CACERT},
    {"insecure", no_argument, NULL, O_INSECURE},
    {"quiet", no_argument, NULL, O_QUIET},
    {NULL, 0, NULL, 0},
};

static bool option_take(struct options *o, int c, const char *arg)
{
    switch (c) {
    case O_URL:
        o->url = arg;
        return true;
    case O_TOKEN:
        o->token = arg;
        return true;
    case O_RAW:
        return o->raw = true;
    case O_RATE:
        return ctl_whole("listen", "--rate", arg, 1000, 192000, &o->rate);
    case O_CODEC:
        o->codec = arg;
        return true;
    case O_LANGUAGE:
        o->language = arg;
        return true;
    case O_SPEED:
        return ctl_number("listen", "--speed", arg, 0, 1000, &o->speed);
    case O_FRAME:
        return ctl_whole("listen", "--frame", arg, 5, 5000, &o->frame_ms);
    case O_SESSIONS:
        return ctl_whole("listen", "--sessions", arg, 1, MAX_SESSIONS, &o->sessions);
    case O_HANGUP:
        return ctl_number("listen", "--hangup-after", arg, 0.001, 86400, &o->hangup_after);
    case O_WAIT:
        return ctl_number("listen", "--wait", arg, 0, 86400, &o->wait);
    case O_MEMORY:
        return o->wait_memory = true;
    case O_QUERY:
        o->query = arg;
        return true;
    case O_CACERT:
        o->cacert = arg;
        return true;
    case O_INSECURE:
        return o->insecure = true;
    case O_QUIET:
        return o->quiet = true;
    default: /* getopt has told why */
        return false;
    }
}

/* The milliseconds of a packet; 0: the codec is not Opus. */
static unsigned opus_ms(const struct options *o)
{
    return strcmp(o->codec, "opus") == 0 ? 10 : strcmp(o->codec, "opus_fs320") == 0 ? 20 : 0;
}

/* CTL_OK, or what to exit with. */
static int options_parse(struct options *o, int argc, char **argv)
{
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (!option_take(o, c, optarg))
            return CTL_USAGE;
    }
    if (optind != argc - 1)
        return ctl_usage("listen", "expected one file, found %d", argc - optind);
    o->file = argv[optind];
    unsigned ms = opus_ms(o);
    if (ms == 0 && strcmp(o->codec, "pcm8") != 0 && strcmp(o->codec, "pcm16") != 0)
        return ctl_usage("listen", "--codec: expected pcm16, pcm8, opus or opus_fs320, found \"%s\"", o->codec);
    if (ms > 0 && o->frame_ms > 0)
        return ctl_usage("listen", "--frame is for pcm16 and pcm8: a packet of %s has %u ms", o->codec, ms);
    if (o->frame_ms == 0)
        o->frame_ms = ms > 0 ? ms : 100;
    if (o->raw != (o->rate > 0))
        return ctl_usage("listen", "--raw and --rate go together");
    size_t scheme = strncmp(o->url, "ws://", 5) == 0 ? 5 : strncmp(o->url, "wss://", 6) == 0 ? 6 : 0;
    if (scheme == 0 || o->url[scheme] == '\0')
        return ctl_usage("listen", "--url: expected a ws:// or wss:// URL, found \"%s\"", o->url);
    if (o->wait < 0)
        o->wait = o->wait_memory ? MEMORY_WAIT_S : 5.;
    return CTL_OK;
}

int ctl_listen(const struct ctl *ctl, int argc, char **argv)
{
    struct run r = {.o = {.url = "ws://127.0.0.1:8700",
                          .token = getenv("OMID_TOKEN"),
                          .codec = "pcm16",
                          .language = "en",
                          .speed = 1,
                          .sessions = 1,
                          .wait = -1,
                          .json = ctl->json}};
    char err[512];
    int rc = options_parse(&r.o, argc, argv);
    if (rc != CTL_OK)
        return rc;
    if (!audio_load(&r.audio, r.o.file, (unsigned)r.o.rate, err, sizeof err)) {
        fprintf(stderr, "omictl listen: %s\n", err);
        return CTL_FAULT;
    }
    if (opus_ms(&r.o) > 0 && !opus_make(&r.opus, &r.audio, opus_ms(&r.o), err, sizeof err)) {
        fprintf(stderr, "omictl listen: %s: %s\n", r.o.file, err);
        audio_free(&r.audio);
        return CTL_FAULT;
    }
    rc = run_clients(&r);
    opus_free(&r.opus);
    audio_free(&r.audio);
    return rc;
}
