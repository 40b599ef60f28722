/* The first message of a web client: {"type":"auth","token":"..."}. */
#include "ingress/greeting.h"

#include <string.h>

#include "base/json.h"

const char *greeting_parse(bool text, const void *data, size_t len, struct greeting *g)
{
    char err[64];

    *g = (struct greeting){.token = NULL};
    yajl_val v = text ? json_parse(data, len, GREETING_MAX, err, sizeof(err)) : NULL;
    if (v == NULL)
        return GREETING_NOT_JSON;
    g->tree = v;
    const char *type = json_str(v, "type");
    yajl_val token = json_get(v, "token");
    if (type == NULL || strcmp(type, "auth") != 0)
        return GREETING_NOT_AUTH;
    if (token == NULL || YAJL_IS_NULL(token) || (YAJL_IS_STRING(token) && token->u.string[0] == '\0'))
        return GREETING_MISSING;
    if (!YAJL_IS_STRING(token))
        return GREETING_INVALID;
    g->token = token->u.string;
    g->len = strlen(g->token);
    return NULL;
}

void greeting_free(struct greeting *g)
{
    json_free(&g->tree);
    g->token = NULL;
}
