#include "base/base64.h"

#include <stdint.h>

static const char alphabet[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value_of(unsigned char c, const char last[2])
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == (unsigned char)last[0] ? 62 : c == (unsigned char)last[1] ? 63 : -1;
}

/* Without padding. last: the characters for 62 and 63. */
static bool decode(const char *text, size_t len, const char last[2], unsigned char *out, size_t *n)
{
    size_t at = 0;
    uint32_t bits = 0;
    *n = 0;
    if (len % 4 == 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        int v = value_of((unsigned char)text[i], last);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            out[at++] = (unsigned char)(bits >> 16);
            out[at++] = (unsigned char)(bits >> 8);
            out[at++] = (unsigned char)bits;
            bits = 0;
        }
    }
    if (len % 4 == 2) {
        if (bits & 0xf)
            return false;
        out[at++] = (unsigned char)(bits >> 4);
    } else if (len % 4 == 3) {
        if (bits & 0x3)
            return false;
        out[at++] = (unsigned char)(bits >> 10);
        out[at++] = (unsigned char)(bits >> 2);
    }
    *n = at;
    return true;
}

bool base64_decode(const char *text, size_t len, unsigned char *out, size_t *n)
{
    size_t pad = 0;
    while (pad < 2 && len > 0 && text[len - 1] == '=') {
        len--;
        pad++;
    }
    *n = 0;
    return (pad == 0 || (len + pad) % 4 == 0) && decode(text, len, "+/", out, n);
}

bool base64url_decode(const char *text, size_t len, unsigned char *out, size_t *n)
{
    return decode(text, len, "-_", out, n);
}

bool base64_encode(const void *data, size_t len, struct buf *out)
{
    const unsigned char *p = data;
    size_t need = (len + 2) / 3 * 4;
    char *to = need ? buf_reserve(out, need) : NULL;
    if (need == 0)
        return true;
    if (to == NULL)
        return false;
    for (size_t i = 0; i < len; i += 3, to += 4) {
        size_t left = len - i;
        uint32_t bits =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? (uint32_t)p[i + 2] : 0);
        to[0] = alphabet[bits >> 18];
        to[1] = alphabet[bits >> 12 & 63];
        to[2] = left > 1 ? alphabet[bits >> 6 & 63] : '=';
        to[3] = left > 2 ? alphabet[bits & 63] : '=';
    }
    out->len += need;
    return true;
}
