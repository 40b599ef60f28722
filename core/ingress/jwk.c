/* Key sets: JSON Web Keys (RFC 7517) as OpenSSL's keys. */
#include "ingress/jwk.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/magic.h"

#define KEYS_MAGIC UINT32_C(0x6a776b73)
#define MAX_EXPONENT_BYTES 8

struct jwt_keys {
    uint32_t magic;
    atomic_uint refs;
    size_t n;
    struct key {
        char kid[JWT_MAX_KID + 1];
        EVP_PKEY *key;
    } key[JWT_MAX_KEYS];
};

struct jwt_keys *jwt_keys_ref(const struct jwt_keys *ckeys)
{
    CHECK_MAGIC(ckeys, KEYS_MAGIC);
    struct jwt_keys *keys = (struct jwt_keys *)(uintptr_t)ckeys;
    atomic_fetch_add(&keys->refs, 1);
    return keys;
}

void jwt_keys_free(struct jwt_keys **keysp)
{
    struct jwt_keys *keys = *keysp;

    *keysp = NULL;
    if (keys == NULL)
        return;
    CHECK_MAGIC(keys, KEYS_MAGIC);
    if (atomic_fetch_sub(&keys->refs, 1) > 1)
        return;
    for (size_t i = 0; i < keys->n; i++)
        EVP_PKEY_free(keys->key[i].key);
    keys->magic = OMID_MAGIC_DEAD;
    free(keys);
}

size_t jwt_keys_count(const struct jwt_keys *keys)
{
    CHECK_MAGIC(keys, KEYS_MAGIC);
    return keys->n;
}

EVP_PKEY *jwt_keys_find(const struct jwt_keys *keys, const char *kid)
{
    CHECK_MAGIC(keys, KEYS_MAGIC);
    for (size_t i = 0; i < keys->n; i++)
        if (strcmp(keys->key[i].kid, kid) == 0)
            return keys->key[i].key;
    return NULL;
}

/* A number in base64url, big-endian. NULL: none, or longer than max bytes. */
static BIGNUM *number(const char *text, size_t max)
{
    unsigned char bytes[JWT_MAX_RSA_BITS / 8 + 8];
    size_t len = text != NULL ? strlen(text) : 0;

    if (len == 0 || len > (max + 3) * 4 / 3 || max + 3 > sizeof(bytes))
        return NULL;
    size_t n;
    return base64url_decode(text, len, bytes, &n) && n > 0 ? BN_bin2bn(bytes, (int)n, NULL) : NULL;
}

static EVP_PKEY *rsa_of(const BIGNUM *n, const BIGNUM *e)
{
    EVP_PKEY *key = NULL;
    OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);

    if (bld != NULL && ctx != NULL && OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
        OSSL_PARAM_BLD_push_BN(bld, OSSL_PKEY_PARAM_RSA_E, e) == 1)
        params = OSSL_PARAM_BLD_to_param(bld);
    if (params != NULL && EVP_PKEY_fromdata_init(ctx) == 1 &&
        EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
        key = NULL;
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(bld);
    EVP_PKEY_CTX_free(ctx);
    ERR_clear_error();
    return key;
}

/* The modulus: an odd number of a size within the bounds; the exponent: odd, 3 at least. */
static EVP_PKEY *rsa_key(yajl_val jwk)
{
    BIGNUM *n = number(json_str(jwk, "n"), JWT_MAX_RSA_BITS / 8), *e = number(json_str(jwk, "e"), MAX_EXPONENT_BYTES);
    EVP_PKEY *key = NULL;

    if (n != NULL && e != NULL && BN_num_bits(n) >= JWT_MIN_RSA_BITS && BN_num_bits(n) <= JWT_MAX_RSA_BITS &&
        BN_is_odd(n) && BN_is_odd(e) && !BN_is_one(e))
        key = rsa_of(n, e);
    BN_free(n);
    BN_free(e);
    return key;
}

static bool member_is(yajl_val jwk, const char *name, const char *value)
{
    const char *s = json_str(jwk, name);
    return json_get(jwk, name) == NULL || (s != NULL && strcmp(s, value) == 0);
}

/* Can this key sign our tokens? Sets also hold keys for other things: they are no fault. */
static bool key_usable(yajl_val jwk, const char **kid)
{
    const char *kty = json_str(jwk, "kty");

    *kid = json_str(jwk, "kid");
    return kty != NULL && strcmp(kty, "RSA") == 0 && member_is(jwk, "use", "sig") && member_is(jwk, "alg", "RS256") &&
           *kid != NULL && **kid != '\0' && strlen(*kid) <= JWT_MAX_KID;
}

static bool keys_take(struct jwt_keys *keys, yajl_val list, unsigned *refused, char *err, size_t errlen)
{
    for (size_t i = 0; i < json_len(list); i++) {
        yajl_val jwk = json_at(list, i);
        const char *kid;
        EVP_PKEY *key = key_usable(jwk, &kid) ? rsa_key(jwk) : NULL;
        if (key == NULL) {
            ++*refused;
            continue;
        }
        if (jwt_keys_find(keys, kid) != NULL) {
            EVP_PKEY_free(key);
            snprintf(err, errlen, "two keys have the id %.40s", kid);
            return false;
        }
        struct key *k = &keys->key[keys->n++];
        k->key = key;
        memcpy(k->kid, kid, strlen(kid) + 1);
    }
    if (keys->n == 0)
        snprintf(err, errlen, "none of its %zu keys is an RSA key of %d to %d bits for RS256 with an id",
                 json_len(list), JWT_MIN_RSA_BITS, JWT_MAX_RSA_BITS);
    return keys->n > 0;
}

struct jwt_keys *jwt_keys_parse(const char *json, size_t len, unsigned *refused, char *err, size_t errlen)
{
    struct jwt_keys *keys = NULL;

    *refused = 0;
    err[0] = '\0';
    yajl_val v = json_parse(json, len, JWT_MAX_KEYS_TEXT, err, errlen);
    if (v == NULL)
        return NULL;
    yajl_val list = json_array(v, "keys");
    if (list == NULL)
        snprintf(err, errlen, "no object with an array \"keys\"");
    else if (json_len(list) > JWT_MAX_KEYS)
        snprintf(err, errlen, "%zu keys, more than %u", json_len(list), JWT_MAX_KEYS);
    else if ((keys = calloc(1, sizeof(*keys))) == NULL)
        snprintf(err, errlen, "no memory");
    if (keys != NULL) {
        keys->magic = KEYS_MAGIC;
        atomic_init(&keys->refs, 1);
        if (!keys_take(keys, list, refused, err, errlen))
            jwt_keys_free(&keys);
    }
    json_free(&v);
    return keys;
}
