/* Answers in pieces: /pour?LENGTH,PIECE,GIVEN. Byte i is i % 251. GIVEN below LENGTH breaks off there; "-1": says no
 * more, for ever. Checks on the way what the contract promises. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "plain.h"

#define PIECE_MAX (256u << 10)

struct pour {
    struct pour *next; /* of the silent ones */
    struct plain *p;
    struct omid_exchange *ex;
    uint64_t length, given, done;
    size_t piece;
    bool silent;
    unsigned char bytes[PIECE_MAX];
};

static _Atomic(struct pour *) silent; /* left behind, until the plugin goes */

static void pour(struct pour *x)
{
    while (x->done < x->given) {
        uint64_t left = x->given - x->done;
        size_t n = left < x->piece ? (size_t)left : x->piece;
        for (size_t i = 0; i < n; i++)
            x->bytes[i] = (unsigned char)((x->done + i) % 251);
        int rc = x->p->host->respond_data(x->ex, x->bytes, n);
        if (rc == OMID_EFULL)
            return;
        if (rc != OMID_OK)
            break;
        x->done += n;
    }
    if (x->silent)
        return;
    if (x->done == x->length && x->p->host->respond_data(x->ex, "x", 1) == OMID_OK)
        abort(); /* beyond the length */
    x->p->host->respond_end(&x->ex);
    free(x);
}

static void writable(void *arg, struct omid_exchange *ex)
{
    struct pour *x = arg;
    if (x->ex != ex)
        abort();
    pour(x);
}

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct plain *p = state;
    struct pour *x = calloc(1, sizeof *x);
    long long length = 0, piece = 0, given = 0;
    if (x == NULL || sscanf(req->query, "%lld,%lld,%lld", &length, &piece, &given) != 3 || piece < 1 ||
        piece > PIECE_MAX) {
        free(x);
        return OMID_EINVAL;
    }
    static const char *const lines[] = {"X-Pour: yes", NULL}, *const bad[] = {"Content-Length: 1", NULL};
    const struct omid_stream stream = {.size = sizeof stream, .writable = writable, .arg = x};
    x->p = p;
    x->ex = ex;
    x->length = (uint64_t)length;
    x->silent = given < 0;
    x->given = x->silent ? 1 : (uint64_t)given;
    x->piece = (size_t)piece;
    if (p->host->respond_begin(ex, 200, "text/plain", bad, 1, &stream) != OMID_EINVAL)
        abort();
    int rc = p->host->respond_begin(ex, 206, "application/octet-stream", lines, x->length, &stream);
    if (rc != OMID_OK || p->host->respond_begin(ex, 206, NULL, NULL, 1, &stream) != OMID_EINVAL ||
        p->host->respond(&ex, 200, NULL, NULL, 0) != OMID_EINVAL)
        abort();
    if (x->silent) {
        x->next = atomic_load(&silent);
        while (!atomic_compare_exchange_weak(&silent, &x->next, x)) {
        }
    }
    pour(x);
    return OMID_OK;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route get = {.size = sizeof get, .path = "/pour", .method = "GET", .request = on_request},
                                   head = {
                                       .size = sizeof head, .path = "/pour", .method = "HEAD", .request = on_request};
    (void)shared;
    int rc = host->route_add(mod, &get);
    return rc == OMID_OK ? host->route_add(mod, &head) : rc;
}

static void unconfigure(void *shared)
{
    (void)shared;
    for (struct pour *x = atomic_exchange(&silent, NULL), *next; x != NULL; x = next) {
        next = x->next;
        free(x);
    }
}

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD, .name = "pour", .configure = configure,
                                                    .unconfigure = unconfigure, PLAIN};
