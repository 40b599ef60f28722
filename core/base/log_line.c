#include "base/log_line.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/utf8.h"

#define KEY_MAX 64

/* A line that is too long is made again with its strings cut shorter. The last can't fail but for memory: 24 fields
 * of 24 bytes, each escaped to six. */
static const size_t clips[] = {2048, 256, 24};

const char *log_level_name(enum log_level level)
{
    static const char *const names[] = {"error", "warning", "notice", "info", "debug"};
    return names[level];
}

/* -------------------------------------------------------------------------- text */

static uint32_t decode(const unsigned char *p, size_t n)
{
    uint32_t v = n == 1 ? p[0] : n == 2 ? p[0] & 0x1fu : n == 3 ? p[0] & 0x0fu : p[0] & 0x07u;
    for (size_t i = 1; i < n; i++)
        v = v << 6 | (p[i] & 0x3fu);
    return v;
}

/* Characters that move a terminal's cursor, end a line for some reader, or turn the direction of what is shown. */
static bool is_unsafe(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || (c >= 0x202a && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

static void text_escape(struct buf *b, const char *s, size_t clip, bool quoted)
{
    size_t len = strlen(s), end = len > clip ? clip : len;
    const unsigned char *p = (const unsigned char *)s;
    for (size_t i = 0; i < end;) {
        size_t n = utf8_char_len(p + i, len - i);
        uint32_t c = n ? decode(p + i, n) : 0;
        if (n == 0)
            buf_printf(b, "\\x%02x", p[i]);
        else if (c == '\n' || c == '\r' || c == '\t')
            buf_printf(b, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (is_unsafe(c))
            buf_printf(b, c < 0x100 ? "\\x%02x" : "\\u%04x", c);
        else if (quoted && (c == '"' || c == '\\'))
            buf_printf(b, "\\%c", (char)c);
        else
            buf_append(b, p + i, n);
        i += n ? n : 1;
    }
    if (len > clip)
        buf_puts(b, "...");
}

/* Bare when it can be. */
static void text_value(struct buf *b, const char *s, size_t clip)
{
    bool bare = s[0] != 0;
    for (const char *p = s; *p && bare; p++)
        bare = (unsigned char)*p > ' ' && (unsigned char)*p < 0x7f && *p != '"' && *p != '\\' && *p != '=';
    if (!bare)
        buf_puts(b, "\"");
    text_escape(b, s, clip, !bare);
    if (!bare)
        buf_puts(b, "\"");
}

/* Plugins name keys too: letters, digits and a few others stand, the rest does not. */
static void key_copy(char out[KEY_MAX], const char *key)
{
    size_t n = 0;
    for (; key && key[n] && n < KEY_MAX - 1; n++)
        out[n] = isalnum((unsigned char)key[n]) || strchr("_-.", key[n]) ? key[n] : '_';
    if (n == 0)
        out[n++] = '_';
    out[n] = 0;
}

void log_value_plain(struct buf *b, const struct log_field *f, size_t clip)
{
    switch (f->type) {
    case LOG_F_STR:
        if (f->v.s) {
            size_t len = strlen(f->v.s);
            buf_append(b, f->v.s, len > clip ? utf8_clip(f->v.s, len, clip) : len);
        }
        break;
    case LOG_F_INT:
        buf_printf(b, "%lld", (long long)f->v.i);
        break;
    case LOG_F_UINT:
        buf_printf(b, "%llu", (unsigned long long)f->v.u);
        break;
    case LOG_F_DOUBLE:
        buf_printf(b, "%.6g", f->v.d);
        break;
    case LOG_F_BOOL:
        buf_puts(b, f->v.b ? "true" : "false");
        break;
    }
}

static void text_build(struct buf *b, const struct log_line *l, bool stamped, size_t clip)
{
    if (stamped) {
        char when[32];
        clock_format_utc(clock_wall_ms(), when);
        buf_printf(b, "%s %s ", when, log_level_name(l->level));
    }
    text_escape(b, l->module, KEY_MAX, false);
    buf_puts(b, ": ");
    text_escape(b, l->message, clip, false);
    for (size_t i = 1; i < l->n; i++) {
        char key[KEY_MAX];
        key_copy(key, l->fields[i].key);
        buf_printf(b, " %s=", key);
        if (l->fields[i].type == LOG_F_STR)
            text_value(b, l->fields[i].v.s ? l->fields[i].v.s : "", clip);
        else
            log_value_plain(b, &l->fields[i], clip);
    }
}

bool log_line_text(struct buf *b, const struct log_line *l, bool stamped)
{
    for (size_t i = 0; i < sizeof clips / sizeof clips[0]; i++) {
        buf_clear(b);
        text_build(b, l, stamped, clips[i]);
        if (!b->failed)
            return true;
    }
    return false;
}

/* -------------------------------------------------------------------------- JSON */

static void json_string(struct json_w *w, const char *s, size_t clip)
{
    char cut[2048 + 4];
    size_t len = s ? strlen(s) : 0;
    if (len <= clip || clip > 2048) {
        json_w_str(w, s);
        return;
    }
    memcpy(cut, s, clip);
    size_t back = clip; /* to the start of the character the cut falls into */
    while (back > 0 && clip - back < 3 && ((unsigned char)s[back] & 0xc0) == 0x80)
        back--;
    memcpy(cut + back, "...", 3);
    json_w_strn(w, cut, back + 3);
}

static void json_value(struct json_w *w, const struct log_field *f, size_t clip)
{
    char digits[24];
    switch (f->type) {
    case LOG_F_STR:
        json_string(w, f->v.s, clip);
        break;
    case LOG_F_INT:
        json_w_int(w, f->v.i);
        break;
    case LOG_F_UINT:
        json_w_raw(w, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)f->v.u));
        break;
    case LOG_F_DOUBLE:
        json_w_num(w, f->v.d);
        break;
    case LOG_F_BOOL:
        json_w_bool(w, f->v.b);
        break;
    }
}

static bool json_build(struct buf *b, const struct log_line *l, size_t clip)
{
    char when[32];
    struct json_w w;
    clock_format_utc(clock_wall_ms(), when);
    json_w_start(&w, b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "time", when);
    json_w_kstr(&w, "level", log_level_name(l->level));
    json_w_key(&w, "module");
    json_string(&w, l->module, clip < KEY_MAX ? clip : KEY_MAX);
    json_w_key(&w, "message");
    json_string(&w, l->message, clip);
    for (size_t i = 1; i < l->n; i++) {
        char key[KEY_MAX];
        key_copy(key, l->fields[i].key);
        json_w_key(&w, key);
        json_value(&w, &l->fields[i], clip);
    }
    json_w_close(&w, '}');
    return json_w_end(&w);
}

bool log_line_json(struct buf *b, const struct log_line *l)
{
    for (size_t i = 0; i < sizeof clips / sizeof clips[0]; i++) {
        buf_clear(b);
        if (json_build(b, l, clips[i]))
            return true;
    }
    return false;
}
