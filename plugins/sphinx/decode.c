/* Decoding: models, slices, utterances. Executor threads. */
#include <pocketsphinx.h>
#include <setjmp.h>
#include <speex/speex_resampler.h>
#include <sphinxbase/cmn.h>
#include <sphinxbase/err.h>
#include <sphinxbase/feat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sphinx.h"

/* Samples between two looks at the voice activity: shorter than the 100 ms of speech that it wants for a begin, so
 * that no pause between two utterances is missed. */
#define CHUNK (5 * SPHINX_FRAME)
/* Speech is noticed after 100 ms, and the 200 ms before it belong to the utterance; the rest is for the frames. */
#define LOOK_BACK (50 * SPHINX_FRAME)
/* The decoder counts samples in 32 bits: its clock is set to 0 again between two utterances. */
#define CLOCK_MAX ((uint64_t)SPHINX_RATE * 3600)
/* speexdsp: 0..10. 3 costs 1/30 of the decoding and keeps what a 16 kHz model can use. */
#define RESAMPLER_QUALITY 3

struct decoder {
    ps_decoder_t *ps;
    cmd_ln_t *config;
    bool in_utterance;
    unsigned cepsize;
    mfcc_t *cmn_fresh; /* the model's own cepstral means: where each stream begins */
    mfcc_t *cmn_kept;  /* as they were before this utterance */
};

/*
 * The library reports faults by a callback and then, for some of them (a damaged model), calls exit(): the callback
 * is the only place to leave it before that. What it had allocated by then is lost.
 */
static _Thread_local struct {
    jmp_buf leave;
    bool armed;
    char last[160];
} guard;

__attribute__((format(printf, 3, 4))) static void on_message(void *arg, err_lvl_t level, const char *fmt, ...)
{
    (void)arg;
    if (level < ERR_ERROR)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(guard.last, sizeof(guard.last), fmt, ap);
    va_end(ap);
    guard.last[strcspn(guard.last, "\r\n")] = '\0';
    if (level == ERR_FATAL && guard.armed)
        longjmp(guard.leave, 1);
}

void decoder_quiet(void)
{
    err_set_logfp(NULL);
    err_set_callback(NULL, NULL);
}

static cmd_ln_t *config_new(const struct sphinx_conf *c)
{
    char ds[16], topn[16], hmms[16], post[16];
    snprintf(ds, sizeof(ds), "%d", c->ds);
    snprintf(topn, sizeof(topn), "%d", c->topn);
    snprintf(hmms, sizeof(hmms), "%d", c->maxhmmpf);
    snprintf(post, sizeof(post), "%u", c->silence_ms / 10);
    return cmd_ln_init(NULL, ps_args(), TRUE, "-hmm", c->acoustic, "-lm", c->lm, "-dict", c->dictionary, "-ds", ds,
                       "-topn", topn, "-maxhmmpf", hmms, "-fwdflat", c->fwdflat ? "yes" : "no", "-bestpath",
                       c->bestpath ? "yes" : "no", "-vad_postspeech", post, NULL);
}

/* Everything that may end in the callback above. The model stays in d for the caller to free. */
static bool load_model(struct decoder *d, const struct sphinx_conf *conf)
{
    d->config = config_new(conf);
    if (d->config == NULL)
        return false;
    d->ps = ps_init(d->config);
    if (d->ps == NULL)
        return false;
    feat_t *feat = ps_get_feat(d->ps);
    d->cepsize = (unsigned)feat_cepsize(feat);
    d->cmn_fresh = calloc(d->cepsize, sizeof(mfcc_t));
    d->cmn_kept = calloc(d->cepsize, sizeof(mfcc_t));
    if (d->cmn_fresh == NULL || d->cmn_kept == NULL)
        return false;
    cmn_live_get(feat->cmn_struct, d->cmn_fresh);
    return true;
}

/* A frame of its own, so that nothing of the caller's can be lost by the jump. */
__attribute__((noinline)) static bool load_guarded(struct decoder *d, const struct sphinx_conf *conf)
{
    volatile bool ok = false;
    if (setjmp(guard.leave) == 0) {
        guard.armed = true;
        ok = load_model(d, conf);
    } else {
        /* Left in the middle of ps_init(): its parts are not known here. */
        d->ps = NULL;
        d->config = NULL;
    }
    guard.armed = false;
    return ok;
}

struct decoder *decoder_load(struct sphinx_shared *sh, char *err, size_t errlen)
{
    struct decoder *d = calloc(1, sizeof(*d));
    if (d == NULL) {
        snprintf(err, errlen, "out of memory");
        return NULL;
    }
    err_set_logfp(NULL);
    err_set_callback(on_message, NULL);
    guard.last[0] = '\0';
    if (!load_guarded(d, &sh->conf)) {
        snprintf(err, errlen, "can't load the model %s: %s", sh->conf.acoustic,
                 guard.last[0] != '\0' ? guard.last : "pocketsphinx refuses it");
        decoder_free(&d);
        return NULL;
    }
    return d;
}

void decoder_free(struct decoder **dp)
{
    struct decoder *d = *dp;
    *dp = NULL;
    if (d == NULL)
        return;
    if (d->ps != NULL)
        ps_free(d->ps);
    if (d->config != NULL)
        cmd_ln_free_r(d->config);
    free(d->cmn_fresh);
    free(d->cmn_kept);
    free(d);
}

static bool utterance_start(struct decoding *dec)
{
    struct decoder *d = dec->decoder;
    if (dec->fed == dec->base || dec->fed - dec->base > CLOCK_MAX) {
        ps_start_stream(d->ps);
        dec->base = dec->fed;
    }
    cmn_live_get(ps_get_feat(d->ps)->cmn_struct, d->cmn_kept);
    dec->in_speech = false;
    if (ps_start_utt(d->ps) < 0) {
        snprintf(dec->error, sizeof(dec->error), "pocketsphinx can't start an utterance");
        return false;
    }
    d->in_utterance = true;
    return true;
}

static bool is_filler(const char *word)
{
    return word[0] == '<' || word[0] == '[' || strncmp(word, "++", 2) == 0;
}

/* The length of a word without the number of its pronunciation: "the(2)" is "the". */
static size_t word_length(const char *word)
{
    size_t len = strlen(word);
    if (len < 4 || word[len - 1] != ')')
        return len;
    size_t at = len - 2;
    while (at > 0 && word[at] >= '0' && word[at] <= '9')
        at--;
    return at > 0 && at < len - 2 && word[at] == '(' ? at : len;
}

struct words {
    char *text;
    size_t len, cap;
    int first_frame, last_frame; /* first_frame < 0: no word yet */
};

static bool words_add(struct words *w, const char *word, size_t n)
{
    if (w->text == NULL || w->len + n + 2 > w->cap) {
        size_t cap = (w->cap + n + 2) * 2;
        char *text = realloc(w->text, cap);
        if (text == NULL)
            return false;
        w->text = text;
        w->cap = cap;
    }
    if (w->len > 0)
        w->text[w->len++] = ' ';
    memcpy(w->text + w->len, word, n);
    w->len += n;
    w->text[w->len] = '\0';
    return true;
}

static bool words_collect(ps_decoder_t *ps, struct words *w)
{
    ps_seg_t *seg = ps_seg_iter(ps);
    for (; seg != NULL; seg = ps_seg_next(seg)) {
        const char *word = ps_seg_word(seg);
        int from = 0;
        int to = 0;
        if (word == NULL || is_filler(word))
            continue;
        ps_seg_frames(seg, &from, &to);
        if (!words_add(w, word, word_length(word))) {
            ps_seg_free(seg);
            return false;
        }
        if (w->first_frame < 0)
            w->first_frame = from;
        w->last_frame = to;
    }
    return true;
}

static double stream_seconds(const struct decoding *dec, int frame)
{
    return (double)dec->base / SPHINX_RATE + (double)frame / 100.0;
}

static bool found_add(struct decoding *dec, const struct words *w)
{
    struct found *f = malloc(sizeof(*f) + w->len + 1);
    if (f == NULL)
        return false;
    double now = (double)dec->fed / SPHINX_RATE;
    f->next = NULL;
    f->start = stream_seconds(dec, w->first_frame);
    f->end = stream_seconds(dec, w->last_frame + 1);
    /* The decoder's frames and the stream's clock may differ by a frame: order is what others rely on. */
    if (f->start < dec->last_end)
        f->start = dec->last_end;
    if (f->end > now)
        f->end = now;
    if (f->end < f->start)
        f->end = f->start;
    dec->last_end = f->end;
    memcpy(f->text, w->text, w->len + 1);
    *dec->found_tail = f;
    dec->found_tail = &f->next;
    return true;
}

static bool utterance_end(struct decoding *dec)
{
    struct decoder *d = dec->decoder;
    bool spoken = dec->in_speech;
    d->in_utterance = false;
    if (ps_end_utt(d->ps) < 0 && spoken) {
        snprintf(dec->error, sizeof(dec->error), "pocketsphinx can't end an utterance");
        return false;
    }
    struct words w = {.first_frame = -1};
    bool ok = words_collect(d->ps, &w) && (w.len == 0 || found_add(dec, &w));
    free(w.text);
    if (!ok) {
        snprintf(dec->error, sizeof(dec->error), "out of memory");
        return false;
    }
    if (w.len > 0) {
        dec->utterances++;
    } else {
        /* A noise taken for speech: what it taught the decoder about the voice is wrong, and would spoil the next
         * utterances. */
        cmn_live_set(ps_get_feat(d->ps)->cmn_struct, d->cmn_kept);
        if (spoken)
            dec->no_words++;
    }
    dec->transcribed = (double)dec->fed / SPHINX_RATE;
    return utterance_start(dec);
}

void decoding_forget(struct decoding *dec)
{
    while (dec->found != NULL) {
        struct found *f = dec->found;
        dec->found = f->next;
        free(f);
    }
    dec->found_tail = &dec->found;
}

bool decoding_begin(struct decoding *dec)
{
    struct sphinx_shared *sh = dec->sh;
    dec->found_tail = &dec->found;
    if (dec->rate != SPHINX_RATE) {
        int err = 0;
        SpeexResamplerState *rs = speex_resampler_init(1, dec->rate, SPHINX_RATE, RESAMPLER_QUALITY, &err);
        if (rs == NULL) {
            snprintf(dec->error, sizeof(dec->error), "resampler: %s", speex_resampler_strerror(err));
            return false;
        }
        speex_resampler_skip_zeros(rs);
        dec->resampler = rs;
    }
    dec->decoder = pool_take(sh);
    if (dec->decoder == NULL) {
        dec->decoder = decoder_load(sh, dec->error, sizeof(dec->error));
        dec->loaded = dec->decoder != NULL;
    }
    if (dec->decoder == NULL)
        return false;
    /* Its last stream may have left in the middle of an utterance. */
    if (dec->decoder->in_utterance)
        ps_end_utt(dec->decoder->ps);
    cmn_live_set(ps_get_feat(dec->decoder->ps)->cmn_struct, dec->decoder->cmn_fresh);
    return utterance_start(dec);
}

/* The slice at 16 kHz; the caller frees. NULL: no memory. */
static int16_t *resample(struct decoding *dec, size_t *n)
{
    size_t extra = dec->flush ? (size_t)speex_resampler_get_input_latency(dec->resampler) : 0;
    size_t cap = (dec->slice_len + extra + 1) * SPHINX_RATE / dec->rate + 64;
    int16_t *out = malloc(cap * sizeof(int16_t));
    int16_t *zeros = calloc(extra + 1, sizeof(int16_t));
    *n = 0;
    if (out != NULL && zeros != NULL) {
        const int16_t *part[2] = {dec->slice, zeros};
        size_t len[2] = {dec->slice_len, extra};
        for (int i = 0; i < 2; i++) {
            for (size_t at = 0; at < len[i] && *n < cap;) {
                spx_uint32_t in = (spx_uint32_t)(len[i] - at);
                spx_uint32_t got = (spx_uint32_t)(cap - *n);
                if (speex_resampler_process_int(dec->resampler, 0, part[i] + at, &in, out + *n, &got) != 0 ||
                    (in == 0 && got == 0))
                    break;
                at += in;
                *n += got;
            }
        }
    } else {
        free(out);
        out = NULL;
    }
    free(zeros);
    return out;
}

static bool feed(struct decoding *dec, const int16_t *pcm, size_t n)
{
    const uint64_t longest = (uint64_t)dec->sh->conf.max_utterance_ms * SPHINX_RATE / 1000;
    for (size_t at = 0; at < n;) {
        size_t len = n - at < CHUNK ? n - at : CHUNK;
        if (ps_process_raw(dec->decoder->ps, pcm + at, len, FALSE, FALSE) < 0) {
            snprintf(dec->error, sizeof(dec->error), "pocketsphinx can't decode");
            return false;
        }
        at += len;
        dec->fed += len;
        bool now = ps_get_in_speech(dec->decoder->ps) != 0;
        bool fell = dec->in_speech && !now;
        if (now && !dec->in_speech)
            dec->utt_began = dec->fed;
        dec->in_speech = now || fell;
        if ((fell || (now && dec->fed - dec->utt_began >= longest)) && !utterance_end(dec))
            return false;
    }
    double silent = (double)dec->fed / SPHINX_RATE - (double)LOOK_BACK / SPHINX_RATE;
    if (!dec->in_speech && silent > dec->transcribed)
        dec->transcribed = silent;
    return true;
}

static bool slice_decode(struct decoding *dec)
{
    bool ok;
    if (dec->resampler != NULL) {
        size_t n = 0;
        int16_t *pcm = resample(dec, &n);
        if (pcm == NULL) {
            snprintf(dec->error, sizeof(dec->error), "out of memory");
            return false;
        }
        ok = feed(dec, pcm, n);
        free(pcm);
    } else {
        ok = feed(dec, dec->slice, dec->slice_len);
    }
    return ok && (!dec->end_utterance || utterance_end(dec));
}

bool decoding_slice(struct decoding *dec)
{
    volatile bool ok = false;
    guard.last[0] = '\0';
    if (setjmp(guard.leave) == 0) {
        guard.armed = true;
        ok = slice_decode(dec);
        guard.armed = false;
        if (!ok)
            decoder_free(&dec->decoder);
    } else {
        guard.armed = false;
        snprintf(dec->error, sizeof(dec->error), "%s", guard.last);
        dec->decoder = NULL; /* in an unknown state: not even its parts can be freed */
    }
    return ok;
}
