#include "session/call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "lane/exec/exec.h"
#include "session/state.h"

bool call_begin(struct call *c, struct channel *ch, void (*drop)(struct call *c))
{
    if (!c) {
        static const char text[] = "{\"error\":\"out of memory\"}";
        (void)channel_down_response(ch, 503, NULL, text, sizeof text - 1);
        channel_drop(&ch);
        return false;
    }
    c->ss = sessions_of_channel(ch);
    c->ch = ch;
    c->drop = drop;
    list_append(&c->ss->calls, &c->link);
    channel_set_user(ch, c);
    return true;
}

static void call_end(struct call *c)
{
    channel_drop(&c->ch);
    list_remove(&c->link);
    c->drop(c);
}

void call_closed(struct channel *ch, uint16_t code)
{
    (void)code;
    struct call *c = channel_user(ch);
    c->gone = true;
    if (!c->working)
        call_end(c);
}

void call_answer(struct call *c, int status, const char *body, size_t len)
{
    c->working = c->threaded = false;
    if (!c->gone)
        (void)channel_down_response(c->ch, status, NULL, body, len);
    call_end(c);
}

void call_answer_json(struct call *c, int status, struct json_w *w)
{
    if (json_w_end(w))
        call_answer(c, status, w->out->data, w->out->len);
    else
        call_error(c, 503, "out of memory");
}

void call_error(struct call *c, int status, const char *fmt, ...)
{
    char text[512];
    struct buf b = BUF_INIT(4096);
    struct json_w w;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "error", text);
    json_w_close(&w, '}');
    bool ok = json_w_end(&w);
    call_answer(c, status, ok ? b.data : NULL, ok ? b.len : 0);
    buf_free(&b);
}

void call_failed(struct call *c, int rc)
{
    if (rc == OMID_EFULL || rc == OMID_ECLOSED)
        call_error(c, 503, "overloaded, try again later");
    else
        call_error(c, 500, "the store failed");
}

int call_work(struct call *c, const char *label, void (*run)(void *c), void (*done)(void *c, bool ran))
{
    struct omid_work work = {
        .size = sizeof work, .pool = OMID_POOL_STORAGE, .label = label, .run = run, .done = done, .arg = c};
    c->working = c->threaded = true;
    int rc = exec_submit(c->ss->env.exec, exec_core, c->ss->env.loop, &work);
    if (rc != OMID_OK)
        c->working = c->threaded = false;
    return rc;
}

void calls_free_all(struct sessions *ss)
{
    list_each (it, &ss->calls) {
        struct call *c = list_entry(it, struct call, link);
        if (c->threaded)
            list_remove(&c->link); /* a thread that was abandoned: it may still use it, and the request */
        else
            call_end(c);
    }
}
