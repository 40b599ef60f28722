#include "session/segments.h"

#include <ctype.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "base/id.h"
#include "base/magic.h"
#include "base/utf8.h"

/* Sources: the listen protocol, Segments. */
#define APPEND_GAP_S 3.0
#define APPEND_CHARS 125
/* Beyond the protocol: a text without any end mark would grow, and be sent again as a whole, for ever. */
#define MAX_TEXT_BYTES 16384

void segment_text_tidy(char *text)
{
    char *out = text;
    const char *in = text;
    while (*in && isspace((unsigned char)*in))
        in++;
    for (; *in; in++) {
        bool space = isspace((unsigned char)*in);
        if (space && out > text && out[-1] == ' ')
            continue;
        if (strchr(",.?", *in) && out > text && out[-1] == ' ')
            out--;
        *out++ = space ? ' ' : *in;
    }
    while (out > text && out[-1] == ' ')
        out--;
    *out = 0;
}

/* Whoever it comes from: one bad byte would spoil the JSON of all that it stands with. */
static void text_mend(char *text)
{
    for (size_t left = strlen(text), n; left > 0; text += n, left -= n) {
        n = utf8_char_len(text, left);
        if (n == 0) {
            *text = '?';
            n = 1;
        }
    }
}

struct segment *segment_new(const char *text, int speaker_id, bool is_user, double start, double end,
                            const char *provider)
{
    struct segment *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->text = strdup(text);
    if (!s->text) {
        free(s);
        return NULL;
    }
    text_mend(s->text);
    segment_text_tidy(s->text);
    id_uuid4(s->id);
    s->speaker_id = speaker_id < 0 ? 0 : speaker_id;
    s->is_user = is_user;
    s->start = isfinite(start) && start > 0 ? start : 0;
    s->end = isfinite(end) && end > s->start ? end : s->start;
    if (provider)
        memcpy(s->provider, provider, utf8_clip(provider, strlen(provider), sizeof s->provider - 1));
    s->unseen = SEGMENT_ALL;
    return s;
}

void segment_free(struct segment **s)
{
    if (!*s)
        return;
    free((*s)->text);
    free((*s)->person_id);
    free(*s);
    *s = NULL;
}

bool segment_list_push(struct segment_list *l, struct segment *s)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        struct segment **item = realloc(l->item, cap * sizeof *item);
        if (!item)
            return false;
        l->item = item;
        l->cap = cap;
    }
    l->item[l->n++] = s;
    return true;
}

void segment_list_free(struct segment_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        segment_free(&l->item[i]);
    free(l->item);
    *l = (struct segment_list){0};
}

struct segment *segment_list_find(const struct segment_list *l, const char *id)
{
    /* Newest first: what is looked for is almost always near the end. */
    for (size_t i = l->n; i-- > 0;) {
        if (strcmp(l->item[i]->id, id) == 0)
            return l->item[i];
    }
    return NULL;
}

bool id_list_push(struct id_list *l, const char *id)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        char(*grown)[37] = realloc(l->id, cap * sizeof *grown);
        if (!grown)
            return false;
        l->id = grown;
        l->cap = cap;
    }
    snprintf(l->id[l->n++], 37, "%s", id);
    return true;
}

void id_list_clear(struct id_list *l)
{
    l->n = 0;
}

void id_list_drop_first(struct id_list *l, size_t n)
{
    omid_assert(n <= l->n);
    l->n -= n;
    if (n > 0)
        memmove(l->id, l->id + n, l->n * sizeof *l->id);
}

void id_list_free(struct id_list *l)
{
    free(l->id);
    *l = (struct id_list){0};
}

/* ---------------------------------------------------------------- sentences */

static bool is_end(char c)
{
    return c == '.' || c == '?' || c == '!';
}

static bool ends_sentence(const char *text)
{
    size_t n = strlen(text);
    return n > 0 && is_end(text[n - 1]);
}

/* Where the unfinished sentence at the end of text begins: behind the last end mark that a space follows. */
static const char *tail_fragment(const char *text)
{
    const char *from = text;
    for (const char *p = text; *p; p++) {
        if (is_end(*p) && p[1] == ' ')
            from = p + 2;
    }
    return from;
}

/* Length of the first sentence, end mark included; the whole text when there is no end. */
static size_t first_sentence(const char *text)
{
    for (const char *p = text; *p; p++) {
        if (is_end(*p) && (p[1] == ' ' || p[1] == 0))
            return (size_t)(p - text) + 1;
    }
    return strlen(text);
}

/* Characters, not bytes: the protocol counts and compares texts of any script. */
static size_t utf8_chars_n(const char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

static size_t utf8_chars(const char *s)
{
    return utf8_chars_n(s, strlen(s));
}

static char *joined(const char *a, size_t a_len, const char *b, size_t b_len)
{
    char *out = malloc(a_len + b_len + 2);
    if (!out)
        return NULL;
    memcpy(out, a, a_len);
    out[a_len] = ' ';
    memcpy(out + a_len + 1, b, b_len);
    out[a_len + 1 + b_len] = 0;
    segment_text_tidy(out);
    return out;
}

static void text_set(struct segment *s, char *text)
{
    free(s->text);
    s->text = text;
    s->unseen = SEGMENT_ALL;
}

static locale_t utf8_locale;
static void utf8_locale_make(void)
{
    utf8_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

/* Is the first character a lower-case letter, of any script? */
static bool starts_lower(const char *text)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, utf8_locale_make);
    mbstate_t state = {0};
    wchar_t c;
    if (!utf8_locale)
        return text[0] >= 'a' && text[0] <= 'z';
    locale_t former = uselocale(utf8_locale);
    size_t n = mbrtowc(&c, text, strlen(text), &state);
    uselocale(former);
    return n != 0 && n != (size_t)-1 && n != (size_t)-2 && iswlower_l((wint_t)c, utf8_locale);
}

/* ---------------------------------------------------------------- combining */

enum combined { COMBINED_NO, COMBINED_APPENDED, COMBINED_A_EMPTY, COMBINED_NO_MEMORY };

static bool same_speaker(const struct segment *a, const struct segment *b)
{
    return a->speaker_id == b->speaker_id || (a->is_user && b->is_user);
}

/* Rule 1: a sentence cut in two by a change of speaker goes to the side that holds most of it. */
static enum combined sentence_mend(struct segment *a, struct segment *b)
{
    const char *fragment = tail_fragment(a->text);
    size_t fragment_len = strlen(fragment);
    size_t first = first_sentence(b->text);
    size_t b_len = strlen(b->text);
    size_t fragment_chars = utf8_chars(fragment), first_chars = utf8_chars_n(b->text, first);

    if (first_chars < fragment_chars && first < b_len) {
        char *longer = joined(a->text, strlen(a->text), b->text, first);
        char *rest = strdup(b->text + first);
        if (!longer || !rest) {
            free(longer);
            free(rest);
            return COMBINED_NO_MEMORY;
        }
        segment_text_tidy(rest);
        text_set(a, longer);
        text_set(b, rest);
        return COMBINED_NO;
    }
    if (fragment_chars < first_chars) {
        char *whole = joined(fragment, fragment_len, b->text, b_len);
        char *left = strndup(a->text, (size_t)(fragment - a->text));
        if (!whole || !left) {
            free(whole);
            free(left);
            return COMBINED_NO_MEMORY;
        }
        segment_text_tidy(left);
        text_set(b, whole);
        text_set(a, left);
        if (left[0] == 0) {
            if (a->start < b->start)
                b->start = a->start;
            return COMBINED_A_EMPTY;
        }
    }
    return COMBINED_NO;
}

static enum combined combine(struct segment *a, struct segment *b)
{
    if (strcmp(a->provider, b->provider) != 0 || strlen(a->text) + strlen(b->text) > MAX_TEXT_BYTES)
        return COMBINED_NO;
    bool ended = ends_sentence(a->text);
    if (!same_speaker(a, b))
        return ended || a->text[0] == 0 ? COMBINED_NO : sentence_mend(a, b);

    bool close_by = b->start - a->end < APPEND_GAP_S && (utf8_chars(a->text) < APPEND_CHARS || !ended);
    bool goes_on = !ended && starts_lower(b->text);
    if (!close_by && !goes_on)
        return COMBINED_NO;
    char *text = joined(a->text, strlen(a->text), b->text, strlen(b->text));
    if (!text)
        return COMBINED_NO_MEMORY;
    text_set(a, text);
    if (b->end > a->end)
        a->end = b->end;
    if (a->heard_by != b->heard_by)
        a->heard_by = 0;
    if (strcmp(a->session, b->session) != 0)
        a->session[0] = 0;
    /* The speaker was named between the two: a's words are the same person's. */
    if (!a->person_id && !a->is_user) {
        a->person_id = b->person_id;
        b->person_id = NULL;
        a->is_user = b->is_user;
    }
    return COMBINED_APPENDED;
}

/* In the order of starts, behind those of the same start: that is the order of the store, too. */
static bool list_insert(struct segment_list *l, struct segment *s)
{
    if (!segment_list_push(l, s))
        return false;
    size_t at = l->n - 1, low = 0;
    if (at == 0 || l->item[at - 1]->start <= s->start)
        return true; /* almost always */
    for (size_t high = at; low < high;) {
        size_t mid = low + (high - low) / 2;
        if (l->item[mid]->start > s->start)
            high = mid;
        else
            low = mid + 1;
    }
    memmove(&l->item[low + 1], &l->item[low], (at - low) * sizeof(struct segment *));
    l->item[low] = s;
    return true;
}

/* Takes *next into l behind its tail, or where its start belongs: what begins before the tail does not go on from it.
 * `reported`: the tail is known outside, its deletion must be told. */
static bool take(struct segment_list *l, struct segment **next, bool tail_known, struct id_list *deleted)
{
    if ((*next)->text[0] == 0) {
        segment_free(next);
        return true;
    }
    struct segment *tail = l->n ? l->item[l->n - 1] : NULL;
    if (tail && (*next)->start >= tail->start) {
        switch (combine(tail, *next)) {
        case COMBINED_NO_MEMORY:
            return false;
        case COMBINED_APPENDED:
            segment_free(next);
            return true;
        case COMBINED_A_EMPTY:
            if (tail_known && !id_list_push(deleted, tail->id))
                return false;
            l->n--;
            segment_free(&tail);
            break;
        case COMBINED_NO:
            break;
        }
    }
    if (!list_insert(l, *next))
        return false;
    *next = NULL;
    return true;
}

/* Stable, and linear for what is already in order, as a batch almost always is. */
static void sort_by_start(struct segment_list *l)
{
    for (size_t i = 1; i < l->n; i++) {
        struct segment *s = l->item[i];
        size_t at = i;
        for (; at > 0 && l->item[at - 1]->start > s->start; at--)
            l->item[at] = l->item[at - 1];
        l->item[at] = s;
    }
}

/* Moves what is left of `from` into `to`, which has room for it. */
static void keep_rest(struct segment_list *to, struct segment_list *from)
{
    size_t n = 0;
    for (size_t i = 0; i < from->n; i++) {
        if (from->item[i])
            to->item[n++] = from->item[i];
    }
    to->n = n;
}

bool segments_merge(struct segment_list *stored, struct segment_list *batch, struct id_list *deleted)
{
    if (batch->n == 0)
        return true;
    sort_by_start(batch);

    struct segment_list folded = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < batch->n; i++)
        ok = take(&folded, &batch->item[i], false, deleted);
    if (!ok) {
        /* Nothing is lost: what was folded and what was not goes back. */
        size_t n = 0;
        struct segment **item = calloc(folded.n + batch->n, sizeof *item);
        if (item) {
            for (size_t i = 0; i < folded.n; i++)
                item[n++] = folded.item[i];
            for (size_t i = 0; i < batch->n; i++) {
                if (batch->item[i])
                    item[n++] = batch->item[i];
            }
            free(batch->item);
            free(folded.item);
            *batch = (struct segment_list){.item = item, .n = n, .cap = n};
        } else {
            keep_rest(batch, batch);
            segment_list_free(&folded);
        }
        return false;
    }
    batch->n = 0;

    /* With the stored tail only: the first one alone can touch it. */
    bool known = true;
    for (size_t i = 0; i < folded.n; i++) {
        if (!ok || (i > 0 && !list_insert(stored, folded.item[i])) ||
            (i == 0 && !take(stored, &folded.item[i], known, deleted))) {
            ok = false;
            if (folded.item[i] && !segment_list_push(batch, folded.item[i]))
                segment_free(&folded.item[i]);
        }
    }
    free(folded.item);
    return ok;
}

/* --------------------------------------------------------------------- JSON */

void segment_speaker_name(int speaker_id, char out[16])
{
    snprintf(out, 16, "SPEAKER_%02d", speaker_id < 0 ? 0 : speaker_id % 1000000);
}

void segment_json(struct json_w *w, const struct segment *s)
{
    char speaker[16];
    segment_speaker_name(s->speaker_id, speaker);
    json_w_open(w, '{');
    json_w_kstr(w, "id", s->id);
    json_w_kstr(w, "text", s->text);
    json_w_kstr(w, "speaker", speaker);
    json_w_kint(w, "speaker_id", s->speaker_id);
    json_w_kbool(w, "is_user", s->is_user);
    json_w_kstr(w, "person_id", s->person_id);
    json_w_knum(w, "start", s->start);
    json_w_knum(w, "end", s->end);
    json_w_key(w, "translations");
    json_w_open(w, '[');
    json_w_close(w, ']');
    json_w_kbool(w, "speech_profile_processed", true);
    json_w_kstr(w, "stt_provider", s->provider);
    json_w_close(w, '}');
}
