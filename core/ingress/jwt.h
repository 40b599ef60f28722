/*
 * Id tokens: JSON Web Tokens (RFC 7519) in compact form, signed with RS256 and nothing else. Pure: the key set and the
 * time are passed in. Any thread.
 *
 * The algorithm is ours, never the token's: a header that names another one is a fault before any key is looked at.
 */
#ifndef OMID_INGRESS_JWT_H
#define OMID_INGRESS_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JWT_MAX_TOKEN 8192u       /* bytes */
#define JWT_MAX_KID 128u          /* bytes */
#define JWT_MAX_SUBJECT 128u      /* bytes */
#define JWT_MAX_MEMBERS 64u       /* of the header, and of the claims */
#define JWT_MAX_KEYS 64u          /* of a set */
#define JWT_MAX_KEYS_TEXT 262144u /* bytes of a set's JSON */
#define JWT_MIN_RSA_BITS 2048     /* weaker keys are refused */
#define JWT_MAX_RSA_BITS 8192     /* what verifying may cost is bounded */

/* ---- key sets (JWK Set, RFC 7517) ---- */
/* Immutable and counted: one set is read by many threads. */
struct jwt_keys;
/* Takes the RSA keys that can sign RS256 (kty RSA; use sig and alg RS256 where they say; with a kid). Others are left
 * out and counted in *refused. NULL with a reason in err: no JSON, no "keys" array, too many keys, a kid twice, or none
 * left. */
struct jwt_keys *jwt_keys_parse(const char *json, size_t len, unsigned *refused, char *err, size_t errlen);
struct jwt_keys *jwt_keys_ref(const struct jwt_keys *keys);
void jwt_keys_free(struct jwt_keys **keys); /* one holder less */
size_t jwt_keys_count(const struct jwt_keys *keys);

/* ---- tokens ---- */
enum jwt_result {
    JWT_OK,
    JWT_TOO_LONG,
    JWT_MALFORMED, /* not three parts in base64url with JSON objects; a member twice, of the wrong type, or missing */
    JWT_ALGORITHM, /* not RS256, or extensions that must be understood */
    JWT_ISSUER,
    JWT_AUDIENCE,
    JWT_SUBJECT, /* empty, too long, or with characters no uid has */
    JWT_EXPIRED,
    JWT_NOT_YET,     /* iat, auth_time or nbf lies in the future */
    JWT_UNKNOWN_KEY, /* all of the above is fine; no key of this kid */
    JWT_SIGNATURE,
    JWT_RESULTS
};
const char *jwt_result_name(enum jwt_result result); /* "ok", "too_long", ...: a metric's label */

struct jwt_expect {
    const char *audience, *issuer; /* not NULL */
    int64_t now_s;                 /* Unix */
    int64_t leeway_s;              /* for every time */
};
/* Checks everything but the key first: a stranger's token costs no signature check, nor a look for new keys. keys may
 * be NULL (JWT_UNKNOWN_KEY then). JWT_OK: subject has the uid. */
enum jwt_result jwt_check(const char *token, size_t len, const struct jwt_expect *expect, const struct jwt_keys *keys,
                          char subject[JWT_MAX_SUBJECT + 1]);

/* What a uid may look like, whoever vouches for it: 1 to JWT_MAX_SUBJECT of A-Z a-z 0-9 _ . : @ - */
bool jwt_uid_valid(const char *uid, size_t len);

#endif
