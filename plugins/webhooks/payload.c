/*
 * What a job keeps: one line of JSON, {"v":1,"uid":"...", ...}, and then the body as it is sent. The line has nothing
 * of the endpoint: the jobs of one event share their payload. Members that are missing are empty, such that are not
 * known are passed over: jobs outlive the daemon that made them.
 */
#include <string.h>

#include "webhooks.h"

static void member(struct text *t, const char *key, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    text_adds(t, ",\"");
    text_adds(t, key);
    text_adds(t, "\":");
    text_add_quoted(t, value);
}

static bool fits(const char *s, size_t size)
{
    return s == NULL || strlen(s) < size;
}

bool payload_write(struct text *t, const struct payload_head *head, const char *body, size_t len)
{
    struct payload *p;
    if (!fits(head->uid, sizeof(p->uid)) || !fits(head->conversation, sizeof(p->conversation)) ||
        !fits(head->id, sizeof(p->id)) || !fits(head->event, sizeof(p->event)))
        return false;
    text_reserve(t, len + strlen(head->uid) + 256);
    text_adds(t, "{\"v\":1,\"uid\":");
    text_add_quoted(t, head->uid);
    member(t, "conversation_id", head->conversation);
    member(t, "id", head->id);
    member(t, "event", head->event);
    text_adds(t, "}\n");
    text_add(t, body, len);
    return true;
}

bool payload_read(const char *data, size_t len, struct payload *out)
{
    static const struct {
        const char *key;
        size_t at, size;
    } members[] = {{"uid", offsetof(struct payload, uid), sizeof(out->uid)},
                   {"conversation_id", offsetof(struct payload, conversation), sizeof(out->conversation)},
                   {"id", offsetof(struct payload, id), sizeof(out->id)},
                   {"event", offsetof(struct payload, event), sizeof(out->event)}};
    struct json_span key, value;
    const char *line = len > 0 ? memchr(data, '\n', len) : NULL;
    if (line == NULL)
        return false;
    const size_t head = (size_t)(line - data);
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        ((char *)out)[members[i].at] = '\0';
    if (head == 0 || data[head - 1] != '}')
        return false;
    for (size_t at = 0; json_object_next(data, head, &at, &key, &value);) {
        for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
            if (json_equals(&key, members[i].key, strlen(members[i].key)) &&
                !json_decode(&value, (char *)out + members[i].at, members[i].size))
                return false;
        }
    }
    out->body = line + 1;
    out->len = len - head - 1;
    return out->uid[0] != '\0';
}
