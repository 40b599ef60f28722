#include "session/stt_gate.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/magic.h"
#include "base/metrics.h"

#define MODULE "vad_gate"

enum { SENT, WITHHELD, FATES };

/* ------------------------------------------------------------------------- metrics */

/* By mode; nothing is counted when off. */
static struct metric *chunks[GATE_ACTIVE + 1][2], *bytes[GATE_ACTIVE + 1][FATES];

static struct metric *fallback(enum gate_mode from, enum vad_error why)
{
    const struct metric_label labels[] = {{"component", "vad_gate"},
                                          {"from_mode", gate_mode_name(from)},
                                          {"to_mode", "off"},
                                          {"reason", vad_error_name(why)},
                                          {"outcome", "degraded"}};
    return metric_get(METRIC_COUNTER, "omi_fallback_total", "Moves to a fallback, by component and outcome.", labels,
                      ARRAY_LEN(labels), NULL, 0);
}

static void metrics_make(void)
{
    static const char *const verdicts[] = {"silence", "speech"}, *const fates[] = {"sent", "withheld"};
    for (enum gate_mode mode = GATE_SHADOW; mode <= GATE_ACTIVE; mode++) {
        for (int i = 0; i < 2; i++) {
            const struct metric_label verdict[] = {{"mode", gate_mode_name(mode)}, {"verdict", verdicts[i]}};
            const struct metric_label fate[] = {{"mode", gate_mode_name(mode)}, {"fate", fates[i]}};
            chunks[mode][i] =
                metric_get(METRIC_COUNTER, "omid_gate_chunks_total",
                           "Chunks of audio that the gate judged, by mode and verdict.", verdict, 2, NULL, 0);
            bytes[mode][i] = metric_get(
                METRIC_COUNTER, "omid_gate_audio_bytes_total",
                "Audio at the gate, by mode and by what was, or in shadow would have been, done.", fate, 2, NULL, 0);
        }
        for (enum vad_error why = VAD_NO_PLUGIN; why < VAD_ERRORS; why++)
            fallback(mode, why);
    }
}

void stt_gate_metrics(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, metrics_make);
}

/* ---------------------------------------------------------------------------- life */

void stt_gate_init(struct stt_gate *g, struct host *host, unsigned reactor, uint32_t rate, enum listen_choice asked,
                   const char *session_id)
{
    stt_gate_metrics();
    *g = (struct stt_gate){
        .host = host, .reactor = reactor, .asked = asked, .began_ms = clock_mono_ms(), .session_id = session_id};
    gate_init(&g->gate, rate);
}

static enum gate_mode mode_wanted(const struct stt_gate *g, const struct conf *conf)
{
    if (g->asked != CHOICE_NONE)
        return g->asked == CHOICE_ENABLED ? GATE_ACTIVE : GATE_OFF;
    const char *mode = conf->stt.gate ? conf->stt.gate : "off";
    return strcmp(mode, "active") == 0 ? GATE_ACTIVE : strcmp(mode, "shadow") == 0 ? GATE_SHADOW : GATE_OFF;
}

/* Sends everything from now on. */
static void fail_open(struct stt_gate *g, enum vad_error why)
{
    struct gate_settings set = g->gate.set;
    set.mode = GATE_OFF;
    (void)gate_configure(&g->gate, &set);
    vad_engine_close(&g->vad);
    if (g->failed == why) /* a reload did not help, and is nothing new */
        return;
    g->failed = why;
    metric_add(fallback(g->wanted, why), 1);
    log_warning(MODULE, "the gate fails: everything is sent", LS("session", g->session_id),
                LS("mode", gate_mode_name(g->wanted)), LS("reason", vad_error_name(why)));
}

void stt_gate_configure(struct stt_gate *g, const struct conf *conf)
{
    struct gate_settings set = {
        .mode = mode_wanted(g, conf),
        .threshold = (float)conf->stt.gate_threshold,
        .preroll_ms = conf->stt.gate_preroll_ms,
        .hangover_ms = conf->stt.gate_hangover_ms,
        .finalize_ms = conf->stt.gate_finalize_ms,
    };
    if (set.mode == GATE_OFF) {
        (void)gate_configure(&g->gate, &set);
        vad_engine_close(&g->vad);
        g->failed = VAD_OK;
        return;
    }
    g->wanted = set.mode;
    enum vad_error why = g->vad.inst ? VAD_OK : vad_engine_open(&g->vad, g->host, g->reactor, g->gate.rate);
    if (why == VAD_OK && !gate_configure(&g->gate, &set))
        why = VAD_MEMORY;
    if (why == VAD_OK)
        g->failed = VAD_OK;
    else
        fail_open(g, why);
}

/* --------------------------------------------------------------------------- audio */

size_t stt_gate_piece(const struct stt_gate *g, size_t n)
{
    size_t most = (size_t)g->gate.rate * VAD_CHUNK_MS / 1000;
    return g->gate.set.mode == GATE_OFF || n < most ? n : most;
}

float stt_gate_listen(struct stt_gate *g, const int16_t *pcm, size_t n)
{
    float probability = 0;
    if (g->gate.set.mode == GATE_OFF)
        return 0;
    enum vad_error why = vad_engine_window(&g->vad, pcm, n, &probability);
    if (why == VAD_OK)
        return probability;
    fail_open(g, why);
    return 0;
}

static void count(struct metric *m, uint64_t now, uint64_t before, unsigned each)
{
    if (now > before)
        metric_add(m, (int64_t)((now - before) * each));
}

static void count_all(enum gate_mode mode, const struct gate_counts *now, const struct gate_counts *before)
{
    bool active = mode == GATE_ACTIVE;
    uint64_t speech = now->chunks_speech - before->chunks_speech;
    count(chunks[mode][1], speech, 0, 1);
    count(chunks[mode][0], now->chunks - before->chunks, speech, 1);
    count(bytes[mode][SENT], active ? now->sent : now->would_send, active ? before->sent : before->would_send, 2);
    count(bytes[mode][WITHHELD], active ? now->withheld : now->would_withhold,
          active ? before->withheld : before->would_withhold, 2);
}

void stt_gate_chunk(struct stt_gate *g, const int16_t *pcm, size_t n, float probability, uint64_t settled,
                    struct gate_step *step)
{
    struct gate_counts before = g->gate.counts;
    gate_chunk(&g->gate, pcm, n, probability, settled, step);
    if (g->gate.set.mode != GATE_OFF)
        count_all(g->gate.set.mode, &g->gate.counts, &before);
}

/* ------------------------------------------------------------------------- account */

void stt_gate_stream_ends(struct stt_gate *g, const struct omid_stt_role *role, void *stream)
{
    struct omid_stt_stats stats = {.size = sizeof stats};
    if (role->size < sizeof *role || !role->stats)
        return;
    role->stats(stream, &stats);
    g->keepalives += stats.keepalives;
    g->finalize_errors += stats.finalize_errors;
}

static void account(const struct stt_gate *g)
{
    const struct gate_counts *c = &g->gate.counts;
    struct buf b = BUF_INIT(1024);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_knum(&w, "session_duration_sec", (double)(clock_mono_ms() - g->began_ms) / 1000);
    json_w_knum(&w, "speech_ratio", c->chunks ? round(1e4 * (double)c->chunks_speech / (double)c->chunks) / 1e4 : 0);
    json_w_kint(&w, "chunks_total", (int64_t)c->chunks);
    json_w_kint(&w, "chunks_speech", (int64_t)c->chunks_speech);
    json_w_kint(&w, "chunks_silence", (int64_t)(c->chunks - c->chunks_speech));
    json_w_kint(&w, "bytes_received", (int64_t)(c->received * sizeof(int16_t)));
    json_w_kint(&w, "bytes_sent", (int64_t)(c->sent * sizeof(int16_t)));
    json_w_kint(&w, "finalize_count", g->finalizes);
    json_w_kint(&w, "finalize_errors", g->finalize_errors);
    json_w_kint(&w, "keepalive_count", g->keepalives);
    json_w_kstr(&w, "mode", gate_mode_name(g->wanted));
    json_w_close(&w, '}');
    if (json_w_end(&w))
        log_info(MODULE, b.data, LS("session", g->session_id));
    buf_free(&b);
}

void stt_gate_free(struct stt_gate *g)
{
    if (g->wanted != GATE_OFF)
        account(g);
    if (g->gate.set.mode == GATE_ACTIVE)
        metric_add(bytes[GATE_ACTIVE][WITHHELD], (int64_t)(g->gate.counts.held * sizeof(int16_t)));
    vad_engine_close(&g->vad);
    gate_free(&g->gate);
}
