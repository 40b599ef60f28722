/* One entry: from what was given, from its row, and to it. */
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "store/registry_int.h"

struct registry_entry *registry_entry_new(void)
{
    struct registry_entry *e = calloc(1, sizeof(*e));
    if (e != NULL) {
        e->magic = ENTRY_MAGIC;
        atomic_init(&e->refs, 1);
    }
    return e;
}

struct registry_entry *registry_entry_ref(struct registry_entry *e)
{
    CHECK_MAGIC(e, ENTRY_MAGIC);
    atomic_fetch_add(&e->refs, 1);
    return e;
}

void registry_entry_release(struct registry_entry **ep)
{
    struct registry_entry *e = *ep;
    *ep = NULL;
    if (e == NULL)
        return;
    CHECK_MAGIC(e, ENTRY_MAGIC);
    if (atomic_fetch_sub(&e->refs, 1) > 1)
        return;
    for (size_t i = 0; i < e->n_secrets; i++) {
        if (e->secret[i].text != NULL)
            explicit_bzero(e->secret[i].text, strlen(e->secret[i].text));
        free(e->secret[i].text);
    }
    for (char **ev = e->events; ev != NULL && *ev != NULL; ev++)
        free(*ev);
    free(e->secret);
    free(e->events);
    free(e->id);
    free(e->uid);
    free(e->name);
    free(e->url);
    free(e->setup_url);
    free(e->filter);
    free(e->seed);
    free(e->disabled_reason);
    e->magic = OMID_MAGIC_DEAD;
    free(e);
}

/* ---------------------------------------------------------------- from what was given */

static char *pick(bool given, const char *text, const char *base)
{
    const char *from = given ? text : base;
    return strdup(from != NULL ? from : "");
}

static char **events_copy(const char *const *from)
{
    size_t n = 0;
    while (from != NULL && from[n] != NULL)
        n++;
    char **to = calloc(n + 1, sizeof(char *));
    for (size_t i = 0; to != NULL && i < n; i++) {
        if ((to[i] = strdup(from[i])) == NULL) {
            while (i > 0)
                free(to[--i]);
            free(to);
            return NULL;
        }
    }
    return to;
}

static bool secrets_copy(struct registry_entry *e, const struct registry_entry *base, const struct registry_spec *s)
{
    bool given = (s->given & REGISTRY_SECRET) != 0;
    size_t n = given ? 1 : base != NULL ? base->n_secrets : 0;
    e->secret = calloc(n + 1, sizeof(*e->secret));
    if (e->secret == NULL)
        return false;
    for (; e->n_secrets < n; e->n_secrets++) {
        struct registry_secret *to = &e->secret[e->n_secrets];
        if (!given)
            *to = base->secret[e->n_secrets];
        to->text = strdup(given ? s->secret : base->secret[e->n_secrets].text);
        if (to->text == NULL)
            return false;
    }
    return true;
}

struct registry_entry *registry_entry_make(const struct registry_entry *b, const struct registry_spec *s)
{
    unsigned g = s->given;
    struct registry_entry *e = registry_entry_new();
    if (e == NULL)
        return NULL;
    if (b != NULL) {
        e->row = b->row;
        e->created_ms = b->created_ms;
        e->changed_ms = b->changed_ms;
        e->disabled_ms = b->disabled_ms;
    }
    e->app = s->app;
    e->id = strdup(s->id);
    e->uid = pick(g & REGISTRY_UID, s->uid, b != NULL ? b->uid : NULL);
    e->name = pick(g & REGISTRY_NAME, s->name, b != NULL ? b->name : NULL);
    e->url = pick(g & REGISTRY_URL, s->url, b != NULL ? b->url : NULL);
    e->setup_url = pick(g & REGISTRY_SETUP_URL, s->setup_url, b != NULL ? b->setup_url : NULL);
    e->filter = pick(g & REGISTRY_FILTER, s->filter, b != NULL ? b->filter : NULL);
    e->seed = pick(false, NULL, b != NULL ? b->seed : NULL);
    e->disabled_reason = pick(false, NULL, b != NULL ? b->disabled_reason : NULL);
    e->events = events_copy(g & REGISTRY_EVENTS ? s->events : b != NULL ? (const char *const *)b->events : NULL);
    e->triggers = g & REGISTRY_TRIGGERS ? s->triggers : b != NULL ? b->triggers : 0;
    e->capabilities = g & REGISTRY_CAPABILITIES ? s->capabilities : b != NULL ? b->capabilities : 0;
    e->audio_ms = g & REGISTRY_AUDIO ? s->audio_ms : b != NULL ? b->audio_ms : REGISTRY_AUDIO_MS;
    e->rate_per_min = g & REGISTRY_RATE ? s->rate_per_min : b != NULL ? b->rate_per_min : 0;
    e->ordered = g & REGISTRY_ORDERED ? s->ordered : b != NULL && b->ordered;
    if (!secrets_copy(e, b, s) || e->id == NULL || e->uid == NULL || e->name == NULL || e->url == NULL ||
        e->setup_url == NULL || e->filter == NULL || e->seed == NULL || e->disabled_reason == NULL || e->events == NULL)
        registry_entry_release(&e);
    if (e != NULL && e->events[0] != NULL)
        e->triggers |= 1u << OMID_TRIGGER_EVENT;
    else if (e != NULL)
        e->triggers &= ~(1u << OMID_TRIGGER_EVENT);
    return e;
}

/* ---------------------------------------------------------------- the file */

static char **events_parse(const char *text)
{
    char err[80];
    yajl_val v = json_parse(text, strlen(text), 0, err, sizeof(err));
    size_t n = json_len(v);
    const char **list = calloc(n + 1, sizeof(*list));
    char **out = NULL;
    if (v != NULL && list != NULL) {
        for (size_t i = 0, k = 0; i < n; i++) {
            if (YAJL_IS_STRING(json_at(v, i)))
                list[k++] = YAJL_GET_STRING(json_at(v, i));
        }
        out = events_copy(list);
    }
    free(list);
    json_free(&v);
    return out;
}

static bool secrets_read(struct db *db, struct registry_entry *e)
{
    sqlite3_stmt *st = db_stmt(db, SS_ENDPOINT_SECRETS);
    int rc;
    sqlite3_bind_int64(st, 1, e->row);
    while ((rc = db_step(db, st)) > 0) {
        struct registry_secret *more = realloc(e->secret, (e->n_secrets + 1) * sizeof(*more));
        if (more == NULL) {
            sqlite3_reset(st);
            return false;
        }
        e->secret = more;
        struct registry_secret *s = &more[e->n_secrets++];
        *s = (struct registry_secret){.text = db_col_dup(st, 0),
                                      .created_ms = sqlite3_column_int64(st, 1),
                                      .valid_until_ms = sqlite3_column_int64(st, 2)};
        if (s->text == NULL) {
            sqlite3_reset(st);
            return false;
        }
    }
    return rc == 0;
}

struct registry_entry *registry_entry_row(struct db *db, sqlite3_stmt *st, struct registry_run *run)
{
    struct registry_entry *e = registry_entry_new();
    if (e == NULL)
        return NULL;
    e->row = sqlite3_column_int64(st, 0);
    e->id = db_col_dup(st, 1);
    e->app = sqlite3_column_int(st, 2) != 0;
    e->uid = db_col_dup(st, 3);
    e->name = db_col_dup(st, 4);
    e->url = db_col_dup(st, 5);
    e->setup_url = db_col_dup(st, 6);
    e->triggers = (uint32_t)sqlite3_column_int64(st, 7);
    e->capabilities = (uint32_t)sqlite3_column_int64(st, 8);
    e->events = events_parse(db_col_str(st, 9));
    e->filter = db_col_dup(st, 10);
    e->audio_ms = (uint32_t)sqlite3_column_int64(st, 11);
    e->ordered = sqlite3_column_int(st, 12) != 0;
    e->rate_per_min = (uint32_t)sqlite3_column_int64(st, 13);
    e->created_ms = sqlite3_column_int64(st, 14);
    e->changed_ms = sqlite3_column_int64(st, 15);
    e->disabled_ms = sqlite3_column_int64(st, 16);
    e->disabled_reason = db_col_dup(st, 17);
    e->seed = db_col_dup(st, 18);
    if (run != NULL)
        *run = (struct registry_run){(unsigned)sqlite3_column_int64(st, 19), sqlite3_column_int64(st, 20)};
    if (e->id == NULL || e->uid == NULL || e->name == NULL || e->url == NULL || e->setup_url == NULL ||
        e->events == NULL || e->filter == NULL || e->disabled_reason == NULL || e->seed == NULL ||
        !secrets_read(db, e)) {
        db_set_error(db, "a row of endpoint can't be read");
        registry_entry_release(&e);
    }
    return e;
}

int registry_entry_read(struct db *db, const char *id, struct registry_entry **out)
{
    sqlite3_stmt *st = db_stmt(db, SS_ENDPOINT_BY_ID);
    *out = NULL;
    db_bind_str(st, 1, id);
    int rc = db_step(db, st);
    if (rc <= 0)
        return rc < 0 ? OMID_ERR : OMID_OK;
    *out = registry_entry_row(db, st, NULL);
    sqlite3_reset(st);
    return *out != NULL ? OMID_OK : OMID_ERR;
}

bool registry_entry_bind(sqlite3_stmt *st, const struct registry_entry *e, char **events)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '[');
    for (char **ev = e->events; *ev != NULL; ev++)
        json_w_str(&w, *ev);
    json_w_close(&w, ']');
    bool ok = json_w_end(&w);
    *events = buf_steal(&b, NULL);
    if (!ok || *events == NULL)
        return false;
    db_bind_str(st, 1, e->id);
    sqlite3_bind_int(st, 2, e->app);
    db_bind_str(st, 3, e->uid);
    db_bind_str(st, 4, e->name);
    db_bind_str(st, 5, e->url);
    db_bind_str(st, 6, e->setup_url);
    sqlite3_bind_int64(st, 7, e->triggers);
    sqlite3_bind_int64(st, 8, e->capabilities);
    db_bind_str(st, 9, *events);
    db_bind_str(st, 10, e->filter);
    sqlite3_bind_int64(st, 11, e->audio_ms);
    sqlite3_bind_int(st, 12, e->ordered);
    sqlite3_bind_int64(st, 13, e->rate_per_min);
    sqlite3_bind_int64(st, 14, e->created_ms);
    sqlite3_bind_int64(st, 15, e->changed_ms);
    sqlite3_bind_int64(st, 16, e->disabled_ms);
    db_bind_str(st, 17, e->disabled_reason);
    db_bind_str(st, 18, e->seed);
    return true;
}
