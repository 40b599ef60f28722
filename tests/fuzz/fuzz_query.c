/* The query of a URL, as a client wrote it: parsing, the listen protocol's parameters, and building one again. */
#include <string.h>

#include "base/query.h"
#include "fuzz.h"
#include "session/params.h"

static void build_again(const struct query *q)
{
    struct query again;
    struct buf url = BUF_INIT(0);
    char err[128];
    FUZZ_CHECK(buf_puts(&url, "x"));
    for (size_t i = 0; i < q->n; i++)
        FUZZ_CHECK(query_append(&url, q->params[i].name, q->params[i].value));
    const char *text = q->n > 0 ? strchr(url.data, '?') + 1 : "";
    FUZZ_CHECK(query_parse(&again, text, strlen(text), err, sizeof(err)));
    FUZZ_CHECK(again.n == q->n);
    for (size_t i = 0; i < q->n; i++) {
        FUZZ_CHECK(strcmp(again.params[i].name, q->params[i].name) == 0);
        FUZZ_CHECK(strcmp(again.params[i].value, q->params[i].value) == 0);
    }
    query_free(&again);
    buf_free(&url);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct query q;
    char err[128] = "";
    if (query_parse(&q, (const char *)data, size, err, sizeof(err))) {
        build_again(&q);
        query_free(&q);
    } else {
        FUZZ_CHECK(err[0] != '\0' && memchr(err, '\0', sizeof(err)) != NULL);
    }
    struct listen_params p;
    char *text = strndup((const char *)data, size);
    FUZZ_CHECK(text != NULL);
    err[0] = '\0';
    if (!listen_params_parse(&p, text, err, sizeof(err)))
        FUZZ_CHECK(err[0] != '\0');
    free(text);
    return 0;
}
