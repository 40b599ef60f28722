/* Keeps values as events tell it to, and tells what came of it by events. */
#include <stdio.h>
#include <string.h>

#include "plain.h"

static void say(struct plain *p, const char *text)
{
    const struct omid_event ev = {.size = sizeof(ev),
                                  .type = OMID_EVENT_CUSTOM,
                                  .uid = "u",
                                  .name = "seen",
                                  .json = text,
                                  .json_len = strlen(text)};
    p->host->publish(p->inst, &ev);
}

static void on_put(void *arg, int result)
{
    char text[32];
    snprintf(text, sizeof(text), "put %d", result);
    say(arg, text);
}

static void on_get(void *arg, int result, const void *value, size_t len)
{
    char text[64];
    snprintf(text, sizeof(text), "got %d %.*s", result, value != NULL ? (int)len : 1,
             value != NULL ? (const char *)value : "-");
    say(arg, text);
}

static int event(void *state, const struct omid_event *ev)
{
    struct plain *p = state;
    char text[32];
    int rc = OMID_OK;
    if (strcmp(ev->name, "put") == 0)
        rc = p->host->kv_put(p->inst, "k", "value", 5, 1000, on_put, p);
    else if (strcmp(ev->name, "forget") == 0)
        rc = p->host->kv_put(p->inst, "k", "value", 5, 1000, NULL, NULL);
    else if (strcmp(ev->name, "get") == 0)
        rc = p->host->kv_get(p->inst, "k", on_get, p);
    else if (strcmp(ev->name, "flood") == 0)
        for (unsigned i = 0; i < 10000 && rc == OMID_OK; i++)
            rc = p->host->kv_put(p->inst, "k", "", 0, 0, NULL, NULL);
    if (rc != OMID_OK) {
        snprintf(text, sizeof(text), "%s refused %d", ev->name, rc);
        say(p, text);
    }
    return OMID_OK;
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD, .name = "values", .events = OMID_EVENT_MASK(OMID_EVENT_CUSTOM), .event = event, PLAIN,
};
