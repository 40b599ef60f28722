#include "bus/call.h"

#include <omid/plugin.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "lane/exec/exec.h"

#define CALL_MAGIC UINT32_C(0x63616c6c)

void *call_begin(struct channel *ch, size_t size, void (*drop)(struct call *c))
{
    omid_assert(size >= sizeof(struct call));
    struct call *c = calloc(1, size);
    if (c == NULL) {
        request_error(ch, 503, "out of memory");
        channel_drop(&ch);
        return NULL;
    }
    *c = (struct call){.magic = CALL_MAGIC, .ch = ch, .drop = drop};
    channel_set_user(ch, c);
    return c;
}

static void call_end(struct call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (c->drop != NULL)
        c->drop(c);
    channel_drop(&c->ch);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

void call_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    struct call *c = channel_user(ch);
    CHECK_MAGIC(c, CALL_MAGIC);
    c->gone = true;
    if (!c->working)
        call_end(c);
}

/* ---------------------------------------------------------------- work elsewhere */

void call_await(struct call *c, int rc)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    c->working = rc == OMID_OK;
    if (rc != OMID_OK)
        call_failed(c, rc, "the work was not taken");
}

bool call_wanted(struct call *c)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    omid_assert(c->working);
    c->working = false;
    if (!c->gone)
        return true;
    call_end(c);
    return false;
}

int call_work(struct call *c, struct exec *exec, const char *label, void (*run)(void *c),
              void (*done)(void *c, bool ran))
{
    CHECK_MAGIC(c, CALL_MAGIC);
    const struct omid_work work = {
        .size = sizeof(work), .pool = OMID_POOL_STORAGE, .label = label, .run = run, .done = done, .arg = c};
    return exec_submit(exec, exec_core, call_loop(c), &work);
}

/* ---------------------------------------------------------------- the answer */

void call_answer(struct call *c, int status, const char *body, size_t len)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (!c->gone)
        (void)channel_down_response(c->ch, status, NULL, body, len);
    call_end(c);
}

void call_json(struct call *c, int status, struct json_w *w, struct buf *out)
{
    bool ok = json_w_end(w);
    if (channel_route(c->ch)->auth == ROUTE_ADMIN)
        ok = ok && buf_puts(out, "\n");
    if (ok)
        call_answer(c, status, out->data, out->len);
    else
        call_error(c, 503, "out of memory");
    if (out->data != NULL)
        explicit_bzero(out->data, out->len); /* a secret may be in it, this once */
    buf_free(out);
}

static void error_write(struct channel *ch, int status, const char *fmt, va_list ap)
{
    char text[512];
    struct buf b = BUF_INIT(8192); /* each character escaped */
    struct json_w w;
    vsnprintf(text, sizeof(text), fmt, ap);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    (void)channel_down_response(ch, status, NULL, ok ? b.data : NULL, ok ? b.len : 0);
    buf_free(&b);
}

void request_error(struct channel *ch, int status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    error_write(ch, status, fmt, ap);
    va_end(ap);
}

void call_error(struct call *c, int status, const char *fmt, ...)
{
    CHECK_MAGIC(c, CALL_MAGIC);
    if (!c->gone) {
        va_list ap;
        va_start(ap, fmt);
        error_write(c->ch, status, fmt, ap);
        va_end(ap);
    }
    call_end(c);
}

void call_failed(struct call *c, int rc, const char *what)
{
    if (rc == OMID_EFULL || rc == OMID_ECLOSED)
        call_error(c, 503, "overloaded or stopping, try again later");
    else
        call_error(c, 500, "%s", what);
}
