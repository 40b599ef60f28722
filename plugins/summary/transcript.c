/* What was said, as lines of text: "[00:01:05] Speaker 1: ...". A line never holds a line break of its speaker's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "summary.h"

#define MAX_JSON ((size_t)16 << 20)
#define MAX_LINE 4000 /* bytes of one segment's text; more is cut */

/* Text of a stranger on one line: control characters become spaces. Cut at a character. */
static void add_flat(struct kit_text *t, const char *s, size_t max)
{
    size_t len = strlen(s);
    if (len > max) {
        for (len = max; len > 0 && ((unsigned char)s[len] & 0xc0) == 0x80;)
            len--;
    }
    char *at = kit_text_grow(t, len);
    for (size_t i = 0; at && i < len; i++)
        at[i] = (unsigned char)s[i] < ' ' || s[i] == 0x7f ? ' ' : s[i];
}

static const char *string_or(yajl_val v, const char *key, const char *otherwise)
{
    yajl_val s = kit_json_get(v, key);
    return YAJL_IS_STRING(s) ? YAJL_GET_STRING(s) : otherwise;
}

static double number_or(yajl_val v, const char *key, double otherwise)
{
    yajl_val n = kit_json_get(v, key);
    return YAJL_IS_DOUBLE(n) ? YAJL_GET_DOUBLE(n) : YAJL_IS_INTEGER(n) ? (double)YAJL_GET_INTEGER(n) : otherwise;
}

static bool is_true(yajl_val v, const char *key)
{
    return YAJL_IS_TRUE(kit_json_get(v, key));
}

static bool blank(const char *s)
{
    return s[strspn(s, " \t\r\n")] == '\0';
}

static void add_segments(struct kit_text *t, yajl_val conversation)
{
    yajl_val segments = kit_json_get(conversation, "transcript_segments");
    for (size_t i = 0; i < kit_json_len(segments); i++) {
        yajl_val s = kit_json_at(segments, i);
        const char *text = string_or(s, "text", "");
        double start = number_or(s, "start", 0);
        if (blank(text))
            continue;
        unsigned at = start >= 0 && start < 1e6 ? (unsigned)start : 0;
        if (is_true(s, "is_user"))
            kit_text_addf(t, "[%02u:%02u:%02u] User: ", at / 3600, at / 60 % 60, at % 60);
        else
            kit_text_addf(t, "[%02u:%02u:%02u] Speaker %d: ", at / 3600, at / 60 % 60, at % 60,
                          (int)number_or(s, "speaker_id", 0));
        add_flat(t, text, MAX_LINE);
        kit_text_adds(t, "\n");
    }
}

static bool add_photos(struct kit_text *t, yajl_val conversation)
{
    yajl_val photos = kit_json_get(conversation, "photos");
    for (size_t i = 0; i < kit_json_len(photos); i++) {
        yajl_val p = kit_json_at(photos, i);
        const char *text = string_or(p, "description", "");
        if (blank(text) || is_true(p, "discarded"))
            continue;
        kit_text_adds(t, "[photo] ");
        add_flat(t, text, MAX_LINE);
        kit_text_adds(t, "\n");
    }
    return kit_json_len(photos) > 0;
}

/* A conversation of a day: what its own summary says. */
static void add_summary(struct kit_text *t, yajl_val conversation)
{
    yajl_val s = kit_json_get(conversation, "structured");
    const char *title = string_or(s, "title", ""), *overview = string_or(s, "overview", "");
    if (blank(title) && blank(overview))
        return;
    kit_text_adds(t, "[");
    add_flat(t, string_or(conversation, "started_at", "?"), 40);
    kit_text_adds(t, "] ");
    add_flat(t, title, MAX_LINE);
    kit_text_adds(t, ": ");
    add_flat(t, overview, MAX_LINE);
    kit_text_adds(t, "\n");
    yajl_val items = kit_json_get(s, "action_items");
    for (size_t i = 0; i < kit_json_len(items); i++) {
        yajl_val item = kit_json_at(items, i);
        const char *what = string_or(item, "description", "");
        if (blank(what))
            continue;
        kit_text_adds(t, is_true(item, "completed") ? "  done: " : "  to do: ");
        add_flat(t, what, MAX_LINE);
        kit_text_adds(t, "\n");
    }
}

/* Where the part from `at` ends: behind the last line that fits, or, when one alone does not, at a character. */
static size_t part_end(const struct kit_text *t, size_t at, size_t size)
{
    if (t->len - at <= size)
        return t->len;
    for (size_t end = at + size; end > at; end--) {
        if (t->data[end - 1] == '\n')
            return end;
    }
    size_t end = at + size;
    while (end > at + 1 && ((unsigned char)t->data[end] & 0xc0) == 0x80)
        end--;
    return end;
}

/* Beginning and end matter most: what is too much is left out of the middle. */
static bool cut(const struct kit_text *t, size_t size, unsigned max, struct transcript *out)
{
    unsigned all = 0, head = (max + 1) / 2;
    for (size_t at = 0; at < t->len; at = part_end(t, at, size))
        all++;
    out->left_out = all > max ? all - max : 0;
    unsigned number = 0;
    for (size_t at = 0, end; at < t->len; at = end, number++) {
        end = part_end(t, at, size);
        if (out->left_out > 0 && number >= head && number < head + out->left_out)
            continue;
        out->part[out->n] = strndup(t->data + at, end - at);
        if (!out->part[out->n])
            return false;
        out->n++;
    }
    return true;
}

bool transcript_read(enum omid_summary_kind kind, const char *json, size_t len, size_t part_size, unsigned max_parts,
                     struct transcript *out, struct kit_fault *f)
{
    *out = (struct transcript){.n = 0};
    yajl_val v = kit_json_parse(json, len, MAX_JSON, f);
    if (!v)
        return false;
    struct kit_text t = {.max = MAX_JSON};
    if (kind == OMID_SUMMARY_DAY) {
        for (size_t i = 0; i < kit_json_len(v); i++)
            add_summary(&t, kit_json_at(v, i));
    } else {
        out->photos = add_photos(&t, v);
        add_segments(&t, v);
    }
    out->began = strdup(string_or(v, "started_at", ""));
    kit_json_free(&v);
    bool ok = !t.failed && out->began && cut(&t, part_size, max_parts, out);
    kit_text_free(&t);
    if (!ok) {
        kit_fault_set(f, "no memory");
        transcript_free(out);
    }
    return ok;
}

void transcript_free(struct transcript *t)
{
    for (unsigned i = 0; i < t->n; i++)
        free(t->part[i]);
    free(t->began);
    *t = (struct transcript){.n = 0};
}
