#include "session/extract.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/magic.h"
#include "base/map.h"

#define TITLE_CHARS 60
#define OVERVIEW_SENTENCES 3
#define MAX_SENTENCES 2000 /* of a very long conversation the first ones are looked at */
#define MAX_WORD 32
#define MAX_SENTENCE 2000 /* bytes; what has no end is cut: a summary has its bounds */

struct sentence {
    const char *text;
    size_t len;
    double score;
};

/* Words that say nothing about the subject. */
static const char *const stop_words[] = {
    "the",   "and",  "that", "this", "with", "for",  "you",  "was",  "are",  "but",  "not",  "have",  "has",   "had",
    "they",  "she",  "him",  "her",  "his",  "them", "from", "what", "when", "your", "will", "would", "there", "their",
    "about", "just", "like", "yeah", "okay", "well", "know", "then", "been", "were", "can",  "could", "did",   "does",
};

static bool word_next(const char **at, const char *end, char word[MAX_WORD])
{
    const char *p = *at;
    while (p < end && !(isalnum((unsigned char)*p) || (unsigned char)*p >= 0x80))
        p++;
    size_t n = 0;
    for (; p < end && (isalnum((unsigned char)*p) || (unsigned char)*p >= 0x80 || *p == '\''); p++) {
        if (n + 1 < MAX_WORD)
            word[n++] = (char)tolower((unsigned char)*p);
    }
    word[n] = 0;
    *at = p;
    return n > 0;
}

static bool word_counts(const char *word)
{
    if (strlen(word) < 3)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(stop_words); i++) {
        if (strcmp(word, stop_words[i]) == 0)
            return false;
    }
    return true;
}

static size_t sentences_split(const char *text, struct sentence *out, size_t max)
{
    size_t n = 0;
    const char *from = text;
    for (const char *p = text;; p++) {
        bool end = *p == 0 || ((*p == '.' || *p == '?' || *p == '!') && (p[1] == ' ' || p[1] == 0));
        /* Behind a word, or at least behind a character. */
        bool cut = p - from >= MAX_SENTENCE &&
                   (*p == ' ' || (p - from >= MAX_SENTENCE + MAX_WORD && ((unsigned char)p[1] & 0xc0) != 0x80));
        if (!end && !cut)
            continue;
        const char *to = *p ? p + 1 : p;
        while (from < to && *from == ' ')
            from++;
        if (to > from && n < max)
            out[n++] = (struct sentence){.text = from, .len = (size_t)(to - from)};
        if (*p == 0)
            break;
        from = to;
    }
    return n;
}

static bool words_count(struct map *counts, const struct sentence *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char word[MAX_WORD];
        const char *at = s[i].text;
        while (word_next(&at, s[i].text + s[i].len, word)) {
            uintptr_t seen = (uintptr_t)map_get(counts, word);
            if (word_counts(word) && !map_put(counts, word, (void *)(seen + 1), NULL))
                return false;
        }
    }
    return true;
}

/* The mean weight of a sentence's words: a long sentence is not better for its length, a very short one says little. */
static void sentences_score(const struct map *counts, struct sentence *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char word[MAX_WORD];
        const char *at = s[i].text;
        double sum = 0;
        unsigned words = 0;
        while (word_next(&at, s[i].text + s[i].len, word)) {
            words++;
            if (word_counts(word))
                sum += (double)(uintptr_t)map_get(counts, word);
        }
        s[i].score = words ? sum / (words < 4 ? 4 : words) : 0;
    }
}

/* At most TITLE_CHARS characters, cut between words, without the end mark. */
static void title_make(const struct sentence *s, char out[TITLE_CHARS * 4 + 1])
{
    size_t n = 0, chars = 0, space = 0;
    for (; n < s->len && chars < TITLE_CHARS; n++) {
        if (s->text[n] == ' ')
            space = n;
        chars += ((unsigned char)s->text[n] & 0xc0) != 0x80;
    }
    while (n < s->len && ((unsigned char)s->text[n] & 0xc0) == 0x80)
        n++;
    if (n < s->len && s->text[n] != ' ' && space > 0)
        n = space;
    while (n > 0 && strchr(" .,;:!", s->text[n - 1]))
        n--;
    memcpy(out, s->text, n);
    out[n] = 0;
    if (out[0] >= 'a' && out[0] <= 'z')
        out[0] = (char)toupper((unsigned char)out[0]);
}

static bool overview_make(const struct sentence *s, size_t n, struct buf *out)
{
    size_t best[OVERVIEW_SENTENCES], chosen = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = chosen;
        while (at > 0 && s[best[at - 1]].score < s[i].score)
            at--;
        if (at >= OVERVIEW_SENTENCES)
            continue;
        size_t keep = chosen < OVERVIEW_SENTENCES ? chosen : OVERVIEW_SENTENCES - 1;
        memmove(&best[at + 1], &best[at], (keep - at) * sizeof best[0]);
        best[at] = i;
        chosen = keep + 1;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < chosen; k++) {
            if (best[k] == i && ((out->len && !buf_puts(out, " ")) || !buf_append(out, s[i].text, s[i].len)))
                return false;
        }
    }
    return true;
}

static bool structured_write(const char *title, const char *overview, struct buf *out)
{
    struct json_w w;
    json_w_start(&w, out);
    json_w_open(&w, '{');
    json_w_kstr(&w, "title", title);
    json_w_kstr(&w, "overview", overview);
    json_w_kstr(&w, "emoji", "\xf0\x9f\x92\xac"); /* speech balloon */
    json_w_kstr(&w, "category", "other");
    json_w_key(&w, "action_items");
    json_w_open(&w, '[');
    json_w_close(&w, ']');
    json_w_key(&w, "events");
    json_w_open(&w, '[');
    json_w_close(&w, ']');
    json_w_kstr(&w, "source", "extractive");
    json_w_close(&w, '}');
    return json_w_end(&w);
}

bool extract_summary(const struct store_conversation *c, struct buf *out)
{
    struct buf text = BUF_INIT(0), overview = BUF_INIT(0);
    struct sentence *s = calloc(MAX_SENTENCES, sizeof *s);
    struct map *counts = map_new();
    bool ok = s && counts;
    for (size_t i = 0; ok && i < c->n_segments; i++)
        ok = (i == 0 || buf_puts(&text, " ")) && buf_puts(&text, c->segment[i].text);
    if (ok) {
        char title[TITLE_CHARS * 4 + 1] = "";
        size_t n = sentences_split(text.data ? text.data : "", s, MAX_SENTENCES);
        ok = words_count(counts, s, n);
        sentences_score(counts, s, n);
        size_t best = 0;
        for (size_t i = 1; i < n; i++) {
            if (s[i].score > s[best].score)
                best = i;
        }
        if (n)
            title_make(&s[best], title);
        ok = ok && overview_make(s, n, &overview) && structured_write(title, overview.data ? overview.data : "", out);
    }
    map_free(&counts);
    free(s);
    buf_free(&text);
    buf_free(&overview);
    return ok;
}
