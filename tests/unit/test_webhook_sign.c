/* Signatures of deliveries against the published test vector, and what is a secret. */
#include <stdlib.h>
#include <string.h>

#include "../../plugins/webhooks/sign.h"
#include "unit.h"

/* The reference vector of Standard Webhooks. */
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define ID "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define AT 1614265330
#define BODY "{\"test\": 2432232314}"
#define SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

static void the_published_vector(void)
{
    struct sign_key key;
    char value[SIGN_VALUE_MAX];
    CU_ASSERT_PTR_NULL_FATAL(sign_key_read(SECRET, &key));
    struct signer *s = signer_new(&key, 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    for (int i = 0; i < 3; i++) { /* a signer is used again and again */
        CU_ASSERT_TRUE(signer_sign(s, ID, AT, BODY, strlen(BODY), value));
        CU_ASSERT_STRING_EQUAL(value, SIGNATURE);
        CU_ASSERT_TRUE(signer_sign(s, "other", AT, "", 0, value));
        CU_ASSERT_STRING_NOT_EQUAL(value, SIGNATURE);
    }
    signer_free(&s);
    CU_ASSERT_PTR_NULL(s);
}

static void every_key_signs(void)
{
    struct sign_key key[2];
    char both[SIGN_VALUE_MAX], one[SIGN_VALUE_MAX];
    CU_ASSERT_PTR_NULL_FATAL(sign_key_read("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &key[0]));
    CU_ASSERT_PTR_NULL_FATAL(sign_key_read(SECRET, &key[1]));
    struct signer *s = signer_new(key, 2), *first = signer_new(key, 1);
    CU_ASSERT_TRUE(signer_sign(s, ID, AT, BODY, strlen(BODY), both));
    CU_ASSERT_TRUE(signer_sign(first, ID, AT, BODY, strlen(BODY), one));
    CU_ASSERT_EQUAL(strlen(both), 2 * strlen(SIGNATURE) + 1);
    CU_ASSERT_EQUAL(strncmp(both, one, strlen(one)), 0);
    CU_ASSERT_EQUAL(both[strlen(one)], ' ');
    CU_ASSERT_STRING_EQUAL(both + strlen(one) + 1, SIGNATURE);
    signer_free(&s);
    signer_free(&first);
}

/* "whsec_" and n zero bytes in base64. */
static char *secret_of(size_t n)
{
    size_t chars = (n + 2) / 3 * 4;
    char *s = malloc(6 + chars + 1);
    memcpy(s, "whsec_", 6);
    memset(s + 6, 'A', chars);
    if (n % 3 != 0)
        s[6 + chars - 1] = '=';
    if (n % 3 == 1)
        s[6 + chars - 2] = '=';
    s[6 + chars] = '\0';
    return s;
}

static void secrets_are_checked(void)
{
    static const char *const bad[] = {
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",      /* no multiple of four */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS\n",    /* a blank within */
        "whsec_ MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",    /* before it */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La-aSw",     /* the other alphabet */
        "whsec_MfKQ9r8GKYqrTwj=PD8ILPZIo2LaLaSw",     /* padding within */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwA===", /* too much of it */
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAA=A",
    };
    struct sign_key key;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *why = sign_key_read(bad[i], &key);
        CU_ASSERT_PTR_NOT_NULL(why);
        CU_ASSERT_TRUE(why != NULL && strncmp(why, "expected", 8) == 0);
    }
    for (size_t n = 1; n <= 80; n++) {
        char *s = secret_of(n);
        key.len = 0;
        CU_ASSERT_EQUAL(sign_key_read(s, &key) == NULL, n >= SIGN_KEY_MIN && n <= SIGN_KEY_MAX);
        CU_ASSERT_EQUAL(key.len, n >= SIGN_KEY_MIN && n <= SIGN_KEY_MAX ? n : 0);
        free(s);
    }
}

int main(void)
{
    static CU_TestInfo tests[] = {{"the published vector", the_published_vector},
                                  {"every key signs", every_key_signs},
                                  {"secrets are checked", secrets_are_checked},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"signatures", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
