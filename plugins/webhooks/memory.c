/* Bodies: a conversation with the names of who speaks, the summary of a day. */
#include <stdio.h>
#include <string.h>

#include "webhooks.h"

/* Anything else would not be copied into a string as it is: a string of its own, an object. */
static bool is_number(const struct json_span *v)
{
    return v->len > 0 && (v->data[0] == '-' || (v->data[0] >= '0' && v->data[0] <= '9'));
}

/* As the apps of Omi show it: the owner is "User", who has no name is "Speaker N". */
static void speaker_name(struct text *out, const struct json_span *segment, const char *people)
{
    struct json_span v, name;
    char person[128];
    if (json_find(segment->data, segment->len, "is_user", &v) && v.data[0] == 't') {
        text_adds(out, "\"User\"");
        return;
    }
    if (people != NULL && json_find(segment->data, segment->len, "person_id", &v) &&
        json_decode(&v, person, sizeof(person)) && json_find(people, strlen(people), person, &name) &&
        json_is_string(&name)) {
        text_add(out, name.data, name.len);
        return;
    }
    bool known = json_find(segment->data, segment->len, "speaker_id", &v) && is_number(&v);
    text_adds(out, "\"Speaker ");
    text_add(out, known ? v.data : "0", known ? v.len : 1);
    text_adds(out, "\"");
}

/* An object without its closing brace, and a comma if there is a member before. */
static void open_object(struct text *out, const char *json, size_t len)
{
    struct json_span key, value;
    size_t at = 0;
    bool empty = !json_object_next(json, len, &at, &key, &value);
    while (len > 0 && json[len - 1] != '}')
        len--;
    text_add(out, json, len > 0 ? len - 1 : 0);
    if (!empty)
        text_adds(out, ",");
}

static void segments_with_names(struct text *out, const struct json_span *segments, const char *people)
{
    struct json_span g;
    bool first = true;
    text_adds(out, "[");
    for (size_t at = 0; json_array_next(segments->data, segments->len, &at, &g); first = false) {
        if (!first)
            text_adds(out, ",");
        if (g.data[0] != '{') {
            text_add(out, g.data, g.len);
            continue;
        }
        open_object(out, g.data, g.len);
        text_adds(out, "\"speaker_name\":");
        speaker_name(out, &g, people);
        text_adds(out, "}");
    }
    text_adds(out, "]");
}

void memory_with_names(struct text *out, const char *json, size_t len, const char *people)
{
    struct json_span segments;
    text_reserve(out, len + len / 8 + 256);
    const size_t from = out->len;
    if (json_find(json, len, "transcript_segments", &segments) && segments.data[0] == '[') {
        text_add(out, json, (size_t)(segments.data - json));
        segments_with_names(out, &segments, people);
        const char *rest = segments.data + segments.len;
        text_add(out, rest, len - (size_t)(rest - json));
    } else {
        text_add(out, json, len);
    }
    /* omid keeps no folders: the member is there for receivers that expect it. */
    size_t end = out->failed ? from : out->len;
    while (end > from && strchr(" \t\r\n", out->data[end - 1]) != NULL)
        end--;
    if (end == from || out->data[end - 1] != '}')
        return; /* no object: the daemon has not made it */
    out->len = end - 1;
    while (strchr(" \t\r\n", out->data[out->len - 1]) != NULL)
        out->len--;
    bool empty = out->data[out->len - 1] == '{';
    text_adds(out, empty ? "\"folder_name\":null}" : ",\"folder_name\":null}");
}

bool day_summary_body(struct text *out, const char *json, size_t len)
{
    struct json_span uid, created, summary;
    if (!json_find(json, len, "uid", &uid) || !json_is_string(&uid) || !json_find(json, len, "created_at", &created) ||
        !json_is_string(&created) || !json_find(json, len, "summary_json", &summary) || summary.data[0] != '{')
        return false;
    text_reserve(out, len * 2 + 256);
    text_adds(out, "{\"uid\":");
    text_add(out, uid.data, uid.len);
    text_adds(out, ",\"created_at\":");
    text_add(out, created.data, created.len);
    text_adds(out, ",\"summary\":");
    text_add_quoted_n(out, summary.data, summary.len);
    text_adds(out, ",\"summary_json\":");
    text_add(out, summary.data, summary.len);
    text_adds(out, "}");
    return true;
}
