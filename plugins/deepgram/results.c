/*
 * What Deepgram sends, read with distrust: a value of a wrong type or beyond reason is left out and counted; the
 * rest of its message is used.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepgram.h"
#include "plugins/kit/json.h"

/* ---- members ---- */

static const char *member_str(yajl_val v, const char *key)
{
    return YAJL_GET_STRING(kit_json_get(v, key));
}

/* A second of the stream. false: absent, no number, or beyond reason (1e999 reads as infinity). */
static bool member_second(yajl_val v, const char *key, double *out)
{
    yajl_val n = kit_json_get(v, key);
    if (!YAJL_IS_DOUBLE(n) || YAJL_GET_DOUBLE(n) < 0.0 || YAJL_GET_DOUBLE(n) > DG_MAX_SECOND)
        return false;
    *out = YAJL_GET_DOUBLE(n);
    return true;
}

/* ---- words ---- */

struct word {
    const char *text; /* in the tree */
    double start, end;
    int speaker; /* -1: not said */
    size_t at;   /* place in the message */
};

static int word_order(const void *pa, const void *pb)
{
    const struct word *a = pa, *b = pb;
    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return a->at < b->at ? -1 : 1;
}

static bool word_read(struct word *w, yajl_val v, unsigned *bad)
{
    const char *text = member_str(v, "punctuated_word");
    if (!text || !*text)
        text = member_str(v, "word");
    if (!text || !*text || !member_second(v, "start", &w->start) || !member_second(v, "end", &w->end) ||
        w->end < w->start)
        return false;
    w->text = text;
    w->speaker = -1;
    yajl_val speaker = kit_json_get(v, "speaker");
    if (speaker && !YAJL_IS_NULL(speaker)) {
        if (YAJL_IS_INTEGER(speaker) && YAJL_GET_INTEGER(speaker) >= 0 && YAJL_GET_INTEGER(speaker) <= DG_MAX_SPEAKER)
            w->speaker = (int)YAJL_GET_INTEGER(speaker);
        else
            (*bad)++;
    }
    return true;
}

/* The usable words in the order of their start. NULL: none, or no memory. */
static struct word *words_read(yajl_val array, size_t *n, unsigned *bad)
{
    *n = 0;
    size_t len = YAJL_IS_ARRAY(array) ? YAJL_GET_ARRAY(array)->len : 0;
    if (len > DG_MAX_WORDS) {
        *bad += (unsigned)(len - DG_MAX_WORDS < 1000000 ? len - DG_MAX_WORDS : 1000000);
        len = DG_MAX_WORDS;
    }
    struct word *words = len ? calloc(len, sizeof(*words)) : NULL;
    if (!words)
        return NULL;
    bool ordered = true;
    for (size_t i = 0; i < len; i++) {
        struct word *w = &words[*n];
        if (!word_read(w, YAJL_GET_ARRAY(array)->values[i], bad)) {
            (*bad)++;
            continue;
        }
        w->at = i;
        ordered = ordered && (*n == 0 || words[*n - 1].start <= w->start);
        (*n)++;
    }
    if (!ordered) {
        (*bad)++;
        qsort(words, *n, sizeof(*words), word_order);
    }
    if (*n == 0) {
        free(words);
        return NULL;
    }
    return words;
}

/* Consecutive words of one speaker become one segment. A word without a speaker belongs to the one before it. */
static bool segments_make(struct dg_message *m, const struct word *words, size_t n)
{
    size_t bytes = 0, used = 0;
    for (size_t i = 0; i < n; i++)
        bytes += strlen(words[i].text) + 1; /* and a blank or the NUL */
    m->pool = malloc(bytes);
    m->segments = calloc(n, sizeof(*m->segments));
    if (!m->pool || !m->segments)
        return false;
    struct omid_stt_segment *seg = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct word *w = &words[i];
        if (!seg || (w->speaker >= 0 && w->speaker != seg->speaker)) {
            seg = &m->segments[m->n++];
            seg->text = m->pool + used;
            seg->start = w->start;
            seg->speaker = w->speaker;
        } else {
            m->pool[used - 1] = ' ';
        }
        size_t len = strlen(w->text) + 1;
        memcpy(m->pool + used, w->text, len);
        used += len;
        seg->end = w->end > seg->end ? w->end : seg->end;
    }
    return true;
}

/* ---- messages ---- */

static void results_read(struct dg_message *m, yajl_val root)
{
    yajl_val is_final = kit_json_get(root, "is_final");
    if (YAJL_IS_FALSE(is_final)) {
        m->kind = DG_INTERIM;
        return;
    }
    if (is_final && !YAJL_IS_TRUE(is_final))
        m->bad++;
    m->kind = DG_RESULTS;

    double start = 0.0, duration = 0.0;
    if (member_second(root, "start", &start) && member_second(root, "duration", &duration))
        m->until = start + duration;
    else
        m->bad++;

    yajl_val alternatives = kit_json_get(kit_json_get(root, "channel"), "alternatives");
    if (!YAJL_IS_ARRAY(alternatives) || YAJL_GET_ARRAY(alternatives)->len == 0) {
        m->kind = DG_MALFORMED;
        return;
    }
    yajl_val best = YAJL_GET_ARRAY(alternatives)->values[0];
    const char *transcript = member_str(best, "transcript");
    if (transcript && !*transcript)
        return;
    size_t n = 0;
    struct word *words = words_read(kit_json_get(best, "words"), &n, &m->bad);
    /* Text without usable words is still what was said. */
    struct word whole = {.text = transcript, .start = start, .end = m->until, .speaker = -1};
    bool made = true;
    if (words)
        made = segments_make(m, words, n);
    else if (transcript && m->until >= 0.0)
        made = segments_make(m, &whole, 1);
    else
        m->kind = DG_MALFORMED;
    free(words);
    if (!made) { /* no memory */
        dg_message_free(m);
        m->kind = DG_MALFORMED;
    }
}

/* Text of the provider for a log line: printable, bounded, whole characters not required. */
static void error_read(struct dg_message *m, yajl_val root)
{
    const char *variant = member_str(root, "variant");
    const char *description = member_str(root, "description");
    const char *message = member_str(root, "message");
    m->kind = DG_ERROR;
    snprintf(m->error, sizeof(m->error), "%.40s%s%.80s%s%.70s", variant ? variant : "", variant ? ": " : "",
             description ? description : "", description && message ? "; " : "", message ? message : "");
    for (char *p = m->error; *p; p++) {
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    }
}

/* {"err_code", "err_msg"}: how a request is refused. */
static void error_of_request(struct dg_message *m, yajl_val root)
{
    const char *code = member_str(root, "err_code"), *message = member_str(root, "err_msg");
    m->kind = DG_ERROR;
    snprintf(m->error, sizeof(m->error), "%.60s%s%.120s", code ? code : "", code && message ? ": " : "",
             message ? message : "");
    for (char *p = m->error; *p; p++) {
        if ((unsigned char)*p < ' ' || (unsigned char)*p >= 0x7f)
            *p = '?';
    }
}

/* NULL: no JSON, or deeper than it may be; *too_big: longer than max. */
static yajl_val tree_of(const char *text, size_t len, size_t max, bool *too_big)
{
    /* A NUL in one text is no reason to lose the others. */
    const struct kit_json_rules rules = {.max = max, .max_depth = DG_MAX_DEPTH, .nul_cuts = true};
    *too_big = len > max;
    return kit_json_read(text, len, &rules, NULL);
}

void dg_message_parse(struct dg_message *m, const char *text, size_t len, size_t max)
{
    static const struct {
        const char *type;
        enum dg_kind kind;
    } types[] = {
        {"Metadata", DG_METADATA},
        {"SpeechStarted", DG_SPEECH_STARTED},
        {"UtteranceEnd", DG_UTTERANCE_END},
    };

    memset(m, 0, sizeof(*m));
    m->until = -1.0;
    m->kind = DG_MALFORMED;
    bool too_big;
    yajl_val root = tree_of(text, len, max, &too_big);
    if (!root) {
        m->kind = too_big ? DG_TOO_BIG : DG_MALFORMED;
        return;
    }
    const char *type = member_str(root, "type");
    if (YAJL_IS_OBJECT(root))
        m->kind = DG_UNKNOWN;
    for (size_t i = 0; type && i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(type, types[i].type) == 0)
            m->kind = types[i].kind;
    }
    if (type && strcmp(type, "Results") == 0)
        results_read(m, root);
    else if (type && strcmp(type, "Error") == 0)
        error_read(m, root);
    kit_json_free(&root);
}

/* results.channels[0].alternatives[0].words; none is a recording in which nothing was said. */
static void recording_read(struct dg_message *m, yajl_val root)
{
    yajl_val channels = kit_json_get(kit_json_get(root, "results"), "channels");
    yajl_val first =
        YAJL_IS_ARRAY(channels) && YAJL_GET_ARRAY(channels)->len > 0 ? YAJL_GET_ARRAY(channels)->values[0] : NULL;
    yajl_val alternatives = kit_json_get(first, "alternatives");
    if (!YAJL_IS_ARRAY(alternatives) || YAJL_GET_ARRAY(alternatives)->len == 0)
        return; /* malformed */
    size_t n = 0;
    yajl_val list = kit_json_get(YAJL_GET_ARRAY(alternatives)->values[0], "words");
    if (list && !YAJL_IS_ARRAY(list))
        return;
    struct word *words = words_read(list, &n, &m->bad);
    m->kind = DG_RESULTS;
    if (words && !segments_make(m, words, n)) { /* no memory */
        dg_message_free(m);
        m->kind = DG_MALFORMED;
    }
    free(words);
}

void dg_recording_parse(struct dg_message *m, const char *text, size_t len, size_t max)
{
    bool too_big;
    memset(m, 0, sizeof(*m));
    m->until = -1.0;
    m->kind = DG_MALFORMED;
    yajl_val root = tree_of(text, len, max, &too_big);
    if (!root) {
        m->kind = too_big ? DG_TOO_BIG : DG_MALFORMED;
        return;
    }
    if (kit_json_get(root, "err_msg") || kit_json_get(root, "err_code"))
        error_of_request(m, root);
    else
        recording_read(m, root);
    kit_json_free(&root);
}

void dg_message_free(struct dg_message *m)
{
    free(m->segments);
    free(m->pool);
    m->segments = NULL;
    m->pool = NULL;
    m->n = 0;
}
