/* Base64 and base64url of RFC 4648, sections 4 and 5. Pure; any thread. */
#ifndef OMID_BASE_BASE64_H
#define OMID_BASE_BASE64_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Bytes that `len` characters hold at most. */
#define BASE64_DECODED_MAX(len) ((len) / 4 * 3 + 3)
/* Strict: no white space, no characters after the padding; padding may be left out, its bits must be zero. Writes to
 * out (BASE64_DECODED_MAX(len) bytes) and sets *n. false: it is no base64. */
bool base64_decode(const char *text, size_t len, unsigned char *out, size_t *n);
/* base64url, as strict, and without padding. */
bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t *n);
/* Appends, padded. false: the buffer's bound or memory. */
bool base64_encode(const void *data, size_t len, struct buf *out);

#endif
