#include "base/utf8.h"

#include <string.h>

/* state: 0 between characters; else bits 0-7 lowest and 8-15 highest byte that may come next, 16-17 how many more. */
static uint32_t want(unsigned low, unsigned high, unsigned more)
{
    return low | high << 8 | more << 16;
}

static bool lead(unsigned char c, uint32_t *state)
{
    if (c >= 0xc2 && c <= 0xdf)
        *state = want(0x80, 0xbf, 1);
    else if (c == 0xe0)
        *state = want(0xa0, 0xbf, 2); /* no overlong forms */
    else if (c == 0xed)
        *state = want(0x80, 0x9f, 2); /* no surrogates */
    else if (c >= 0xe1 && c <= 0xef)
        *state = want(0x80, 0xbf, 2);
    else if (c == 0xf0)
        *state = want(0x90, 0xbf, 3);
    else if (c >= 0xf1 && c <= 0xf3)
        *state = want(0x80, 0xbf, 3);
    else if (c == 0xf4)
        *state = want(0x80, 0x8f, 3); /* up to U+10FFFF */
    else
        return false;
    return true;
}

bool utf8_feed(struct utf8 *u, const void *data, size_t len)
{
    const unsigned char *p = data, *end = p + len;
    uint32_t state = u->state;
    while (p < end) {
        if (state == 0) {
            uint64_t word;
            while (end - p >= 8 && (memcpy(&word, p, 8), !(word & UINT64_C(0x8080808080808080))))
                p += 8;
            if (p == end)
                break;
            unsigned char c = *p++;
            if (c >= 0x80 && !lead(c, &state))
                return false;
            continue;
        }
        unsigned char c = *p++;
        if (c < (state & 0xff) || c > (state >> 8 & 0xff))
            return false;
        unsigned more = state >> 16;
        state = more > 1 ? want(0x80, 0xbf, more - 1) : 0;
    }
    u->state = state;
    return true;
}

bool utf8_complete(const struct utf8 *u)
{
    return u->state == 0;
}

bool utf8_valid(const void *data, size_t len)
{
    struct utf8 u = {0};
    return utf8_feed(&u, data, len) && utf8_complete(&u);
}

size_t utf8_char_len(const void *data, size_t len)
{
    const unsigned char *p = data;
    uint32_t state;
    if (len == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    if (!lead(p[0], &state))
        return 0;
    size_t n = 1 + (state >> 16);
    return n <= len && utf8_valid(p, n) ? n : 0;
}

size_t utf8_clip(const void *data, size_t len, size_t max)
{
    const unsigned char *p = data;
    size_t at = 0, n;
    while (at < len && (n = utf8_char_len(p + at, len - at)) > 0 && n <= max - at)
        at += n;
    return at;
}
