/* Keys, key sets and tokens for tests, made by OpenSSL when they run. */
#ifndef OMID_TESTS_JWT_RIG_H
#define OMID_TESTS_JWT_RIG_H

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* base64url of the bytes; out has room for len * 4 / 3 + 3. */
static inline void rig_base64url(const void *in, size_t len, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const unsigned char *p = in;
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < len ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < len ? p[i + 2] : 0);
        for (size_t k = 0; k < 4 && i + k < len + 1; k++)
            out[n++] = digits[v >> (18 - 6 * k) & 63];
    }
    out[n] = '\0';
}

static inline void rig_number(EVP_PKEY *key, const char *name, char *out)
{
    unsigned char bytes[2048];
    BIGNUM *bn = NULL;
    EVP_PKEY_get_bn_param(key, name, &bn);
    rig_base64url(bytes, (size_t)BN_bn2bin(bn, bytes), out);
    BN_free(bn);
}

/* {"kty":"RSA",...} */
static inline void rig_jwk(EVP_PKEY *key, const char *kid, char *out, size_t size)
{
    char n[4096], e[64];
    rig_number(key, OSSL_PKEY_PARAM_RSA_N, n);
    rig_number(key, OSSL_PKEY_PARAM_RSA_E, e);
    if (snprintf(out, size,
                 "{\"kty\":\"RSA\",\"use\":\"sig\",\"alg\":\"RS256\",\"kid\":\"%s\",\"n\":\"%s\",\"e\":\"%s\"}", kid, n,
                 e) >= (int)size)
        abort();
}

/* header.claims. in base64url, and the signature of it by the key (NULL: none). Static. */
static inline const char *rig_token_of(const char *header, size_t header_len, const char *claims, size_t claims_len,
                                       EVP_PKEY *key)
{
    static char token[65536];
    unsigned char sig[1024];
    size_t n, sig_len = sizeof(sig);
    rig_base64url(header, header_len, token);
    strcat(token, ".");
    rig_base64url(claims, claims_len, token + strlen(token));
    n = strlen(token);
    if (key != NULL) {
        EVP_MD_CTX *ctx = EVP_MD_CTX_new();
        if (EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) != 1 ||
            EVP_DigestSign(ctx, sig, &sig_len, (unsigned char *)token, n) != 1)
            abort();
        EVP_MD_CTX_free(ctx);
    } else {
        sig_len = 0;
    }
    token[n] = '.';
    rig_base64url(sig, sig_len, token + n + 1);
    return token;
}

static inline const char *rig_token(const char *header, const char *claims, EVP_PKEY *key)
{
    return rig_token_of(header, strlen(header), claims, strlen(claims), key);
}

#endif
