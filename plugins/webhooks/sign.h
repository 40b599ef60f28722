/*
 * Signatures of deliveries, by Standard Webhooks 1.0.0: HMAC-SHA256 over "id.timestamp.body". No host, no I/O.
 *
 * A secret is "whsec_" and the base64 of 24 to 64 bytes. Every active one signs, so that a receiver that knows either
 * the old or the new one accepts a delivery while they are changed.
 */
#ifndef WEBHOOKS_SIGN_H
#define WEBHOOKS_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIGN_KEY_MIN 24 /* bytes; Standard Webhooks, "Signature scheme" */
#define SIGN_KEY_MAX 64
#define SIGN_KEYS 8        /* that sign at the same time: the present one and former ones */
#define SIGN_VALUE_MAX 400 /* the header's value with all of them, NUL included: "v1," and 44 characters each */

struct sign_key {
    uint8_t bytes[SIGN_KEY_MAX];
    size_t len;
};
/* NULL: *out is the key. Else what was expected (static; never the secret). */
const char *sign_key_read(const char *secret, struct sign_key *out);

/* One per thread; keeps copies of the keys. NULL: no memory. */
struct signer;
struct signer *signer_new(const struct sign_key *keys, size_t n);
void signer_free(struct signer **s);
/* The value of the header webhook-signature. id has no '.'; timestamp: Unix seconds of the attempt. False: OpenSSL
 * failed; then nothing may be sent, as it would go out unsigned. */
bool signer_sign(struct signer *s, const char *id, int64_t timestamp, const void *body, size_t len,
                 char out[SIGN_VALUE_MAX]);

#endif
