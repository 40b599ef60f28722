/* Sessions, on the control socket. */
#include <omid/plugin.h>
#include <string.h>

#include "admin/private.h"
#include "base/id.h"
#include "base/magic.h"
#include "base/wsframe.h"
#include "session/session.h"

int admin_sessions(void *arg, const char *path, struct buf *body, const char **content_type)
{
    static const char *const known[] = {"uid", "state", NULL};
    struct json_w w;
    struct query q;
    char err[256];

    (void)content_type;
    CHECK_MAGIC((struct admin *)arg, ADMIN_MAGIC);
    if (!admin_query(&q, path, known, err, sizeof(err)))
        return admin_fault(body, 400, err);
    const char *state = query_get(&q, "state");
    if (state != NULL && !session_state_known(state)) {
        query_free(&q);
        return admin_fault(body, 400, "state: expected starting, live, closing or leaving");
    }
    json_w_start(&w, body);
    sessions_list(query_get(&q, "uid"), state, &w);
    query_free(&q);
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}

/* 0: not one that an operator may send. */
static uint16_t kill_code(const char *text)
{
    if (text == NULL || strcmp(text, "1008") == 0)
        return WS_CODE_POLICY;
    return strcmp(text, "1001") == 0 ? WS_CODE_GOING_AWAY : 0;
}

int admin_session_kill(void *arg, const char *path, struct buf *body, const char **content_type)
{
    static const char *const known[] = {"id", "code", "reason", NULL};
    struct json_w w;
    struct query q;
    char err[256];
    int rc = OMID_EINVAL;

    (void)content_type;
    CHECK_MAGIC((struct admin *)arg, ADMIN_MAGIC);
    if (!admin_query(&q, path, known, err, sizeof(err)))
        return admin_fault(body, 400, err);
    const char *id = query_get(&q, "id"), *reason = query_get(&q, "reason");
    uint16_t code = kill_code(query_get(&q, "code"));
    const char *fault = id == NULL || !id_is_uuid(id)                      ? "id: expected a session's id"
                        : code == 0                                        ? "code: expected 1001 or 1008"
                        : reason != NULL && strlen(reason) > WS_MAX_REASON ? "reason: longer than 123 bytes"
                                                                           : NULL;
    if (fault == NULL)
        rc = session_kill(id, code, reason != NULL && reason[0] != '\0' ? reason : "ended by the operator");
    query_free(&q);
    if (fault != NULL)
        return admin_fault(body, 400, fault);
    if (rc != OMID_OK)
        return rc == OMID_ENOTSUP ? admin_fault(body, 404, "there is no such session")
                                  : admin_fault(body, 503, "out of memory");
    json_w_start(&w, body);
    json_w_open(&w, '{');
    json_w_kint(&w, "killed", 1);
    json_w_close(&w, '}');
    return json_w_end(&w) && buf_puts(body, "\n") ? 200 : 503;
}
