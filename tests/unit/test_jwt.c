/* Id tokens and key sets: what is taken, and everything that is not. Keys are made here. */
#include <openssl/hmac.h>

#include "base/base64.h"
#include "base/json.h"
#include "base/magic.h"
#include "ingress/greeting.h"
#include "ingress/jwt.h"
#include "jwt_rig.h"
#include "unit.h"

#define NOW INT64_C(1800000000)
#define HEADER "{\"alg\":\"RS256\",\"kid\":\"one\",\"typ\":\"JWT\"}"
#define CLAIMS(more)                                                                                       \
    "{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"alice\",\"iat\":1799999000,\"exp\":1800003000," \
    "\"auth_time\":1799990000" more "}"

static EVP_PKEY *one, *two, *small;
static struct jwt_keys *keys;

static int make_keys(void)
{
    char a[6000], b[6000], set[16000], err[128];
    unsigned refused;
    one = EVP_RSA_gen(2048);
    two = EVP_RSA_gen(3072);
    small = EVP_RSA_gen(1024);
    rig_jwk(one, "one", a, sizeof(a));
    rig_jwk(two, "two", b, sizeof(b));
    snprintf(set, sizeof(set), "{\"keys\":[%s,%s]}", a, b);
    keys = jwt_keys_parse(set, strlen(set), &refused, err, sizeof(err));
    return keys == NULL || refused != 0;
}

static int drop_keys(void)
{
    jwt_keys_free(&keys);
    EVP_PKEY_free(one);
    EVP_PKEY_free(two);
    EVP_PKEY_free(small);
    return 0;
}

/* The token in memory of exactly its size, so that a sanitizer sees a byte too many. */
static enum jwt_result check_at(const char *token, size_t len, int64_t now, const struct jwt_keys *with, char *sub)
{
    struct jwt_expect expect = {.audience = "p", .issuer = "https://issuer/p", .now_s = now, .leeway_s = 60};
    char *exact = malloc(len + (len == 0));
    memcpy(exact, token, len);
    enum jwt_result result = jwt_check(exact, len, &expect, with, sub);
    free(exact);
    return result;
}

static enum jwt_result check(const char *token)
{
    char sub[JWT_MAX_SUBJECT + 1];
    enum jwt_result result = check_at(token, strlen(token), NOW, keys, sub);
    CU_ASSERT(result == JWT_OK || sub[0] == '\0');
    return result;
}

static void test_good(void)
{
    char sub[JWT_MAX_SUBJECT + 1];
    const char *token = rig_token(HEADER, CLAIMS(""), one);
    CU_ASSERT_EQUAL(check_at(token, strlen(token), NOW, keys, sub), JWT_OK);
    CU_ASSERT_STRING_EQUAL(sub, "alice");
    CU_ASSERT_EQUAL(check(rig_token("{\"kid\":\"two\",\"alg\":\"RS256\"}", CLAIMS(""), two)), JWT_OK);
    CU_ASSERT_EQUAL(check(rig_token(HEADER, CLAIMS(",\"firebase\":{\"sign_in_provider\":\"x\"},\"x\":[1,[2]]"), one)),
                    JWT_OK);
    /* No auth_time: not every issuer has it. */
    CU_ASSERT_EQUAL(check(rig_token(HEADER,
                                    "{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1799999000.5,"
                                    "\"exp\":1.8000030e9}",
                                    one)),
                    JWT_OK);
}

static void test_claims(void)
{
    static const struct {
        const char *claims;
        enum jwt_result result;
    } table[] = {
        {CLAIMS(",\"nbf\":1800000061"), JWT_NOT_YET},
        {CLAIMS(",\"nbf\":1800000060"), JWT_OK},
        {CLAIMS(",\"nbf\":\"now\""), JWT_MALFORMED},
        {CLAIMS(",\"sub\":\"mallory\""), JWT_MALFORMED}, /* twice */
        {CLAIMS(",\"exp\":1900000000"), JWT_MALFORMED},
        {CLAIMS(",\"su\\u0062\":\"mallory\""), JWT_MALFORMED}, /* the same name, written otherwise */
        {CLAIMS(",\"x\":\"\\u0000\""), JWT_MALFORMED},
        {CLAIMS(",\"x\":\"\xff\""), JWT_MALFORMED},
        {CLAIMS(",\"x\":"), JWT_MALFORMED},
        {"{}", JWT_MALFORMED},
        {"[]", JWT_MALFORMED},
        {"\"sub\"", JWT_MALFORMED},
        {"null", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/q\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_ISSUER},
        {"{\"iss\":\"https://issuer/p/\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_ISSUER},
        {"{\"iss\":[\"https://issuer/p\"],\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"q\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_AUDIENCE},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"P\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_AUDIENCE},
        {"{\"iss\":\"https://issuer/p\",\"aud\":[\"p\"],\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"\",\"iat\":1,\"exp\":1800003000}", JWT_SUBJECT},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a b\",\"iat\":1,\"exp\":1800003000}", JWT_SUBJECT},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"../a\",\"iat\":1,\"exp\":1800003000}", JWT_SUBJECT},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\\u0000b\",\"iat\":1,\"exp\":1800003000}",
         JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":7,\"iat\":1,\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"iat\":1,\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1799999940}", JWT_EXPIRED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1799999941}",
         JWT_OK}, /* leeway */
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":\"1800003000\"}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1e999}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1e300}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":-1}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"exp\":1800003000}", JWT_MALFORMED},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1800000060,\"exp\":1800003000}", JWT_OK},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1800000061,\"exp\":1800003000}",
         JWT_NOT_YET},
        {"{\"iss\":\"https://issuer/"
         "p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000,\"auth_time\":1800000061}",
         JWT_NOT_YET},
        {"{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"a\",\"iat\":1,\"exp\":1800003000,\"auth_time\":null}",
         JWT_MALFORMED},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        enum jwt_result result = check(rig_token(HEADER, table[i].claims, one));
        if (result != table[i].result)
            printf("\n%s: %s\n", table[i].claims, jwt_result_name(result));
        CU_ASSERT_EQUAL(result, table[i].result);
    }
    char sub[400], claims[800];
    memset(sub, 'u', sizeof(sub));
    for (size_t len = JWT_MAX_SUBJECT; len <= JWT_MAX_SUBJECT + 1; len++) {
        snprintf(claims, sizeof(claims),
                 "{\"iss\":\"https://issuer/p\",\"aud\":\"p\",\"sub\":\"%.*s\",\"iat\":1,\"exp\":1800003000}", (int)len,
                 sub);
        CU_ASSERT_EQUAL(check(rig_token(HEADER, claims, one)), len > JWT_MAX_SUBJECT ? JWT_SUBJECT : JWT_OK);
    }
}

static void test_header(void)
{
    static const struct {
        const char *header;
        enum jwt_result result;
    } table[] = {
        {"{\"alg\":\"none\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"None\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"HS256\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"RS512\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"PS256\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"rs256\",\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":[\"RS256\"],\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"kid\":\"one\"}", JWT_ALGORITHM},
        {"{\"alg\":\"RS256\",\"alg\":\"none\",\"kid\":\"one\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"one\",\"kid\":\"two\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"one\",\"crit\":[\"b64\"],\"b64\":false}", JWT_ALGORITHM},
        {"{\"alg\":\"RS256\",\"kid\":\"one\",\"typ\":\"JWE\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"one\",\"typ\":7}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"one\",\"typ\":\"jwt\"}", JWT_OK},
        {"{\"alg\":\"RS256\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":1}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"one\\u0000two\"}", JWT_MALFORMED},
        {"{\"alg\":\"RS256\",\"kid\":\"two\"}", JWT_SIGNATURE}, /* another key's */
        {"{\"alg\":\"RS256\",\"kid\":\"three\"}", JWT_UNKNOWN_KEY},
        {"{\"alg\":\"RS256\",\"kid\":\"ONE\"}", JWT_UNKNOWN_KEY},
        {"{\"alg\":\"RS256\",\"kid\":\"../../etc/passwd\"}", JWT_UNKNOWN_KEY},
        {" {\"alg\":\"RS256\",\"kid\":\"one\"} ", JWT_OK},
        {"{\"alg\":\"RS256\",\"kid\":\"one\"}x", JWT_MALFORMED},
        {"/**/{\"alg\":\"RS256\",\"kid\":\"one\"}", JWT_MALFORMED},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        enum jwt_result result = check(rig_token(table[i].header, CLAIMS(""), one));
        if (result != table[i].result)
            printf("\n%s: %s\n", table[i].header, jwt_result_name(result));
        CU_ASSERT_EQUAL(result, table[i].result);
    }
    char header[800];
    for (int len = JWT_MAX_KID; len <= (int)JWT_MAX_KID + 1; len++) {
        snprintf(header, sizeof(header), "{\"alg\":\"RS256\",\"kid\":\"%0*d\"}", len, 0);
        CU_ASSERT_EQUAL(check(rig_token(header, CLAIMS(""), one)),
                        len > (int)JWT_MAX_KID ? JWT_MALFORMED : JWT_UNKNOWN_KEY);
    }
    CU_ASSERT_EQUAL(check(rig_token("{\"alg\":\"none\",\"kid\":\"one\"}", CLAIMS(""), NULL)), JWT_ALGORITHM);
    CU_ASSERT_EQUAL(check(rig_token(HEADER, CLAIMS(""), NULL)), JWT_SIGNATURE);
}

/* The attack on libraries that let the token choose: the public key as the secret of an HMAC. */
static void test_hmac(void)
{
    char jwk[6000], token[8000];
    unsigned char mac[32];
    rig_jwk(one, "one", jwk, sizeof(jwk));
    static const char *const headers[] = {"{\"alg\":\"HS256\",\"kid\":\"one\"}", HEADER};
    for (size_t i = 0; i < 2; i++) {
        snprintf(token, sizeof(token), "%s", rig_token(headers[i], CLAIMS(""), NULL));
        HMAC(EVP_sha256(), jwk, (int)strlen(jwk), (unsigned char *)token, strlen(token) - 1, mac, NULL);
        rig_base64url(mac, sizeof(mac), token + strlen(token));
        CU_ASSERT_EQUAL(check(token), i == 0 ? JWT_ALGORITHM : JWT_SIGNATURE);
    }
}

static void test_signature(void)
{
    char token[8000], other[8000];
    snprintf(token, sizeof(token), "%s", rig_token(HEADER, CLAIMS(""), one));
    size_t len = strlen(token), sig_at = (size_t)(strrchr(token, '.') - token) + 1;
    /* Not one bit may change; the last digit of 342 has two stray bits. */
    for (size_t i = sig_at; i < len; i += 7) {
        memcpy(other, token, len + 1);
        other[i] = other[i] == 'A' ? 'B' : 'A';
        CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
    }
    memcpy(other, token, len + 1);
    other[len - 1] = other[len - 1] == 'A' ? 'B' : (char)(other[len - 1] + 1);
    CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
    for (size_t i = 0; i < sig_at; i++) {
        memcpy(other, token, len + 1);
        other[i] = other[i] == 'x' ? 'y' : 'x';
        CU_ASSERT_NOT_EQUAL(check(other), JWT_OK);
    }
    for (size_t cut = 0; cut < len; cut++) {
        char sub[JWT_MAX_SUBJECT + 1];
        CU_ASSERT_NOT_EQUAL(check_at(token, cut, NOW, keys, sub), JWT_OK);
    }
    snprintf(other, sizeof(other), "%s=", token);
    CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
    snprintf(other, sizeof(other), "%sAAAA", token);
    CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
    snprintf(other, sizeof(other), "%s.x", token);
    CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
    CU_ASSERT_EQUAL(check(rig_token(HEADER, CLAIMS(""), two)), JWT_SIGNATURE);
    memset(other, 'A', sizeof(other));
    snprintf(other, sizeof(other), "%.*s", (int)sig_at, token);
    memset(other + sig_at, 'A', 6000);
    other[sig_at + 6000] = '\0';
    CU_ASSERT_EQUAL(check(other), JWT_SIGNATURE);
}

static void test_garbage(void)
{
    static const char *const garbage[] = {"",
                                          ".",
                                          "..",
                                          "...",
                                          "a.b.c",
                                          "e30.e30.",
                                          "e30.e30.e30",
                                          " e30.e30.e30",
                                          "e30=.e30.e30",
                                          "eyJ.eyJ.eyJ",
                                          "\xff.\xff.\xff",
                                          "e30.e30",
                                          "e3\n0.e30.e30",
                                          "e31.e30.e30"};
    for (size_t i = 0; i < ARRAY_LEN(garbage); i++)
        CU_ASSERT_NOT_EQUAL(check(garbage[i]), JWT_OK);
    static char deep[6000], big[JWT_MAX_TOKEN + 2];
    memset(deep, '[', 3000);
    CU_ASSERT_EQUAL(check(rig_token(deep, CLAIMS(""), one)), JWT_MALFORMED);
    CU_ASSERT_EQUAL(check(rig_token(HEADER, deep, one)), JWT_MALFORMED);
    for (size_t i = 0; i < 999; i++) /* {"a":{"a":... */
        memcpy(deep + i * 5, "{\"a\":", 6);
    CU_ASSERT_EQUAL(check(rig_token(HEADER, deep, one)), JWT_MALFORMED);
    memset(big, 'A', sizeof(big) - 1);
    CU_ASSERT_EQUAL(check(big), JWT_TOO_LONG);
    big[JWT_MAX_TOKEN] = '\0';
    CU_ASSERT_EQUAL(check(big), JWT_MALFORMED);
    char many[6000] = "{\"alg\":\"RS256\",\"kid\":\"one\"";
    for (unsigned i = 0; i < JWT_MAX_MEMBERS; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), ",\"m%u\":0", i);
    strcat(many, "}");
    CU_ASSERT_EQUAL(check(rig_token(many, CLAIMS(""), one)), JWT_MALFORMED);
    /* A valid signature does not help nonsense: bytes at random, signed. */
    unsigned char bytes[64];
    srand(7);
    for (int i = 0; i < 2000; i++) {
        for (size_t k = 0; k < sizeof(bytes); k++)
            bytes[k] = (unsigned char)rand();
        CU_ASSERT_NOT_EQUAL(check(rig_token_of((char *)bytes, 32, (char *)bytes + 32, 32, NULL)), JWT_OK);
    }
}

static void test_base64url(void)
{
    static const struct {
        const char *in;
        ptrdiff_t len;
    } table[] = {{"", 0},       {"A", -1},   {"AA", 1},    {"AB", -1},   {"AAA", 2},   {"AAB", -1},  {"AAAA", 3},
                 {"AAAAA", -1}, {"-_-_", 3}, {"+/+/", -1}, {"AA==", -1}, {"AA A", -1}, {"AA\nA", -1}};
    unsigned char out[16], bytes[256], back[256];
    char text[400];
    size_t len;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        bool taken = base64url_decode(table[i].in, strlen(table[i].in), out, &len);
        CU_ASSERT_EQUAL(taken ? (ptrdiff_t)len : -1, table[i].len);
    }
    for (size_t n = 0; n < sizeof(bytes); n++) {
        for (size_t k = 0; k < n; k++)
            bytes[k] = (unsigned char)(k * 37 + n);
        rig_base64url(bytes, n, text);
        CU_ASSERT_TRUE(base64url_decode(text, strlen(text), back, &len));
        CU_ASSERT_EQUAL(len, n);
        CU_ASSERT_EQUAL(memcmp(back, bytes, n), 0);
    }
}

static void test_keys(void)
{
    char jwk[6000], weak[6000], set[20000], err[128];
    unsigned refused;
    rig_jwk(one, "one", jwk, sizeof(jwk));
    rig_jwk(small, "small", weak, sizeof(weak));
    static const struct {
        const char *format; /* @: a good key, #: a weak one */
        size_t keys;
        unsigned refused;
        const char *err; /* in the reason; NULL: taken */
    } table[] = {
        {"{\"keys\":[@]}", 1, 0, NULL},
        {"{\"x\":1,\"keys\":[@,{},7,null,\"x\",{\"kty\":\"EC\",\"kid\":\"e\"}]}", 1, 5, NULL},
        {"{\"keys\":[@,#]}", 1, 1, NULL},
        {"{\"keys\":[#]}", 0, 1, "2048"},
        {"{\"keys\":[@,@]}", 0, 0, "two keys"},
        {"{\"keys\":[]}", 0, 0, "none"},
        {"{\"keys\":{}}", 0, 0, "array"},
        {"{\"keys\":\"x\"}", 0, 0, "array"},
        {"[@]", 0, 0, "array"},
        {"{}", 0, 0, "array"},
        {"", 0, 0, ""},
        {"<html>", 0, 0, ""},
        {"{\"keys\":[@]", 0, 0, ""},
        {"{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"\",\"e\":\"AQAB\"}]}", 0, 1, "none"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":7,\"e\":\"AQAB\"}]}", 0, 1, "none"},
        {"{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"a\",\"n\":\"!!!\",\"e\":\"AQAB\"}]}", 0, 1, "none"},
        {"{\"keys\":[{\"kty\":[\"RSA\"],\"kid\":\"a\"}]}", 0, 1, "none"},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        size_t at = 0;
        for (const char *f = table[i].format; *f != '\0'; f++)
            at += (size_t)snprintf(set + at, sizeof(set) - at, "%.*s", *f == '@' || *f == '#' ? 5999 : 1,
                                   *f == '@'   ? jwk
                                   : *f == '#' ? weak
                                               : f);
        struct jwt_keys *k = jwt_keys_parse(set, strlen(set), &refused, err, sizeof(err));
        bool as_wanted = table[i].err == NULL ? k != NULL && jwt_keys_count(k) == table[i].keys
                                              : k == NULL && err[0] != '\0' && strstr(err, table[i].err) != NULL;
        if (!as_wanted || refused != table[i].refused)
            printf("\n%.200s: %s, %u refused: %s\n", table[i].format, k != NULL ? "taken" : "not taken", refused, err);
        CU_ASSERT(as_wanted && refused == table[i].refused);
        jwt_keys_free(&k);
    }
}

/* For other uses, of other strength, or by an exponent that protects nothing. */
static void test_keys_unfit(void)
{
    char n[4096], set[20000], err[128], jwk[6000];
    unsigned refused;
    rig_number(one, OSSL_PKEY_PARAM_RSA_N, n);
    static const char *const members[] = {
        "\"kid\":\"a\",\"e\":\"AQAB\",\"use\":\"enc\"",
        "\"kid\":\"a\",\"e\":\"AQAB\",\"alg\":\"RS512\"",
        "\"kid\":\"a\",\"e\":\"AQAB\",\"use\":[\"sig\"]",
        "\"kid\":\"\",\"e\":\"AQAB\"",
        "\"e\":\"AQAB\"",
        "\"kid\":7,\"e\":\"AQAB\"",
        "\"kid\":\"a\",\"e\":\"AQ\"",
        "\"kid\":\"a\",\"e\":\"AA\"",
        "\"kid\":\"a\",\"e\":\"Ag\"",
        "\"kid\":\"a\",\"e\":\"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQ\"",
        "\"kid\":\"a\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        snprintf(set, sizeof(set), "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"%s\",%s}]}", n, members[i]);
        struct jwt_keys *k = jwt_keys_parse(set, strlen(set), &refused, err, sizeof(err));
        if (k != NULL)
            printf("\n%s: taken\n", members[i]);
        CU_ASSERT_PTR_NULL(k);
        CU_ASSERT_EQUAL(refused, 1);
        jwt_keys_free(&k);
    }
    /* Too many. */
    rig_jwk(one, "k", jwk, sizeof(jwk));
    size_t size = (JWT_MAX_KEYS + 2) * sizeof(jwk), at;
    char *many = malloc(size);
    at = (size_t)sprintf(many, "{\"keys\":[%s", jwk);
    for (unsigned i = 0; i < JWT_MAX_KEYS; i++)
        at += (size_t)sprintf(many + at, ",%s", jwk);
    sprintf(many + at, "]}");
    CU_ASSERT_PTR_NULL(jwt_keys_parse(many, strlen(many), &refused, err, sizeof(err)));
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "more than"));
    free(many);
    /* Counted: the last holder frees. */
    struct jwt_keys *again = jwt_keys_ref(keys);
    jwt_keys_free(&again);
    CU_ASSERT_PTR_NULL(again);
    CU_ASSERT_EQUAL(jwt_keys_count(keys), 2);
    CU_ASSERT_EQUAL(check_at("", 0, NOW, NULL, set), JWT_MALFORMED);
    const char *token = rig_token(HEADER, CLAIMS(""), one);
    CU_ASSERT_EQUAL(check_at(token, strlen(token), NOW, NULL, set), JWT_UNKNOWN_KEY);
}

/* ------------------------------------------------------------ the first message */

static void test_greeting(void)
{
    static const struct {
        const char *message, *fault, *token;
    } table[] = {
        {"{\"type\":\"auth\",\"token\":\"x\"}", NULL, "x"},
        {" {\"more\":[1],\"token\":\"a.b.c\",\"type\":\"auth\"} ", NULL, "a.b.c"},
        {"", "Expected JSON auth message", NULL},
        {"auth", "Expected JSON auth message", NULL},
        {"{\"type\":\"auth\"", "Expected JSON auth message", NULL},
        {"\xff", "Expected JSON auth message", NULL},
        {"[]", "First message must be auth", NULL},
        {"{\"token\":\"x\"}", "First message must be auth", NULL},
        {"{\"type\":\"auth\"}", "Missing token", NULL},
        {"{\"type\":\"auth\",\"token\":\"\"}", "Missing token", NULL},
        {"{\"type\":\"auth\",\"token\":null}", "Missing token", NULL},
        {"{\"type\":\"auth\",\"token\":true}", "Invalid token", NULL},
    };
    struct greeting g;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const char *fault = greeting_parse(true, table[i].message, strlen(table[i].message), &g);
        CU_ASSERT(table[i].fault == NULL ? fault == NULL : fault != NULL && strcmp(fault, table[i].fault) == 0);
        CU_ASSERT(table[i].token == NULL || (g.token != NULL && strcmp(g.token, table[i].token) == 0));
        greeting_free(&g);
        greeting_free(&g);
    }
    CU_ASSERT_STRING_EQUAL(greeting_parse(false, table[0].message, strlen(table[0].message), &g),
                           "Expected JSON auth message"); /* as a binary frame */
    greeting_free(&g);
}

int main(void)
{
    CU_TestInfo tokens[] = {
        {"good ones", test_good},      {"claims", test_claims},   {"header", test_header},       {"HMAC", test_hmac},
        {"signature", test_signature}, {"garbage", test_garbage}, {"base64url", test_base64url}, CU_TEST_INFO_NULL};
    CU_TestInfo sets[] = {{"sets", test_keys}, {"unfit keys", test_keys_unfit}, CU_TEST_INFO_NULL};
    CU_TestInfo greetings[] = {{"first messages", test_greeting}, CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"greeting", NULL, NULL, NULL, NULL, greetings},
                             {"tokens", make_keys, drop_keys, NULL, NULL, tokens},
                             {"key sets", make_keys, drop_keys, NULL, NULL, sets},
                             CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
