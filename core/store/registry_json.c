/* An entry as the admin API shows it. */
#include "base/clock.h"
#include "store/registry_int.h"

static void write_time(struct json_w *w, const char *key, int64_t ms)
{
    char text[32];
    json_w_key(w, key);
    if (ms == 0) {
        json_w_null(w);
        return;
    }
    clock_format_utc(ms, text);
    json_w_str(w, text);
}

static void write_lists(struct json_w *w, const struct registry_entry *e)
{
    json_w_key(w, "triggers");
    json_w_open(w, '[');
    for (unsigned t = 0; t < OMID_TRIGGERS; t++) {
        const char *name = registry_trigger_name(e->app, (enum omid_trigger)t);
        if (name != NULL && (e->triggers & (1u << t)) != 0)
            json_w_str(w, name);
    }
    json_w_close(w, ']');
    json_w_key(w, "events");
    json_w_open(w, '[');
    for (char **ev = e->events; *ev != NULL; ev++)
        json_w_str(w, *ev);
    json_w_close(w, ']');
    json_w_key(w, "filter");
    if (e->filter[0] != '\0')
        json_w_raw(w, e->filter, strlen(e->filter));
    else
        json_w_null(w);
}

/* Of the secrets only how many there are, and until when the former ones are valid. */
static void write_secrets(struct json_w *w, const struct registry_entry *e, int64_t now_ms)
{
    json_w_key(w, "secrets");
    json_w_open(w, '[');
    for (size_t i = 0; i < e->n_secrets; i++) {
        const struct registry_secret *s = &e->secret[i];
        if (s->valid_until_ms != 0 && s->valid_until_ms <= now_ms)
            continue;
        json_w_open(w, '{');
        write_time(w, "created_at", s->created_ms);
        write_time(w, "valid_until", s->valid_until_ms);
        json_w_close(w, '}');
    }
    json_w_close(w, ']');
}

void registry_entry_json(struct json_w *w, const struct registry_entry *e, const struct registry_run *run,
                         int64_t now_ms)
{
    json_w_open(w, '{');
    json_w_kstr(w, "id", e->id);
    json_w_kstr(w, "kind", e->app ? "app" : "webhook");
    if (e->app)
        json_w_kstr(w, "name", e->name);
    json_w_kstr(w, "uid", e->uid);
    json_w_kstr(w, "url", e->url);
    if (e->app)
        json_w_kstr(w, "setup_completed_url", e->setup_url);
    write_lists(w, e);
    if (e->app) {
        json_w_key(w, "capabilities");
        json_w_open(w, '[');
        if (e->capabilities & OMID_CAPABLE_PROACTIVE_NOTIFICATION)
            json_w_str(w, "proactive_notification");
        json_w_close(w, ']');
    }
    json_w_kint(w, "audio_seconds", e->audio_ms / 1000);
    json_w_kbool(w, "ordered", e->ordered);
    json_w_kint(w, "rate_per_min", e->rate_per_min);
    json_w_kbool(w, "enabled", e->disabled_ms == 0);
    write_time(w, "disabled_at", e->disabled_ms);
    json_w_key(w, "disabled_reason");
    json_w_str(w, e->disabled_ms != 0 ? e->disabled_reason : NULL);
    json_w_kint(w, "failures", run->failures);
    write_time(w, "failing_since", run->since_ms);
    json_w_kbool(w, "from_configuration", e->seed[0] != '\0');
    write_secrets(w, e, now_ms);
    write_time(w, "created_at", e->created_ms);
    write_time(w, "changed_at", e->changed_ms);
    json_w_close(w, '}');
}
