#include "sign.h"

#include <inttypes.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "whsec_"
#define MAC_LEN 32
#define MAC_TEXT 44 /* of it, in base64 */

static bool base64_text(const char *s, size_t len)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t body = strspn(s, alphabet), pad = strspn(s + body, "=");
    return len % 4 == 0 && body + pad == len && pad <= 2;
}

const char *sign_key_read(const char *secret, struct sign_key *out)
{
    static const char expected[] = "expected whsec_ followed by 24 to 64 random bytes in base64";
    uint8_t decoded[SIGN_KEY_MAX + 8];
    if (strncmp(secret, PREFIX, sizeof(PREFIX) - 1) != 0)
        return expected;
    const char *text = secret + sizeof(PREFIX) - 1;
    size_t len = strlen(text);
    /* OpenSSL skips blanks and takes what comes; a secret that is nearly right is a mistake of somebody's. */
    if (len == 0 || len > (SIGN_KEY_MAX + 2) / 3 * 4 || !base64_text(text, len))
        return expected;
    int n = EVP_DecodeBlock(decoded, (const unsigned char *)text, (int)len);
    if (n < 0)
        return expected;
    n -= text[len - 1] == '=' ? text[len - 2] == '=' ? 2 : 1 : 0; /* it counts the padding as bytes */
    if (n >= SIGN_KEY_MIN && n <= SIGN_KEY_MAX) {
        memcpy(out->bytes, decoded, (size_t)n);
        out->len = (size_t)n;
    }
    OPENSSL_cleanse(decoded, sizeof(decoded));
    return n < SIGN_KEY_MIN || n > SIGN_KEY_MAX ? expected : NULL;
}

struct signer {
    EVP_MAC_CTX *mac[SIGN_KEYS]; /* keyed; each signature begins it anew */
    size_t n;
};

static EVP_MAC_CTX *mac_new(EVP_MAC *hmac, const struct sign_key *key)
{
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                 OSSL_PARAM_construct_end()};
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(hmac);
    if (ctx == NULL || EVP_MAC_init(ctx, key->bytes, key->len, params) != 1) {
        EVP_MAC_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

struct signer *signer_new(const struct sign_key *keys, size_t n)
{
    struct signer *s = calloc(1, sizeof(*s));
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    bool ok = s != NULL && hmac != NULL && n <= SIGN_KEYS;
    for (size_t i = 0; ok && i < n; i++) {
        ok = (s->mac[i] = mac_new(hmac, &keys[i])) != NULL;
        s->n++;
    }
    EVP_MAC_free(hmac); /* the contexts hold it */
    if (!ok)
        signer_free(&s);
    return s;
}

void signer_free(struct signer **sp)
{
    struct signer *s = *sp;
    *sp = NULL;
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n; i++)
        EVP_MAC_CTX_free(s->mac[i]);
    free(s);
}

bool signer_sign(struct signer *s, const char *id, int64_t timestamp, const void *body, size_t len,
                 char out[SIGN_VALUE_MAX])
{
    char at[32];
    char *to = out;
    int at_len = snprintf(at, sizeof(at), ".%" PRId64 ".", timestamp);
    for (size_t i = 0; i < s->n; i++) {
        uint8_t mac[MAC_LEN];
        size_t mac_len = 0;
        EVP_MAC_CTX *ctx = s->mac[i];
        if (EVP_MAC_init(ctx, NULL, 0, NULL) != 1 || EVP_MAC_update(ctx, (const unsigned char *)id, strlen(id)) != 1 ||
            EVP_MAC_update(ctx, (const unsigned char *)at, (size_t)at_len) != 1 ||
            EVP_MAC_update(ctx, body, len) != 1 || EVP_MAC_final(ctx, mac, &mac_len, sizeof(mac)) != 1 ||
            mac_len != MAC_LEN)
            return false;
        memcpy(to, i > 0 ? " v1," : "v1,", i > 0 ? 4 : 3);
        to += i > 0 ? 4 : 3;
        EVP_EncodeBlock((unsigned char *)to, mac, MAC_LEN);
        to += MAC_TEXT;
    }
    *to = '\0';
    return true;
}
