#include <stdlib.h>
#include <string.h>

#include "summary.h"

#define MAX_BODY ((size_t)1 << 20)

/* Without spaces around it, and without the fence that models like to put around JSON. */
static char *content_copy(const char *s)
{
    static const char fence[] = "```";
    s += strspn(s, " \t\r\n");
    size_t len = strlen(s);
    while (len > 0 && strchr(" \t\r\n", s[len - 1]))
        len--;
    const char *line = memchr(s, '\n', len);
    if (len > 6 && strncmp(s, fence, 3) == 0 && line && memcmp(s + len - 3, fence, 3) == 0) {
        len -= (size_t)(line + 1 - s) + 3;
        s = line + 1;
        while (len > 0 && strchr(" \t\r\n", s[len - 1]))
            len--;
    }
    return strndup(s, len);
}

/* Absent, or no number: not counted; it is no reason to throw an answer away. */
static int64_t tokens(yajl_val usage, const char *key)
{
    yajl_val n = kit_json_get(usage, key);
    return YAJL_IS_INTEGER(n) && YAJL_GET_INTEGER(n) > 0 ? YAJL_GET_INTEGER(n) : 0;
}

bool completion_read(const char *body, size_t len, struct completion *c, struct kit_fault *f)
{
    yajl_val choices = NULL, choice = NULL, message = NULL;
    const char *content = NULL;
    *c = (struct completion){.content = NULL};
    yajl_val v = kit_json_parse(body, len, MAX_BODY, f);
    bool ok = v && kit_json_array(v, "", "choices", &choices, f);
    if (ok && kit_json_len(choices) == 0) {
        kit_fault_set(f, "choices: expected at least one, found none");
        ok = false;
    }
    ok = ok && kit_json_object(kit_json_at(choices, 0), "choices[0]", NULL, &choice, f) &&
         kit_json_object(choice, "choices[0]", "message", &message, f) &&
         kit_json_string(message, "choices[0].message", "content", &content, f);
    if (ok) {
        yajl_val reason = kit_json_get(choice, "finish_reason"), usage = kit_json_get(v, "usage");
        const char *why = YAJL_GET_STRING(reason);
        c->cut = why && strcmp(why, "length") == 0;
        c->prompt_tokens = tokens(usage, "prompt_tokens");
        c->completion_tokens = tokens(usage, "completion_tokens");
        c->content = content_copy(content);
        if (!c->content)
            kit_fault_set(f, "no memory");
        ok = c->content != NULL;
    }
    kit_json_free(&v);
    return ok;
}
