/* What webhooks do with JSON of strangers: the first line is a filter, the rest an event, a conversation, a payload. */
#include <string.h>
#include <yajl/yajl_tree.h>

#include "../../plugins/webhooks/webhooks.h"
#include "fuzz.h"

static void filter_look(const char *text, size_t text_len, const char *json, size_t len)
{
    bool ok = false;
    char *own = strndup(text, text_len);
    struct filter *f = filter_new(own, &ok);
    FUZZ_CHECK(f == NULL || ok);
    (void)filter_matches(f, json, len);
    filter_free(&f);
    free(own);
}

/* Every string member is found, and says what yajl says. */
static void members_look(const char *json, size_t len)
{
    char err[64];
    char *own = strndup(json, len);
    yajl_val tree = yajl_tree_parse(own, err, sizeof(err));
    FUZZ_CHECK(tree != NULL);
    for (size_t i = 0; YAJL_IS_OBJECT(tree) && i < tree->u.object.len; i++) {
        const char *key = tree->u.object.keys[i];
        struct json_span v;
        bool again = false;
        for (size_t k = i + 1; k < tree->u.object.len; k++)
            again = again || strcmp(tree->u.object.keys[k], key) == 0;
        if (again || memchr(json, '\\', len) != NULL) /* escapes: yajl ends keys and strings at \u0000 */
            continue;
        FUZZ_CHECK(json_find(json, len, key, &v));
        FUZZ_CHECK(json_is_string(&v) == YAJL_IS_STRING(tree->u.object.values[i]));
        const char *expected = YAJL_GET_STRING(tree->u.object.values[i]);
        char *s = json_string(&v);
        FUZZ_CHECK((s == NULL) == (expected == NULL));
        FUZZ_CHECK(s == NULL || expected == NULL || strcmp(s, expected) == 0);
        free(s);
    }
    yajl_tree_free(tree);
    free(own);
}

static void memory_look(const char *json, size_t len)
{
    struct text out = {0};
    memory_with_names(&out, json, len, "{\"p\":\"\\u00e9\"}");
    FUZZ_CHECK(!out.failed);
    const char *fault = json_fault(out.data, out.len);
    FUZZ_CHECK(fault == NULL);
    free(out.data);
    struct text day = {0};
    if (day_summary_body(&day, json, len))
        FUZZ_CHECK(json_fault(day.data, day.len) == NULL);
    free(day.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *line = size > 0 ? memchr(text, '\n', size) : NULL;
    size_t head = line != NULL ? (size_t)(line - text) : 0;
    const char *json = line != NULL ? line + 1 : text;
    size_t len = size - (size_t)(json - text);
    struct payload p;
    if (payload_read(text, size, &p)) {
        struct text again = {0};
        const struct payload_head h = {.uid = p.uid, .conversation = p.conversation, .id = p.id, .event = p.event};
        struct payload q;
        FUZZ_CHECK(payload_write(&again, &h, p.body, p.len));
        FUZZ_CHECK(payload_read(again.data, again.len, &q));
        FUZZ_CHECK(strcmp(p.uid, q.uid) == 0 && strcmp(p.event, q.event) == 0 && p.len == q.len);
        free(again.data);
    }
    if (json_fault(json, len) != NULL)
        return 0;
    filter_look(text, head, json, len);
    members_look(json, len);
    memory_look(json, len);
    return 0;
}
