#include "ingress/jwt.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/magic.h"
#include "ingress/jwk.h"

/* The one algorithm of the configuration (id tokens are RS256 by their issuer's rules). */
#define ALGORITHM "RS256"
#define MAX_TIME 253402300799.0 /* the end of the year 9999: what lies behind it is no time */

const char *jwt_result_name(enum jwt_result result)
{
    static const char *const names[JWT_RESULTS] = {"ok",      "too_long",    "malformed", "algorithm",
                                                   "issuer",  "audience",    "subject",   "expired",
                                                   "not_yet", "unknown_key", "signature"};
    omid_assert(result < JWT_RESULTS);
    return names[result];
}

static bool uid_character(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == ':' || c == '@' || c == '-';
}

bool jwt_uid_valid(const char *uid, size_t len)
{
    if (len == 0 || len > JWT_MAX_SUBJECT)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!uid_character((unsigned char)uid[i]))
            return false;
    return true;
}

/* ------------------------------------------------------------ objects */

/* A name that stands twice means one thing to one reader and another to the next (RFC 7519, 4). */
static bool members_once(yajl_val v)
{
    size_t n = v->u.object.len;

    if (n > JWT_MAX_MEMBERS)
        return false;
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++)
            if (strcmp(v->u.object.keys[i], v->u.object.keys[k]) == 0)
                return false;
    return true;
}

/* One part: an object, each member once. NULL: none. A NUL within a text would cut it short for whoever reads it as a C
 * string, so that "me\u0000you" were "me". */
static yajl_val part_object(const char *part, size_t len)
{
    unsigned char text[JWT_MAX_TOKEN];
    char err[64];
    size_t n;

    if (!base64url_decode(part, len, text, &n) || n == 0 || memmem(text, n, "\\u0000", 6) != NULL)
        return NULL;
    yajl_val v = json_parse((const char *)text, n, sizeof(text), err, sizeof(err));
    if (v != NULL && (!YAJL_IS_OBJECT(v) || !members_once(v)))
        json_free(&v);
    return v;
}

/* ------------------------------------------------------------ checks */

static enum jwt_result check_header(yajl_val header, char kid[JWT_MAX_KID + 1])
{
    const char *alg = json_str(header, "alg"), *id = json_str(header, "kid"), *typ = json_str(header, "typ");

    if (alg == NULL || strcmp(alg, ALGORITHM) != 0 || json_get(header, "crit") != NULL)
        return JWT_ALGORITHM;
    if (json_get(header, "typ") != NULL && (typ == NULL || strcasecmp(typ, "JWT") != 0))
        return JWT_MALFORMED;
    if (id == NULL || id[0] == '\0' || strlen(id) > JWT_MAX_KID)
        return JWT_MALFORMED;
    memcpy(kid, id, strlen(id) + 1);
    return JWT_OK;
}

/* 1: read, 0: absent, -1: no time. */
static int time_claim(yajl_val claims, const char *name, double *out)
{
    yajl_val v = json_get(claims, name);

    if (v == NULL)
        return 0;
    if (!YAJL_IS_NUMBER(v))
        return -1;
    *out = json_num(claims, name, -1);
    return *out >= 0 && *out <= MAX_TIME ? 1 : -1;
}

static enum jwt_result check_times(yajl_val claims, const struct jwt_expect *expect)
{
    static const char *const past[] = {"iat", "auth_time", "nbf"};
    double at = 0, now = (double)expect->now_s, leeway = (double)expect->leeway_s;
    enum jwt_result result = JWT_OK;

    if (time_claim(claims, "exp", &at) != 1)
        return JWT_MALFORMED;
    if (now >= at + leeway)
        result = JWT_EXPIRED;
    for (size_t i = 0; i < ARRAY_LEN(past); i++) {
        int there = time_claim(claims, past[i], &at);
        if (there < 0 || (there == 0 && i == 0)) /* iat must be there */
            return JWT_MALFORMED;
        if (there == 1 && at > now + leeway && result == JWT_OK)
            result = JWT_NOT_YET;
    }
    return result;
}

static enum jwt_result check_claims(yajl_val claims, const struct jwt_expect *expect, char subject[JWT_MAX_SUBJECT + 1])
{
    const char *iss = json_str(claims, "iss"), *aud = json_str(claims, "aud"), *sub = json_str(claims, "sub");

    if (iss == NULL || aud == NULL || sub == NULL)
        return JWT_MALFORMED;
    if (strcmp(iss, expect->issuer) != 0)
        return JWT_ISSUER;
    if (strcmp(aud, expect->audience) != 0)
        return JWT_AUDIENCE;
    if (!jwt_uid_valid(sub, strlen(sub)))
        return JWT_SUBJECT;
    memcpy(subject, sub, strlen(sub) + 1);
    return check_times(claims, expect);
}

static enum jwt_result check_signature(const char *token, size_t signed_len, const char *part, size_t len,
                                       EVP_PKEY *key)
{
    unsigned char sig[JWT_MAX_RSA_BITS / 8 + 3];

    if (len > (sizeof(sig) - 3) * 4 / 3 + 2)
        return JWT_SIGNATURE;
    size_t n;
    EVP_MD_CTX *ctx = base64url_decode(part, len, sig, &n) && n > 0 ? EVP_MD_CTX_new() : NULL;
    /* RSA's padding is PKCS#1 v1.5 unless told otherwise: RS256. */
    bool ok = ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
              EVP_DigestVerify(ctx, sig, n, (const unsigned char *)token, signed_len) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return ok ? JWT_OK : JWT_SIGNATURE;
}

/* Header and claims; kid and subject are filled. */
static enum jwt_result check_parts(const char *token, const char *dot, const char *dot2,
                                   const struct jwt_expect *expect, char kid[JWT_MAX_KID + 1],
                                   char subject[JWT_MAX_SUBJECT + 1])
{
    yajl_val header = part_object(token, (size_t)(dot - token));
    enum jwt_result result = header != NULL ? check_header(header, kid) : JWT_MALFORMED;

    json_free(&header);
    if (result != JWT_OK)
        return result;
    yajl_val claims = part_object(dot + 1, (size_t)(dot2 - dot - 1));
    result = claims != NULL ? check_claims(claims, expect, subject) : JWT_MALFORMED;
    json_free(&claims);
    return result;
}

enum jwt_result jwt_check(const char *token, size_t len, const struct jwt_expect *expect, const struct jwt_keys *keys,
                          char subject[JWT_MAX_SUBJECT + 1])
{
    char kid[JWT_MAX_KID + 1], sub[JWT_MAX_SUBJECT + 1];

    subject[0] = '\0';
    if (len > JWT_MAX_TOKEN)
        return JWT_TOO_LONG;
    const char *dot = memchr(token, '.', len);
    const char *dot2 = dot != NULL ? memchr(dot + 1, '.', len - (size_t)(dot + 1 - token)) : NULL;
    if (dot2 == NULL)
        return JWT_MALFORMED;
    enum jwt_result result = check_parts(token, dot, dot2, expect, kid, sub);
    if (result != JWT_OK)
        return result;
    EVP_PKEY *key = keys != NULL ? jwt_keys_find(keys, kid) : NULL;
    if (key == NULL)
        return JWT_UNKNOWN_KEY;
    size_t signed_len = (size_t)(dot2 - token);
    result = check_signature(token, signed_len, dot2 + 1, len - signed_len - 1, key);
    if (result == JWT_OK)
        memcpy(subject, sub, strlen(sub) + 1);
    return result;
}
