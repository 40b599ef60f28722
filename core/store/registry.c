/* What is registered, in memory: by id, by uid, and in the order of making. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/magic.h"
#include "store/registry_int.h"

static struct map *shard(struct map *const *maps, const char *key)
{
    return maps[hash_keyed(key, strlen(key)) % REGISTRY_SHARDS];
}

struct slot *registry_slot(const struct registry *r, const char *id)
{
    return map_get(shard(r->id, id), id);
}

static struct user *user_of(const struct registry *r, const char *uid)
{
    return map_get(shard(r->user, uid), uid);
}

/* ---------------------------------------------------------------- snapshots */

/* For the many who have nothing. Never freed. */
static const struct omid_endpoint *const no_endpoint[1];
static struct snapshot nothing = {.pub = {.size = sizeof(struct omid_endpoints), .endpoint = no_endpoint},
                                  .magic = SNAPSHOT_MAGIC,
                                  .until_ms = INT64_MAX};

static const struct omid_endpoints *snapshot_ref(struct snapshot *s)
{
    if (s != &nothing)
        atomic_fetch_add(&s->refs, 1);
    return &s->pub;
}

static void snapshot_release(struct snapshot *s)
{
    CHECK_MAGIC(s, SNAPSHOT_MAGIC);
    if (s == &nothing || atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    for (size_t i = 0; i < s->pub.n; i++)
        registry_entry_release(&s->entry[i]);
    s->magic = OMID_MAGIC_DEAD;
    free(s);
}

void registry_release(const struct omid_endpoints **ep)
{
    const struct omid_endpoints *e = *ep;
    *ep = NULL;
    if (e != NULL)
        snapshot_release(container_of(e, struct snapshot, pub));
}

static bool valid(const struct registry_secret *s, int64_t now_ms)
{
    return s->valid_until_ms == 0 || s->valid_until_ms > now_ms;
}

/* Appends the entry to the snapshot, which has room. */
static void snapshot_add(struct snapshot *s, struct registry_entry *e, int64_t now_ms, const char ***secrets)
{
    size_t i = s->pub.n++;
    s->entry[i] = registry_entry_ref(e);
    s->at[i] = &s->endpoint[i];
    s->endpoint[i] = (struct omid_endpoint){.size = sizeof(struct omid_endpoint),
                                            .id = e->id,
                                            .app = e->app,
                                            .name = e->name,
                                            .uid = e->uid,
                                            .url = e->url,
                                            .triggers = e->triggers,
                                            .capabilities = e->capabilities,
                                            .events = (const char *const *)e->events,
                                            .filter = e->filter,
                                            .audio_ms = e->audio_ms,
                                            .ordered = e->ordered,
                                            .rate_per_min = e->rate_per_min,
                                            .secrets = *secrets};
    for (size_t n = 0; n < e->n_secrets; n++) {
        if (!valid(&e->secret[n], now_ms))
            continue;
        if (e->secret[n].valid_until_ms != 0 && e->secret[n].valid_until_ms < s->until_ms)
            s->until_ms = e->secret[n].valid_until_ms;
        *(*secrets)++ = e->secret[n].text;
    }
    *(*secrets)++ = NULL;
}

/* With the lock. NULL: no memory. */
static struct snapshot *snapshot_new(struct slot *const *slot, size_t n, int64_t now_ms)
{
    size_t live = 0, secrets = 0;
    for (size_t i = 0; i < n; i++) {
        const struct registry_entry *e = slot[i]->entry;
        live += e->disabled_ms == 0;
        secrets += e->disabled_ms == 0 ? e->n_secrets + 1 : 0;
    }
    if (live == 0)
        return &nothing;
    struct snapshot *s =
        calloc(1, sizeof(*s) + live * (sizeof(struct omid_endpoint) + 2 * sizeof(void *)) + secrets * sizeof(char *));
    if (s == NULL)
        return NULL;
    s->magic = SNAPSHOT_MAGIC;
    atomic_init(&s->refs, 1);
    s->until_ms = INT64_MAX;
    s->endpoint = (struct omid_endpoint *)(s + 1);
    s->entry = (struct registry_entry **)(s->endpoint + live);
    s->at = (const struct omid_endpoint **)(s->entry + live);
    s->secret = (const char **)(s->at + live);
    s->pub = (struct omid_endpoints){.size = sizeof(s->pub), .endpoint = s->at};
    const char **put = s->secret;
    for (size_t i = 0; i < n; i++) {
        if (slot[i]->entry->disabled_ms == 0)
            snapshot_add(s, slot[i]->entry, now_ms, &put);
    }
    return s;
}

static void snapshot_void(struct user *u)
{
    if (u->snapshot != NULL)
        snapshot_release(u->snapshot);
    u->snapshot = NULL;
}

const struct omid_endpoints *registry_of(struct registry *r, const char *uid, int64_t now_ms)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    const struct omid_endpoints *out = &nothing.pub;
    pthread_mutex_lock(&r->lock);
    struct user *u = user_of(r, uid);
    if (u != NULL) {
        if (u->snapshot == NULL || u->generation != r->generation || now_ms >= u->snapshot->until_ms) {
            snapshot_void(u);
            u->snapshot = snapshot_new(u->slot, u->n, now_ms);
            u->generation = r->generation;
        }
        out = u->snapshot != NULL ? snapshot_ref(u->snapshot) : NULL;
    }
    pthread_mutex_unlock(&r->lock);
    return out;
}

static bool user_has(const struct user *u, const struct slot *s)
{
    for (size_t i = 0; u != NULL && i < u->n; i++) {
        if (u->slot[i] == s)
            return true;
    }
    return false;
}

const struct omid_endpoints *registry_find(struct registry *r, const char *id, const char *uid, int64_t now_ms)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct snapshot *found = &nothing;
    pthread_mutex_lock(&r->lock);
    struct slot *s = registry_slot(r, id);
    if (s != NULL && (uid == NULL || user_has(user_of(r, uid), s)))
        found = snapshot_new(&s, 1, now_ms);
    pthread_mutex_unlock(&r->lock);
    return found != NULL ? &found->pub : NULL;
}

/* ---------------------------------------------------------------- users; writer's thread */

static struct user *user_made(struct registry *r, const char *uid)
{
    struct user *u = user_of(r, uid);
    if (u == NULL) {
        u = calloc(1, sizeof(*u));
        omid_assert(u != NULL); /* a few bytes, for what is on disk already */
        pthread_mutex_lock(&r->lock);
        omid_assert(map_put(shard(r->user, uid), uid, u, NULL));
        pthread_mutex_unlock(&r->lock);
    }
    return u;
}

static bool user_add(struct registry *r, const char *uid, struct slot *s)
{
    struct user *u = user_made(r, uid);
    if (user_has(u, s))
        return false;
    pthread_mutex_lock(&r->lock);
    if (u->n == u->cap) {
        u->cap = u->cap > 0 ? u->cap * 2 : 2;
        u->slot = realloc(u->slot, u->cap * sizeof(struct slot *));
        omid_assert(u->slot != NULL);
    }
    u->slot[u->n++] = s;
    snapshot_void(u);
    pthread_mutex_unlock(&r->lock);
    return true;
}

static void user_free(struct user *u)
{
    snapshot_void(u);
    free(u->slot);
    free(u);
}

/* With the lock. */
static bool user_remove_locked(struct registry *r, const char *uid, struct user *u, const struct slot *s)
{
    size_t i = 0;
    while (i < u->n && u->slot[i] != s)
        i++;
    if (i == u->n)
        return false;
    memmove(&u->slot[i], &u->slot[i + 1], (u->n - i - 1) * sizeof(struct slot *));
    u->n--;
    snapshot_void(u);
    if (u->n == 0) {
        map_remove(shard(r->user, uid), uid);
        user_free(u);
    }
    return true;
}

void registry_user_add(struct registry *r, const char *uid, const char *id)
{
    struct slot *s = registry_slot(r, id);
    if (s == NULL || !user_add(r, uid, s))
        return;
    pthread_mutex_lock(&r->lock);
    r->count[RESERVED_ENABLED]++;
    pthread_mutex_unlock(&r->lock);
}

void registry_user_remove(struct registry *r, const char *uid, const char *id)
{
    struct slot *s = registry_slot(r, id);
    struct user *u = user_of(r, uid);
    if (s == NULL || u == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    if (user_remove_locked(r, uid, u, s))
        r->count[RESERVED_ENABLED]--;
    pthread_mutex_unlock(&r->lock);
}

/* An app that is gone, from all who have it. */
static void users_forget(struct registry *r, const struct slot *s)
{
    for (unsigned i = 0; i < REGISTRY_SHARDS; i++) {
        size_t pos = 0;
        const char *uid;
        void *value;
        while (map_next(r->user[i], &pos, &uid, &value)) {
            if (!user_has(value, s))
                continue;
            pthread_mutex_lock(&r->lock);
            if (user_remove_locked(r, uid, value, s))
                r->count[RESERVED_ENABLED]--;
            pthread_mutex_unlock(&r->lock);
        }
    }
}

/* ---------------------------------------------------------------- order */

/* Of the first place behind row. */
static size_t order_behind(const struct order *o, int64_t row)
{
    size_t low = 0, high = o->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (o->place[mid].row <= row)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Copies without the holes; the lock is held for the change of pointers only. Writer's thread. */
static void order_remake(struct registry *r, struct order *o)
{
    size_t cap = (o->n - o->holes) * 2 + 16, n = 0;
    struct place *made = malloc(cap * sizeof(*made));
    omid_assert(made != NULL);
    for (size_t i = 0; i < o->n; i++) {
        if (o->place[i].slot != NULL)
            made[n++] = o->place[i];
    }
    struct place *old = o->place;
    pthread_mutex_lock(&r->lock);
    *o = (struct order){.place = made, .n = n, .cap = cap};
    pthread_mutex_unlock(&r->lock);
    free(old);
}

static void order_add(struct registry *r, struct slot *s)
{
    struct order *o = &r->order[s->entry->app];
    if (o->n == o->cap)
        order_remake(r, o);
    /* Rows are numbered upwards, but the last number may come again, in its place. */
    size_t at = order_behind(o, s->entry->row);
    bool again = at > 0 && o->place[at - 1].row == s->entry->row;
    omid_assert(!again || o->place[at - 1].slot == NULL);
    pthread_mutex_lock(&r->lock);
    if (again) {
        o->place[at - 1].slot = s;
        o->holes--;
    } else {
        memmove(&o->place[at + 1], &o->place[at], (o->n - at) * sizeof(*o->place));
        o->place[at] = (struct place){s->entry->row, s};
        o->n++;
    }
    pthread_mutex_unlock(&r->lock);
}

static void order_remove(struct registry *r, const struct slot *s)
{
    struct order *o = &r->order[s->entry->app];
    size_t i = order_behind(o, s->entry->row);
    omid_assert(i > 0 && o->place[i - 1].slot == s);
    pthread_mutex_lock(&r->lock);
    o->place[i - 1].slot = NULL;
    o->holes++;
    pthread_mutex_unlock(&r->lock);
    if (o->holes > 64 && o->holes > o->n / 2)
        order_remake(r, o);
}

/* ---------------------------------------------------------------- entries; writer's thread */

static void slot_add(struct registry *r, struct registry_entry *e)
{
    struct slot *s = calloc(1, sizeof(*s));
    omid_assert(s != NULL);
    list_init(&s->dirty);
    s->entry = e;
    pthread_mutex_lock(&r->lock);
    omid_assert(map_put(shard(r->id, e->id), e->id, s, NULL));
    r->count[e->app]++;
    r->n_disabled += e->disabled_ms != 0;
    pthread_mutex_unlock(&r->lock);
    order_add(r, s);
    if (!e->app)
        user_add(r, e->uid, s);
}

void registry_put(struct registry *r, struct registry_entry *e, bool forget_run)
{
    struct slot *s = registry_slot(r, e->id);
    if (s == NULL) {
        slot_add(r, e);
        return;
    }
    struct user *u = e->app ? NULL : user_of(r, e->uid);
    pthread_mutex_lock(&r->lock);
    struct registry_entry *old = s->entry;
    r->n_disabled += (size_t)(e->disabled_ms != 0) - (size_t)(old->disabled_ms != 0);
    s->entry = e;
    s->disabling = false;
    if (forget_run)
        s->run = (struct registry_run){0};
    if (u != NULL)
        snapshot_void(u);
    else
        r->generation++;
    pthread_mutex_unlock(&r->lock);
    registry_entry_release(&old);
}

void registry_drop(struct registry *r, const char *id)
{
    struct slot *s = registry_slot(r, id);
    if (s == NULL)
        return;
    struct registry_entry *e = s->entry;
    struct user *u = e->app ? NULL : user_of(r, e->uid);
    if (e->app)
        users_forget(r, s);
    order_remove(r, s);
    pthread_mutex_lock(&r->lock);
    if (u != NULL)
        user_remove_locked(r, e->uid, u, s);
    if (!list_empty(&s->dirty)) {
        list_remove(&s->dirty);
        r->n_dirty--;
    }
    map_remove(shard(r->id, id), id);
    r->count[e->app]--;
    r->n_disabled -= e->disabled_ms != 0;
    pthread_mutex_unlock(&r->lock);
    registry_entry_release(&e);
    free(s);
}

/* ---------------------------------------------------------------- as registered */

struct registry_entry *registry_get(struct registry *r, bool app, const char *id, struct registry_run *run)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    struct registry_entry *e = NULL;
    pthread_mutex_lock(&r->lock);
    const struct slot *s = registry_slot(r, id);
    if (s != NULL && s->entry->app == app) {
        e = registry_entry_ref(s->entry);
        if (run != NULL)
            *run = s->run;
    }
    pthread_mutex_unlock(&r->lock);
    return e;
}

bool registry_enabled_for(struct registry *r, const char *id, const char *uid)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    pthread_mutex_lock(&r->lock);
    const struct slot *s = registry_slot(r, id);
    bool has = s != NULL && user_has(user_of(r, uid), s);
    pthread_mutex_unlock(&r->lock);
    return has;
}

/* One more for the page; false: it is full. */
static bool page_take(const struct registry_list *l, const struct slot *s, struct registry_entry **out, int *n,
                      bool *more)
{
    if (s == NULL || s->entry->app != l->app || (l->disabled && s->entry->disabled_ms == 0))
        return true;
    if ((size_t)*n == l->limit) {
        *more = true;
        return false;
    }
    out[(*n)++] = registry_entry_ref(s->entry);
    return true;
}

/* A uid's are few, and in the order of their coming. */
static int page_of_uid(const struct registry *r, const struct registry_list *l, const struct slot *after,
                       struct registry_entry **out, bool *more)
{
    const struct user *u = user_of(r, l->uid);
    size_t i = 0;
    int n = 0;
    if (after != NULL && !user_has(u, after))
        return -1;
    while (after != NULL && u->slot[i++] != after)
        ;
    while (u != NULL && i < u->n && page_take(l, u->slot[i], out, &n, more))
        i++;
    return n;
}

/* Looks at so many and lets others have the lock. */
#define PAGE_STRIDE 4096

static int page_of_all(struct registry *r, const struct registry_list *l, const struct slot *after,
                       struct registry_entry **out, bool *more)
{
    const struct order *o = &r->order[l->app];
    int64_t row = after != NULL ? after->entry->row : INT64_MIN;
    int n = 0;
    for (;;) {
        size_t i = order_behind(o, row), end = i + PAGE_STRIDE < o->n ? i + PAGE_STRIDE : o->n;
        if (i == end)
            return n;
        while (i < end && page_take(l, o->place[i].slot, out, &n, more))
            i++;
        if (i < end)
            return n;
        row = o->place[end - 1].row;
        pthread_mutex_unlock(&r->lock);
        pthread_mutex_lock(&r->lock);
    }
}

int registry_page(struct registry *r, const struct registry_list *l, struct registry_entry **out, bool *more)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    *more = false;
    pthread_mutex_lock(&r->lock);
    const struct slot *after = l->after != NULL ? registry_slot(r, l->after) : NULL;
    int n;
    if (l->after != NULL && (after == NULL || after->entry->app != l->app))
        n = -1;
    else if (l->disabled && r->n_disabled == 0)
        n = 0; /* not looked for among all */
    else if (l->uid != NULL)
        n = page_of_uid(r, l, after, out, more);
    else
        n = page_of_all(r, l, after, out, more);
    pthread_mutex_unlock(&r->lock);
    return n;
}

void registry_counts(struct registry *r, struct registry_counts *out)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    pthread_mutex_lock(&r->lock);
    *out = (struct registry_counts){.apps = r->count[RESERVED_APPS],
                                    .webhooks = r->count[RESERVED_WEBHOOKS],
                                    .enabled = r->count[RESERVED_ENABLED],
                                    .disabled = r->n_disabled};
    pthread_mutex_unlock(&r->lock);
}

/* ---------------------------------------------------------------- life */

static void collect(void *arg, struct buf *out)
{
    struct registry_counts n;
    registry_counts(arg, &n);
    buf_printf(out,
               "# HELP omid_registry_endpoints Apps and developer webhooks that are registered, disabled ones "
               "included.\n"
               "# TYPE omid_registry_endpoints gauge\n"
               "omid_registry_endpoints{kind=\"app\"} %zu\n"
               "omid_registry_endpoints{kind=\"webhook\"} %zu\n"
               "# HELP omid_registry_enabled Apps that are enabled for a user, over all users.\n"
               "# TYPE omid_registry_enabled gauge\n"
               "omid_registry_enabled %zu\n"
               "# HELP omid_registry_disabled Apps and developer webhooks that are disabled.\n"
               "# TYPE omid_registry_disabled gauge\n"
               "omid_registry_disabled %zu\n",
               n.apps, n.webhooks, n.enabled, n.disabled);
}

/* The run goes on where the last process left it: time since its first failure has passed meanwhile, by the wall's
 * clock, for there is no other. */
static void slot_resume(struct slot *s, const struct registry_run *run)
{
    int64_t now = clock_wall_ms(), passed = now > run->since_ms ? now - run->since_ms : 0;
    s->run = *run;
    s->mono_ms = (int64_t)clock_mono_ms() - passed;
}

static bool load(struct registry *r)
{
    struct db *db = r->store->db;
    sqlite3_stmt *st = db_stmt(db, SS_ENDPOINT_ALL);
    int rc;
    while ((rc = db_step(db, st)) > 0) {
        struct registry_run run;
        struct registry_entry *e = registry_entry_row(db, st, &run);
        if (e == NULL) {
            sqlite3_reset(st);
            return false;
        }
        slot_add(r, e);
        if (run.failures > 0)
            slot_resume(registry_slot(r, e->id), &run);
    }
    if (rc < 0)
        return false;
    st = db_stmt(db, SS_ENDPOINT_USERS);
    while ((rc = db_step(db, st)) > 0)
        registry_user_add(r, db_col_str(st, 1), db_col_str(st, 0));
    return rc == 0;
}

struct registry *registry_new(struct store *store, const struct registry_config *config, char *err, size_t errlen)
{
    static const char *const reasons[3] = {"failures", "time", "gone"};
    struct registry *r = calloc(1, sizeof(*r));
    bool ok = r != NULL;
    for (unsigned i = 0; ok && i < REGISTRY_SHARDS; i++)
        ok = (r->id[i] = map_new()) != NULL && (r->user[i] = map_new()) != NULL;
    omid_assert(ok); /* at the start */
    r->magic = REGISTRY_MAGIC;
    r->store = store;
    r->config = *config;
    list_init(&r->dirty);
    list_init(&r->told);
    pthread_mutex_init(&r->lock, NULL);
    r->m_refused = metric_counter("omid_registry_refused_total",
                                  "Changes of the registry that were refused because one of its bounds is reached.");
    for (unsigned i = 0; i < ARRAY_LEN(reasons); i++) {
        const struct metric_label label = {"reason", reasons[i]};
        r->m_disabled[i] =
            metric_get(METRIC_COUNTER, "omid_registry_disabled_total",
                       "Apps and developer webhooks that were disabled because they kept failing.", &label, 1, NULL, 0);
    }
    metrics_collector_add(collect, r);
    if (!load(r)) {
        snprintf(err, errlen, "%s", db_error(store->db));
        registry_free(&r);
    }
    return r;
}

void registry_configure(struct registry *r, const struct registry_config *config)
{
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    pthread_mutex_lock(&r->lock);
    r->config.max_apps = config->max_apps;
    r->config.max_webhooks = config->max_webhooks;
    r->config.max_enabled = config->max_enabled;
    r->config.failures = config->failures;
    r->config.failing_ms = config->failing_ms;
    r->config.overlap_ms = config->overlap_ms;
    pthread_mutex_unlock(&r->lock);
}

void registry_free(struct registry **rp)
{
    struct registry *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    CHECK_MAGIC(r, REGISTRY_MAGIC);
    metrics_collector_remove(collect, r);
    for (unsigned i = 0; i < REGISTRY_SHARDS; i++) {
        size_t pos = 0;
        void *value;
        while (map_next(r->user[i], &pos, NULL, &value))
            user_free(value);
        pos = 0;
        while (map_next(r->id[i], &pos, NULL, &value)) {
            struct slot *s = value;
            registry_entry_release(&s->entry);
            free(s);
        }
        map_free(&r->user[i]);
        map_free(&r->id[i]);
    }
    registry_told_clear(r);
    free(r->order[0].place);
    free(r->order[1].place);
    pthread_mutex_destroy(&r->lock);
    r->magic = OMID_MAGIC_DEAD;
    free(r);
}
