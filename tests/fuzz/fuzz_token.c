/* What says who a client is, as strangers write it: id tokens, the web client's first message, X-Forwarded-For; and the
 * issuer's key sets. The first byte chooses. Nobody gets in without a signature. */
#include <string.h>

#include "base/magic.h"
#include "fuzz.h"
#include "ingress/greeting.h"
#include "ingress/jwk.h"
#include "ingress/jwt.h"
#include "ingress/proxy.h"

static const struct jwt_expect expect = {.audience = "p", .issuer = "i", .now_s = 1800000000, .leeway_s = 60};

/* The set as a key's text; parsed once. */
static const struct jwt_keys *keys(void)
{
    static const char set[] =
        "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"e\":\"AQAB\",\"n\":\""
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok"
        "njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_"
        "FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
        "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awap"
        "JzKnqDKgw\"}]}";
    static struct jwt_keys *made;
    unsigned refused;
    char err[128];
    if (made == NULL)
        made = jwt_keys_parse(set, sizeof(set) - 1, &refused, err, sizeof(err));
    FUZZ_CHECK(made != NULL);
    return made;
}

static void one_token(const char *token, size_t len)
{
    char subject[JWT_MAX_SUBJECT + 1];
    enum jwt_result without = jwt_check(token, len, &expect, NULL, subject);
    enum jwt_result result = jwt_check(token, len, &expect, keys(), subject);
    FUZZ_CHECK(result != JWT_OK && without != JWT_OK && without != JWT_SIGNATURE && subject[0] == '\0');
    FUZZ_CHECK(jwt_result_name(result)[0] != '\0');
}

static size_t encode(const uint8_t *in, size_t len, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v =
            (uint32_t)in[i] << 16 | (i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0) | (i + 2 < len ? in[i + 2] : 0);
        for (size_t k = 0; k < 4 && i + k < len + 1; k++)
            out[n++] = digits[v >> (18 - 6 * k) & 63];
    }
    return n;
}

/* Header, a line feed, claims: what a mutation of base64 would seldom reach. */
static void one_pair(const uint8_t *data, size_t size)
{
    const uint8_t *nl = memchr(data, '\n', size);
    char *token = malloc(size * 2 + 32);
    FUZZ_CHECK(token != NULL);
    size_t header = nl != NULL ? (size_t)(nl - data) : size, n = encode(data, header, token);
    token[n++] = '.';
    if (nl != NULL)
        n += encode(nl + 1, size - header - 1, token + n);
    memcpy(token + n, ".AAAA", 5);
    one_token(token, n + 5);
    free(token);
}

static void one_set(const char *text, size_t len)
{
    char err[128];
    unsigned refused;
    struct jwt_keys *set = jwt_keys_parse(text, len, &refused, err, sizeof(err));
    FUZZ_CHECK(set != NULL ? jwt_keys_count(set) >= 1 && jwt_keys_count(set) <= JWT_MAX_KEYS : err[0] != '\0');
    jwt_keys_free(&set);
}

static void one_greeting(const char *text, size_t len)
{
    struct greeting g;
    const char *fault = greeting_parse(true, text, len, &g);
    FUZZ_CHECK(fault != NULL || (g.len > 0 && strlen(g.token) == g.len));
    greeting_free(&g);
}

static void one_forwarded(const char *text, size_t len)
{
    char *nets[] = {"10.0.0.0/8", "2001:db8::/32"};
    struct conf_list list = {nets, ARRAY_LEN(nets)};
    struct proxy_list proxies;
    struct proxy_value value = {text, len};
    struct cidr_addr peer, client;
    char out[CIDR_TEXT];
    proxy_list_set(&proxies, &list);
    FUZZ_CHECK(proxies.n == 2 && cidr_addr_parse("10.0.0.1", 8, &peer));
    client = proxy_client(&proxies, &peer, &value, 1);
    cidr_addr_format(&client, out);
    FUZZ_CHECK(cidr_addr_parse(out, strlen(out), &peer) && memcmp(&peer, &client, sizeof(peer)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    switch (data[0]) {
    case 't':
        one_token(text, size - 1);
        break;
    case 'p':
        one_pair(data + 1, size - 1);
        break;
    case 'k':
        one_set(text, size - 1);
        break;
    case 'g':
        one_greeting(text, size - 1);
        break;
    case 'f':
        one_forwarded(text, size - 1);
        break;
    default:
        break;
    }
    return 0;
}
