/* Incremental UTF-8 validation (RFC 3629: no surrogates, no overlong forms, up to U+10FFFF). */
#ifndef OMID_BASE_UTF8_H
#define OMID_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct utf8 {
    uint32_t state; /* 0: between characters */
};

/* false at the first byte that can't belong to valid text; the state is then undefined. */
bool utf8_feed(struct utf8 *u, const void *data, size_t len);
/* true when no character is left open. */
bool utf8_complete(const struct utf8 *u);
bool utf8_valid(const void *data, size_t len);
/* Bytes of the valid character at data, 0 when there is none within len. */
size_t utf8_char_len(const void *data, size_t len);
/* Length of the longest valid prefix of at most max bytes: a cut never splits a character. */
size_t utf8_clip(const void *data, size_t len, size_t max);

#endif
