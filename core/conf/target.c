/* Target blocks: what differs for the targets of a prefix. */
#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "base/urlkey.h"
#include "conf/load.h"

#define PREFIX_MAX 2000 /* bytes */

/* The key that such a prefix stands for, the caller's; NULL: *why says what is wrong. */
static char *prefix_key(const char *prefix, const char **why)
{
    size_t size = strlen(prefix) + URL_KEY_EXTRA;

    *why = "expected the beginning of a URL of http, https, ws or wss, with its whole host";
    if (size > PREFIX_MAX || strpbrk(prefix, "\\\"'${}"))
        return NULL;
    char *key = malloc(size);
    omid_assert(key != NULL);
    if (url_key(prefix, key, size)) {
        *why = "expected a URL without user, query and fragment, which are no part of a target";
        if (!url_has_extras(prefix)) {
            *why = "expected a port from 1 to 65535";
            if (url_key_port(key) > 0)
                return key;
        }
    }
    free(key);
    return NULL;
}

static bool is_target_of(const struct outline_item *it, const char *title)
{
    return it->section && !it->dropped && strcmp(it->path, "plugin.target") == 0 && it->title && it->target &&
           strcmp(it->title, title) == 0;
}

bool load_check_prefix(struct load *l, struct outline_item *it)
{
    const char *why = NULL, *ignored;
    const struct outline_item *first = NULL;
    char *key = prefix_key(it->target, &why);

    for (struct outline_item *o = l->o->item; key && it->title && o < it && !first; o++) {
        char *other = is_target_of(o, it->title) ? prefix_key(o->target, &ignored) : NULL;
        if (other && strcmp(other, key) == 0)
            first = o;
        free(other);
    }
    char shown[256];

    if (!key) {
        url_show(it->target, shown, sizeof shown);
        load_item_fault(l, it, false, "%s, found \"%.80s\"", why, shown);
    }
    if (first)
        load_item_fault(l, it, false, "there is a block of this target already (%s:%d)", first->file, first->line);
    bool ok = key && !first;
    free(key);
    if (!ok)
        outline_drop(l->o, it);
    return ok;
}

/* What is written but can have no effect. */
static void warn_useless(struct load *l, const struct outline_item *it, const char *key)
{
    bool tls = strncmp(key, "https:", 6) == 0 || strncmp(key, "wss:", 4) == 0;
    bool ws = strncmp(key, "ws", 2) == 0;
    size_t index = (size_t)(it - l->o->item);
    unsigned keys = 0;

    for (size_t i = index + 1; i < it->last; i++)
        keys += !l->o->item[i].section && !l->o->item[i].dropped;
    if (keys == 0)
        load_item_fault(l, it, true, "changes nothing: there is no setting in it");
    for (size_t i = index + 1; i < it->last; i++) {
        const struct outline_item *inner = &l->o->item[i];
        if (inner->section || inner->dropped)
            continue;
        if (!tls && strcmp(inner->path, "plugin.target.tls") == 0)
            load_item_fault(l, inner, true, "has no effect: this target has no TLS");
        if (ws && strcmp(inner->path, "plugin.target") == 0 && strcmp(inner->name, "follow") == 0)
            load_item_fault(l, inner, true, "has no effect: WebSockets follow no redirects");
    }
}

static bool load_target(struct load *l, const struct outline_item *it, const struct omid_plugin *plugin,
                        const struct conf_lane *lane, struct conf_target *t)
{
    const char *why, *title = it->title;

    t->prefix = prefix_key(it->target, &why);
    omid_assert(t->prefix != NULL);
    t->lane = *lane;
    t->lane.targets = NULL;
    conf_outside_ref(t->lane.outside);
    l->target = it->target;
    bool ok = load_lane_numbers(l, title, "plugin.target", NULL, &t->lane);
    ok &= load_lane_numbers(l, title, "plugin.target.breaker", NULL, &t->lane);
    ok &= load_keep_order(l, title, "plugin.target", "connect_timeout", &t->lane.connect_timeout_ms, "timeout",
                          &t->lane.timeout_ms, false);
    ok &= load_keep_order(l, title, "plugin.target.breaker", "open", &t->lane.breaker_open_ms, "open_max",
                          &t->lane.breaker_open_max_ms, true);
    if (t->lane.semaphore > lane->semaphore && lane->semaphore > 0) {
        load_fault(l, false, "plugin.target", title, "semaphore", "expected at most the lane's, which is %u, found %u",
                   lane->semaphore, t->lane.semaphore);
        ok = false;
    }
    ok &= load_lane_outside(l, title, plugin, &t->lane);
    warn_useless(l, it, t->prefix);
    l->target = NULL;
    return ok;
}

static int longest_first(const void *a, const void *b)
{
    const struct conf_target *x = a, *y = b;
    size_t m = strlen(x->prefix), n = strlen(y->prefix);
    return m != n ? (m > n ? -1 : 1) : strcmp(x->prefix, y->prefix);
}

bool load_lane_targets(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_lane *lane)
{
    bool ok = true;
    size_t n = 0;

    for (size_t i = 0; i < l->o->n; i++) {
        if (is_target_of(&l->o->item[i], title) && ++n == CONF_MAX_TARGETS + 1) {
            load_item_fault(l, &l->o->item[i], false, "expected at most %u target blocks in a plugin's",
                            CONF_MAX_TARGETS);
            return false;
        }
    }
    if (n == 0)
        return true;
    lane->targets = conf_targets_new(n);
    omid_assert(lane->targets != NULL);
    n = 0;
    for (size_t i = 0; i < l->o->n; i++) {
        if (is_target_of(&l->o->item[i], title))
            ok &= load_target(l, &l->o->item[i], plugin, lane, &lane->targets->target[n++]);
    }
    qsort(lane->targets->target, n, sizeof(lane->targets->target[0]), longest_first);
    return ok;
}
