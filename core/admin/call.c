#include "admin/call.h"

#include <omid/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

#define CALL_MAGIC UINT32_C(0x6163616c)

void *admin_call_begin(struct channel *ch, size_t size, void (*drop)(struct admin_call *c))
{
    omid_assert(size >= sizeof(struct admin_call));
    struct admin_call *c = calloc(1, size);
    if (c == NULL) {
        static const char text[] = "{\"error\":\"out of memory\"}";
        (void)channel_down_response(ch, 503, NULL, text, sizeof(text) - 1);
        channel_drop(&ch);
        return NULL;
    }
    c->magic = CALL_MAGIC;
    c->ch = ch;
    c->drop = drop;
    channel_set_user(ch, c);
    return c;
}

/* Lets go of the channel, and of the call when nobody works for it any more. */
static void call_end(struct admin_call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (c->ch != NULL)
        channel_drop(&c->ch);
    if (c->working > 0)
        return;
    if (c->drop != NULL)
        c->drop(c);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

void admin_call_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    call_end(channel_user(ch));
}

const struct channel_request *admin_call_request(const struct admin_call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    return channel_request(c->ch);
}

void admin_call_work(struct admin_call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    c->working++;
}

bool admin_call_back(struct admin_call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    omid_assert(c->working > 0);
    c->working--;
    if (c->ch != NULL)
        return true;
    call_end(c);
    return false;
}

void admin_call_answer(struct admin_call *c, int status, const char *body, size_t len)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (c->ch != NULL)
        (void)channel_down_response(c->ch, status, NULL, body, len);
    call_end(c);
}

void admin_call_error(struct admin_call *c, int status, const char *fmt, ...)
{
    char text[512];
    struct buf b = BUF_INIT(8192);
    struct json_w w;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    admin_call_answer(c, status, ok ? b.data : "", ok ? b.len : 0);
    buf_free(&b);
}

void admin_call_json(struct admin_call *c, int status, struct json_w *w, struct buf *out)
{
    if (json_w_end(w) && buf_puts(out, "\n"))
        admin_call_answer(c, status, out->data, out->len);
    else
        admin_call_error(c, 503, "out of memory");
    if (out->data != NULL)
        explicit_bzero(out->data, out->len); /* a secret may be in it, this once */
    buf_free(out);
}

void admin_call_failed(struct admin_call *c, int rc, const char *what)
{
    if (rc == OMID_EFULL || rc == OMID_ECLOSED)
        admin_call_error(c, 503, "overloaded or stopping, try again later");
    else
        admin_call_error(c, 500, "%s", what);
}
