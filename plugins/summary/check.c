/* What a model has answered is a stranger's text: each member is looked at, and only those that are known go on. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "summary.h"

#define MAX_TEXT ((size_t)256 << 10)
#define MAX_ITEMS 100
#define MAX_MINUTES 525600

static bool text_member(yajl_val v, const char *where, const char *key, size_t max, bool empty_ok, struct kit_text *out,
                        struct kit_fault *f)
{
    const char *s = NULL;
    if (!kit_json_string(v, where, key, &s, f))
        return false;
    s += strspn(s, " \t\r\n");
    size_t len = strlen(s);
    while (len > 0 && strchr(" \t\r\n", s[len - 1]))
        len--;
    if (len == 0 && !empty_ok)
        kit_fault_set(f, "%s%s%s: expected a text, found an empty one", where, where[0] ? "." : "", key);
    else if (len > max)
        kit_fault_set(f, "%s%s%s: expected at most %zu bytes, found %zu", where, where[0] ? "." : "", key, max, len);
    if (f->text[0])
        return false;
    kit_text_addf(out, "\"%s\":", key);
    kit_text_add_json(out, s, len);
    return true;
}

static bool digits(const char **s, int n, int min, int max)
{
    int value = 0;
    for (int i = 0; i < n; i++, (*s)++) {
        if (!isdigit((unsigned char)**s))
            return false;
        value = value * 10 + (**s - '0');
    }
    return value >= min && value <= max;
}

static bool literal(const char **s, const char *among)
{
    if (**s == '\0' || !strchr(among, **s))
        return false;
    (*s)++;
    return true;
}

/* RFC 3339: 2026-01-31T12:00:00Z, with a fraction or an offset; seconds may be missing. */
static bool is_time(const char *s)
{
    if (!digits(&s, 4, 0, 9999) || !literal(&s, "-") || !digits(&s, 2, 1, 12) || !literal(&s, "-") ||
        !digits(&s, 2, 1, 31) || !literal(&s, "Tt ") || !digits(&s, 2, 0, 23) || !literal(&s, ":") ||
        !digits(&s, 2, 0, 59))
        return false;
    if (*s == ':' && (s++, !digits(&s, 2, 0, 60)))
        return false;
    if (*s == '.') {
        size_t n = strspn(++s, "0123456789");
        if (n == 0 || n > 9)
            return false;
        s += n;
    }
    if (literal(&s, "Zz"))
        return *s == '\0';
    return literal(&s, "+-") && digits(&s, 2, 0, 23) && literal(&s, ":") && digits(&s, 2, 0, 59) && *s == '\0';
}

static bool action_item(yajl_val v, const char *where, struct kit_text *out, struct kit_fault *f)
{
    bool completed = false;
    kit_text_adds(out, "{");
    if (!text_member(v, where, "description", 2000, false, out, f) ||
        !kit_json_bool(v, where, "completed", &completed, f))
        return false;
    kit_text_addf(out, ",\"completed\":%s}", completed ? "true" : "false");
    return true;
}

static bool event(yajl_val v, const char *where, struct kit_text *out, struct kit_fault *f)
{
    const char *start = NULL;
    int64_t duration = 0;
    kit_text_adds(out, "{");
    if (!text_member(v, where, "title", 400, false, out, f))
        return false;
    kit_text_adds(out, ",");
    if (!text_member(v, where, "description", 4000, true, out, f) || !kit_json_string(v, where, "start", &start, f))
        return false;
    if (!is_time(start)) {
        kit_fault_set(f, "%s.start: expected a time like 2026-01-31T12:00:00+00:00, found another text", where);
        return false;
    }
    if (!kit_json_integer(v, where, "duration", &duration, f))
        return false;
    if (duration < 0 || duration > MAX_MINUTES) {
        kit_fault_set(f, "%s.duration: expected 0 to %d minutes, found another number", where, MAX_MINUTES);
        return false;
    }
    kit_text_adds(out, ",\"start\":");
    kit_text_add_json(out, start, strlen(start));
    kit_text_addf(out, ",\"duration\":%lld,\"created\":false}", (long long)duration);
    return true;
}

static bool items(yajl_val v, const char *key,
                  bool (*one)(yajl_val v, const char *where, struct kit_text *out, struct kit_fault *f),
                  struct kit_text *out, struct kit_fault *f)
{
    yajl_val array = NULL;
    if (!kit_json_array(v, "", key, &array, f))
        return false;
    if (kit_json_len(array) > MAX_ITEMS) {
        kit_fault_set(f, "%s: expected at most %d, found %zu", key, MAX_ITEMS, kit_json_len(array));
        return false;
    }
    kit_text_addf(out, ",\"%s\":[", key);
    for (size_t i = 0; i < kit_json_len(array); i++) {
        char where[48];
        yajl_val item = NULL;
        snprintf(where, sizeof where, "%s[%zu]", key, i);
        if (i > 0)
            kit_text_adds(out, ",");
        if (!kit_json_object(kit_json_at(array, i), where, NULL, &item, f) || !one(item, where, out, f))
            return false;
    }
    kit_text_adds(out, "]");
    return true;
}

bool check_summary(enum omid_summary_kind kind, const char *text, size_t len, struct kit_text *out, struct kit_fault *f)
{
    static const struct {
        const char *key;
        size_t max;
    } texts[] = {{"title", 300}, {"overview", 16384}, {"emoji", 40}, {"category", 64}};
    yajl_val v = kit_json_parse(text, len, MAX_TEXT, f), object = NULL;
    bool ok = v && kit_json_object(v, "", NULL, &object, f);
    kit_text_adds(out, "{");
    for (size_t i = 0; ok && i < sizeof texts / sizeof texts[0]; i++) {
        if (i > 0)
            kit_text_adds(out, ",");
        ok = text_member(v, "", texts[i].key, texts[i].max, false, out, f);
    }
    ok = ok && items(v, "action_items", action_item, out, f) &&
         (kind == OMID_SUMMARY_DAY || items(v, "events", event, out, f));
    kit_text_adds(out, "}");
    kit_json_free(&v);
    if (ok && out->failed)
        kit_fault_set(f, "no memory");
    return ok && !out->failed;
}
