#include "ctl/signature.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"

#define PREFIX "whsec_"
#define MAC_LEN 32

/* The secret's bytes; 0: it is none. */
static size_t secret_bytes(const char *secret, unsigned char out[SIGNATURE_SECRET_MAX])
{
    size_t len = strlen(secret);
    if (len >= SIGNATURE_SECRET_MAX || strncmp(secret, PREFIX, strlen(PREFIX)) != 0)
        return 0;
    const char *text = secret + strlen(PREFIX);
    len -= strlen(PREFIX);
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr("+/=", text[i]))
            return 0;
    }
    int n = len > 0 && len % 4 == 0 ? EVP_DecodeBlock(out, (const unsigned char *)text, (int)len) : -1;
    for (size_t i = len; n > 0 && i > 0 && text[i - 1] == '='; i--)
        n--;
    return n >= 24 && n <= 64 ? (size_t)n : 0;
}

bool signature_secret_ok(const char *secret)
{
    unsigned char bytes[SIGNATURE_SECRET_MAX];
    return secret_bytes(secret, bytes) > 0;
}

/* "v1," and the base64 of the MAC, as it should be. false: no memory. */
static bool expected_value(const char *secret, const struct signature_parts *p, char out[64])
{
    unsigned char key[SIGNATURE_SECRET_MAX], mac[EVP_MAX_MD_SIZE];
    size_t key_len = secret_bytes(secret, key), len = p->id.len + p->timestamp.len + p->body.len + 2;
    unsigned mac_len = 0;
    char *text = malloc(len);
    if (!text)
        return false;
    char *to = text;
    memcpy(to, p->id.data, p->id.len);
    to += p->id.len;
    *to++ = '.';
    memcpy(to, p->timestamp.data, p->timestamp.len);
    to += p->timestamp.len;
    *to++ = '.';
    if (p->body.len > 0)
        memcpy(to, p->body.data, p->body.len);
    bool ok = HMAC(EVP_sha256(), key, (int)key_len, (unsigned char *)text, len, mac, &mac_len) && mac_len == MAC_LEN;
    free(text);
    memcpy(out, "v1,", 3);
    EVP_EncodeBlock((unsigned char *)out + 3, mac, MAC_LEN);
    return ok;
}

/* -1: no number. */
static int64_t seconds_of(const struct signature_text *t)
{
    int64_t s = 0;
    if (t->len == 0 || t->len > 12)
        return -1;
    for (size_t i = 0; i < t->len; i++) {
        if (!isdigit((unsigned char)t->data[i]))
            return -1;
        s = s * 10 + (t->data[i] - '0');
    }
    return s;
}

const char *signature_check(const char *secret, const struct signature_parts *p, int64_t now_s)
{
    char expected[64];
    if (!p->id.data || !p->timestamp.data || !p->signatures.data)
        return "a header is missing";
    int64_t at = seconds_of(&p->timestamp);
    if (at < 0)
        return "the timestamp is no number";
    if (p->body.len > SIGNATURE_BODY_MAX || !expected_value(secret, p, expected))
        return "no memory";
    size_t len = strlen(expected);
    bool right = false;
    for (size_t i = 0; i < p->signatures.len;) { /* separated by spaces; other versions than v1 may stand among them */
        size_t end = i;
        while (end < p->signatures.len && p->signatures.data[end] != ' ')
            end++;
        if (end - i == len && id_equal_ct(p->signatures.data + i, expected, len))
            right = true;
        i = end + 1;
    }
    if (!right)
        return "no signature is right";
    if (at < now_s - SIGNATURE_TOLERANCE_S)
        return "the timestamp is too old";
    return at > now_s + SIGNATURE_TOLERANCE_S ? "the timestamp is in the future" : NULL;
}
