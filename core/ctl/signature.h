/* Checks signatures of Standard Webhooks 1.0.0 as a receiver does. Knows nothing of how omid makes them. */
#ifndef OMID_CTL_SIGNATURE_H
#define OMID_CTL_SIGNATURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIGNATURE_SECRET_MAX 128  /* characters of a secret, NUL included */
#define SIGNATURE_TOLERANCE_S 300 /* a timestamp may be off by this; as the reference libraries have it */
#define SIGNATURE_BODY_MAX (64u << 20)

struct signature_text {
    const char *data; /* NULL: absent */
    size_t len;
};
struct signature_parts {
    struct signature_text id, timestamp, signatures, body;
};
bool signature_secret_ok(const char *secret);
/* NULL: one of the signatures is right and the timestamp is near now_s (Unix seconds). Else what is wrong (static).
 * secret: one that signature_secret_ok() took. */
const char *signature_check(const char *secret, const struct signature_parts *parts, int64_t now_s);

#endif
