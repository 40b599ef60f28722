/* What the answers on the control socket share. */
#include <stdio.h>
#include <string.h>

#include "admin/private.h"

int admin_fault(struct buf *body, int status, const char *text)
{
    struct json_w w;

    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? status : 503;
}

bool admin_query(struct query *q, const char *path, const char *const *known, char *err, size_t errlen)
{
    const char *mark = strchr(path, '?');
    const char *text = mark != NULL ? mark + 1 : "";

    if (!query_parse(q, text, strlen(text), err, errlen))
        return false;
    for (size_t i = 0; i < q->n; i++) {
        const char *const *k = known;
        while (*k != NULL && strcmp(*k, q->params[i].name) != 0)
            k++;
        if (*k == NULL) {
            snprintf(err, errlen, "unknown parameter \"%.64s\"", q->params[i].name);
            query_free(q);
            return false;
        }
    }
    return true;
}
