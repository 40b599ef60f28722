/* The first message of a web client, which says who it is. Pure; any thread. */
#ifndef OMID_INGRESS_GREETING_H
#define OMID_INGRESS_GREETING_H

#include <stdbool.h>
#include <stddef.h>
#include <yajl/yajl_tree.h>

#define GREETING_MAX 16384u /* bytes; a token has at most JWT_MAX_TOKEN */

/* Reasons of the Close (1008), word by word those of the listen protocol. */
#define GREETING_TIMEOUT "Auth timeout"
#define GREETING_INVALID "Invalid token"
#define GREETING_NOT_JSON "Expected JSON auth message"
#define GREETING_NOT_AUTH "First message must be auth"
#define GREETING_MISSING "Missing token"
#define GREETING_ANSWER "{\"type\":\"auth_response\",\"success\":true}"

struct greeting {
    yajl_val tree;
    const char *token; /* not empty; in tree */
    size_t len;
};
/* NULL: g has the token. Else one of the reasons above. greeting_free() in any case. */
const char *greeting_parse(bool text, const void *data, size_t len, struct greeting *g);
void greeting_free(struct greeting *g);

#endif
