/* The client's side of a WebSocket upgrade: the request's text, the check of the answer. No sockets. */
#ifndef OMID_LANE_HTTP_WSUPGRADE_H
#define OMID_LANE_HTTP_WSUPGRADE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define WS_MAX_ANSWER 16384 /* bytes of the peer's header, earlier 1xx answers included */

struct ws_url {
    char *http; /* the same with http or https, for curl; free with ws_url_free */
    char *host; /* as in a Host header */
    char *path; /* with query */
    bool tls;
};
/* ws:// and wss:// only, no user, no fragment. false: *why (static) says what is wrong, or no memory. */
bool ws_url_parse(const char *url, struct ws_url *out, const char **why);
void ws_url_free(struct ws_url *u);

/* Appends the request; key gets its Sec-WebSocket-Key. false: no memory, or it would be longer than out's bound. */
bool ws_request_build(struct buf *out, const struct ws_url *u, const char *const *headers, char key[25]);

/*
 * Looks at what has come so far.
 *   0  more is needed
 *   1  accepted: *used bytes were the header, frames may follow
 *  -1  no WebSocket: *status is the HTTP status, 0 when the answer is no HTTP; *why (static)
 */
int ws_answer_check(const char *data, size_t len, const char *key, size_t *used, int *status, const char **why);

#endif
