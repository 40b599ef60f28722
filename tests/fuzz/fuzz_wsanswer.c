/*
 * A peer's answer to our WebSocket upgrade, as it comes in: what has been decided of a beginning holds for all that
 * follows. And the URLs of such peers.
 */
#include <string.h>

#include "fuzz.h"
#include "lane/http/wsupgrade.h"

static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==";

static void url(const uint8_t *data, size_t size)
{
    struct ws_url u;
    const char *why = NULL;
    char *text = strndup((const char *)data, size);
    FUZZ_CHECK(text != NULL);
    if (ws_url_parse(text, &u, &why)) {
        char sent[25];
        struct buf out = BUF_INIT(65536);
        FUZZ_CHECK(strncmp(u.http, u.tls ? "https://" : "http://", u.tls ? 8 : 7) == 0);
        FUZZ_CHECK(u.host[0] != '\0' && u.path[0] == '/');
        FUZZ_CHECK(strpbrk(u.host, "\r\n ") == NULL && strpbrk(u.path, "\r\n ") == NULL);
        if (ws_request_build(&out, &u, NULL, sent))
            FUZZ_CHECK(strstr(out.data, sent) != NULL);
        buf_free(&out);
        ws_url_free(&u);
    } else {
        FUZZ_CHECK(why != NULL);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    url(data, size);
    int decided = 0, at_status = 0;
    size_t at_used = 0;
    for (size_t n = 1; n <= size; n = size - n < 64 || n < 256 ? n + 1 : n + size / 64) {
        char *part = malloc(n); /* of just this size, for the sanitizers */
        FUZZ_CHECK(part != NULL);
        memcpy(part, data, n);
        size_t used = 0;
        int status = 0;
        const char *why = NULL;
        int rc = ws_answer_check(part, n, key, &used, &status, &why);
        free(part);
        FUZZ_CHECK(rc >= -1 && rc <= 1 && (rc >= 0 || why != NULL));
        FUZZ_CHECK(rc <= 0 || (used > 0 && used <= n));
        FUZZ_CHECK(status >= 0 && status <= 999);
        if (decided > 0)
            FUZZ_CHECK(rc == decided && used == at_used && status == at_status);
        if (decided < 0)
            FUZZ_CHECK(rc == decided);
        decided = rc;
        at_used = used;
        at_status = status;
    }
    return 0;
}
