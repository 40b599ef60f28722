/* Who is calling. The uid comes from the token alone. */
#include <string.h>

#include "base/id.h"
#include "ingress/private.h"

static bool uid_character(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
           c == ':' || c == '@' || c == '-';
}

static bool uid_valid(const char *uid, size_t len)
{
    if (len == 0 || len > AUTH_UID_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!uid_character((unsigned char)uid[i]))
            return false;
    return true;
}

/* "Bearer <token>"; the scheme's case does not matter (RFC 9110, 11.1). */
static bool bearer_token(const char *value, size_t len, const char **token, size_t *token_len)
{
    static const char scheme[] = "bearer";
    size_t at = sizeof(scheme) - 1;

    if (len <= at || strncasecmp(value, scheme, at) != 0 || value[at] != ' ')
        return false;
    while (at < len && value[at] == ' ')
        at++;
    while (len > at && (value[len - 1] == ' ' || value[len - 1] == '\t'))
        len--;
    *token = value + at;
    *token_len = len - at;
    return *token_len > 0;
}

/* <ADMIN_KEY><uid>, for development: the key immediately followed by the uid. */
static bool admin_token(const char *key, const char *token, size_t len, struct auth_answer *answer)
{
    size_t key_len = strlen(key);

    if (key_len == 0 || len < key_len || !id_equal_ct(key, token, key_len))
        return false;
    if (!uid_valid(token + key_len, len - key_len)) {
        answer->verdict = AUTH_INVALID;
        answer->reason = "invalid token";
        return true;
    }
    answer->verdict = AUTH_OK;
    memcpy(answer->uid, token + key_len, len - key_len);
    answer->uid[len - key_len] = '\0';
    return true;
}

void auth_check(const struct conf *conf, const char *authorization, size_t len, auth_done_fn done, void *arg)
{
    struct auth_answer answer = {.verdict = AUTH_INVALID, .reason = "invalid token"};
    const char *token;
    size_t token_len;

    if (authorization == NULL || !bearer_token(authorization, len, &token, &token_len)) {
        answer.verdict = AUTH_MISSING;
        answer.reason = "missing token: Authorization: Bearer <token> is required";
    } else if (conf->auth.admin_key != NULL && admin_token(conf->auth.admin_key, token, token_len, &answer)) {
        /* decided */
    }
    done(arg, &answer);
}
