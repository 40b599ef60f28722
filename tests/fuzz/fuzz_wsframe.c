/*
 * WebSocket frames as they reach us. The first byte: whose side we are, the largest message, and into which pieces the
 * rest falls. However it is cut, the same events come of it; and each message can be sent on.
 */
#include <string.h>

#include "base/wsframe.h"
#include "fuzz.h"

#define MAX_EVENTS 4096

struct digest {
    uint64_t hash;
    unsigned events;
    int failed;
};

static void digest_add(struct digest *d, const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        d->hash = (d->hash ^ p[i]) * UINT64_C(0x100000001b3);
}

/* A message that came is a message that goes. */
static void send_on(const struct ws_event *ev)
{
    struct buf out = BUF_INIT(0);
    struct ws_parser p;
    struct ws_event again;
    size_t used;
    FUZZ_CHECK(ws_build(&out, ev->opcode, ev->data, ev->len, true));
    ws_parser_init(&p, true, ev->len);
    FUZZ_CHECK(ws_parse(&p, (unsigned char *)out.data, out.len, &used, &again) == 1 && used == out.len);
    FUZZ_CHECK(again.opcode == ev->opcode && again.len == ev->len);
    FUZZ_CHECK(ev->len == 0 || memcmp(again.data, ev->data, ev->len) == 0);
    ws_parser_free(&p);
    buf_free(&out);
}

static struct digest run(const uint8_t *data, size_t size, bool server, size_t max_message, size_t piece)
{
    struct digest d = {.hash = UINT64_C(0xcbf29ce484222325)};
    struct ws_parser p;
    ws_parser_init(&p, server, max_message);
    for (size_t at = 0; at < size && d.failed == 0;) {
        size_t n = size - at < piece ? size - at : piece;
        unsigned char *in = malloc(n);
        FUZZ_CHECK(in != NULL);
        memcpy(in, data + at, n);
        for (size_t from = 0; from < n && d.failed == 0;) {
            struct ws_event ev = {0};
            size_t used = 0;
            int rc = ws_parse(&p, in + from, n - from, &used, &ev);
            FUZZ_CHECK(used <= n - from);
            from += used;
            if (rc < 0) {
                FUZZ_CHECK(ws_code_valid(ev.code));
                d.failed = ev.code;
            } else if (rc == 0) {
                FUZZ_CHECK(from == n);
            } else {
                FUZZ_CHECK(ev.len <= max_message || ev.opcode >= WS_CLOSE);
                FUZZ_CHECK(ev.opcode < WS_CLOSE || ev.len <= WS_MAX_CONTROL);
                digest_add(&d, &ev.opcode, sizeof(ev.opcode));
                digest_add(&d, &ev.len, sizeof(ev.len));
                digest_add(&d, ev.data, ev.len);
                if (ev.opcode != WS_CLOSE)
                    send_on(&ev);
                FUZZ_CHECK(++d.events <= size);
            }
        }
        free(in);
        at += n;
    }
    ws_parser_free(&p);
    return d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    bool server = (data[0] & 1) != 0;
    size_t max_message = (data[0] & 2) != 0 ? 64 : 65536, piece = 1 + (data[0] >> 2);
    struct digest whole = run(data + 1, size - 1, server, max_message, size);
    struct digest pieces = run(data + 1, size - 1, server, max_message, piece);
    FUZZ_CHECK(whole.hash == pieces.hash && whole.events == pieces.events && whole.failed == pieces.failed);
    return 0;
}
