/*
 * Notifications that apps ask for in their answers: {"prompt", "params": [...], "context": {...}}. omid has nobody who
 * writes texts by a prompt: what is sound and not too often becomes a custom event, "app.notification", for plugins and
 * subscribed endpoints.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "webhooks.h"

#define EVENT "app.notification"
#define EVERY_MS 30000u
#define MAX_REMEMBERED 65536 /* pairs of user and app that had one lately */
#define CHAINS 4096
#define MAX_PROMPT 128000 /* characters */
#define MAX_PARAMS 64
#define MAX_PARAM 256 /* bytes */

/* ------------------------------------------------------------ at most one in 30 s */

struct passed {
    struct passed *chain;
    struct passed *younger; /* by time */
    uint64_t at_ms;
    char key[]; /* uid, a newline, app */
};

/* A user's sessions and the jobs for an app are on different reactors: they share this. */
struct throttle {
    pthread_mutex_t lock;
    struct passed *chain[CHAINS];
    struct passed *oldest, *youngest;
    size_t n;
};

struct throttle *throttle_new(void)
{
    struct throttle *t = calloc(1, sizeof(*t));
    if (t != NULL && pthread_mutex_init(&t->lock, NULL) != 0) {
        free(t);
        t = NULL;
    }
    return t;
}

static size_t chain_of(const char *key)
{
    uint32_t h = UINT32_C(2166136261);
    for (; *key != '\0'; key++)
        h = (h ^ (unsigned char)*key) * UINT32_C(16777619);
    return h % CHAINS;
}

static void forget_oldest(struct throttle *t)
{
    struct passed *p = t->oldest;
    struct passed **at = &t->chain[chain_of(p->key)];
    while (*at != p)
        at = &(*at)->chain;
    *at = p->chain;
    t->oldest = p->younger;
    if (t->oldest == NULL)
        t->youngest = NULL;
    t->n--;
    free(p);
}

void throttle_free(struct throttle **tp)
{
    struct throttle *t = *tp;
    *tp = NULL;
    if (t == NULL)
        return;
    while (t->oldest != NULL)
        forget_oldest(t);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static struct passed *passed_new(const char *uid, const char *app, uint64_t now_ms)
{
    size_t u = strlen(uid), a = strlen(app);
    struct passed *p = malloc(sizeof(*p) + u + a + 2);
    if (p == NULL)
        return NULL;
    *p = (struct passed){.at_ms = now_ms};
    memcpy(p->key, uid, u);
    p->key[u] = '\n';
    memcpy(p->key + u + 1, app, a + 1);
    return p;
}

bool throttle_pass(struct throttle *t, const char *uid, const char *app, uint64_t now_ms)
{
    struct passed *p = passed_new(uid, app, now_ms);
    if (p == NULL)
        return false;
    pthread_mutex_lock(&t->lock);
    while (t->oldest != NULL && t->oldest->at_ms + EVERY_MS <= now_ms)
        forget_oldest(t);
    struct passed **chain = &t->chain[chain_of(p->key)];
    bool pass = t->n < MAX_REMEMBERED;
    for (const struct passed *q = *chain; q != NULL && pass; q = q->chain)
        pass = strcmp(q->key, p->key) != 0;
    if (pass) {
        p->chain = *chain;
        *chain = p;
        *(t->youngest != NULL ? &t->youngest->younger : &t->oldest) = p;
        t->youngest = p;
        t->n++;
        p = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    free(p);
    return pass;
}

/* ------------------------------------------------------------ what is passed on */

static bool params_ok(const struct json_span *params)
{
    struct json_span v;
    unsigned n = 0;
    if (params->data[0] != '[')
        return false;
    for (size_t at = 0; json_array_next(params->data, params->len, &at, &v); n++) {
        if (!json_is_string(&v) || v.len > MAX_PARAM)
            return false;
    }
    return n <= MAX_PARAMS;
}

/* NULL: it is usable, *out is the event. Else why not. */
static const char *notification_read(const struct endpoint *e, const struct json_span *value, struct text *out)
{
    struct json_span prompt, params = {.data = "[]", .len = 2}, context = {.data = "{}", .len = 2};
    if (value->data[0] != '{')
        return "expected an object";
    char *text = json_find(value->data, value->len, "prompt", &prompt) ? json_string(&prompt) : NULL;
    size_t characters = text != NULL ? utf8_length(text) : 0;
    free(text);
    if (characters == 0)
        return "expected a prompt";
    if (characters > MAX_PROMPT)
        return "expected a prompt of at most 128000 characters";
    if (json_find(value->data, value->len, "params", &params) && !params_ok(&params))
        return "expected params to be an array of at most 64 short strings";
    if (json_find(value->data, value->len, "context", &context) && context.data[0] == 'n')
        context = (struct json_span){.data = "{}", .len = 2};
    if (context.data[0] != '{')
        return "expected context to be an object";
    text_adds(out, "{\"app_id\":");
    text_add_quoted(out, e->said_by);
    text_adds(out, ",\"app_name\":");
    text_add_quoted(out, e->name);
    text_adds(out, ",\"prompt\":");
    text_add(out, prompt.data, prompt.len);
    text_adds(out, ",\"params\":");
    text_add(out, params.data, params.len);
    text_adds(out, ",\"context\":");
    text_add(out, context.data, context.len);
    text_adds(out, "}");
    return out->failed ? "out of memory" : NULL;
}

static enum notified notification_pass(struct instance *in, const struct endpoint *e,
                                       const struct answer_context *about, const struct json_span *value)
{
    struct text t = {0};
    if ((e->capabilities & OMID_CAPABLE_PROACTIVE_NOTIFICATION) == 0)
        return NOTIFIED_NOT_CAPABLE;
    const char *why = notification_read(e, value, &t);
    enum notified outcome = NOTIFIED_PASSED;
    if (why == NULL && !throttle_pass(in->conf->throttle, about->uid, e->id, in->host->now_ms()))
        outcome = NOTIFIED_TOO_SOON;
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = about->uid,
                                  .session_id = about->session,
                                  .conversation_id = about->conversation,
                                  .name = EVENT,
                                  .json = t.data,
                                  .json_len = t.len,
                                  .time_ms = in->host->wall_ms()};
    if (why == NULL && outcome == NOTIFIED_PASSED && in->host->publish(in->inst, &ev) != OMID_OK)
        why = "the bus takes no more events";
    if (why != NULL) {
        outcome = NOTIFIED_UNUSABLE;
        in->host->log(in->mod, OMID_LOG_INFO, "%s: a notification is not passed on: %s", e->label, why);
    }
    free(t.data);
    return outcome;
}

void notification_use(struct instance *in, const struct endpoint *e, const struct answer_context *about,
                      const struct json_span *value)
{
    in->host->counter_add(in->conf->notified[notification_pass(in, e, about, value)], 1);
}
