#include "session/roster.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/magic.h"

/* Guards the list of rosters; taken before a roster's own lock. */
static pthread_mutex_t rosters_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list rosters = {&rosters, &rosters};

void roster_init(struct roster *b, const char *const *state_names, unsigned n_states, unsigned calm_state, void *owner)
{
    omid_assert(n_states <= ROSTER_STATES_MAX && calm_state < n_states);
    memset(b, 0, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    list_init(&b->troubled);
    list_init(&b->calm);
    b->state_names = state_names;
    b->n_states = n_states;
    b->calm_state = calm_state;
    b->owner = owner;
    pthread_mutex_lock(&rosters_lock);
    list_append(&rosters, &b->link);
    pthread_mutex_unlock(&rosters_lock);
}

void roster_free(struct roster *b)
{
    pthread_mutex_lock(&rosters_lock);
    list_remove(&b->link);
    pthread_mutex_unlock(&rosters_lock);
    omid_assert(list_empty(&b->troubled) && list_empty(&b->calm));
    pthread_mutex_destroy(&b->lock);
}

static struct list *roster_list(struct roster *b, const struct roster_row *row)
{
    return row->state == b->calm_state && row->lag_ms < ROSTER_LAGGING_MS ? &b->calm : &b->troubled;
}

void roster_put(struct roster *b, struct roster_entry *e, const struct roster_row *row)
{
    omid_assert(row->state < b->n_states);
    pthread_mutex_lock(&b->lock);
    if (!e->listed) {
        list_append(roster_list(b, row), &e->link);
    } else {
        b->count[e->row.state]--;
        if (roster_list(b, row) != roster_list(b, &e->row)) {
            list_remove(&e->link);
            list_append(roster_list(b, row), &e->link);
        }
    }
    e->listed = true;
    e->row = *row;
    b->count[row->state]++;
    pthread_mutex_unlock(&b->lock);
}

void roster_remove(struct roster *b, struct roster_entry *e)
{
    if (!e->listed)
        return;
    pthread_mutex_lock(&b->lock);
    list_remove(&e->link);
    b->count[e->row.state]--;
    e->listed = false;
    pthread_mutex_unlock(&b->lock);
}

/* ------------------------------------------------------------------------ reading */

struct roster_copy {
    struct roster_row *row;
    const char **state; /* of each */
    unsigned n, matching, total;
    char uid_tag[16];
    unsigned count[ROSTER_STATES_MAX];
    const char *const *state_names;
    unsigned n_states;
};

static bool row_matches(const struct roster *b, const struct roster_row *row, const struct roster_filter *filter,
                        const char *tag)
{
    if (filter->uid && strcmp(row->uid_tag, filter->uid) != 0 && strcmp(row->uid_tag, tag) != 0)
        return false;
    return !filter->state || strcmp(b->state_names[row->state], filter->state) == 0;
}

static void list_copy(struct roster *b, const struct list *rows, const struct roster_filter *filter,
                      struct roster_copy *c)
{
    bool all = !filter->uid && !filter->state;
    list_each (it, rows) {
        const struct roster_row *row = &list_entry(it, struct roster_entry, link)->row;
        if (c->n == ROSTER_ROWS_MAX && all)
            return; /* those that match are counted by their states */
        if (!row_matches(b, row, filter, c->uid_tag))
            continue;
        c->matching++;
        if (c->n == ROSTER_ROWS_MAX)
            continue;
        c->state[c->n] = b->state_names[row->state];
        c->row[c->n++] = *row;
    }
}

/* Those in trouble of all rosters, then the others. */
static void rosters_copy(const struct roster_filter *filter, struct roster_copy *c)
{
    pthread_mutex_lock(&rosters_lock);
    for (int troubled = 1; troubled >= 0; troubled--) {
        list_each (it, &rosters) {
            struct roster *b = list_entry(it, struct roster, link);
            pthread_mutex_lock(&b->lock);
            list_copy(b, troubled ? &b->troubled : &b->calm, filter, c);
            for (unsigned i = 0; troubled && i < b->n_states; i++) {
                c->count[i] += b->count[i];
                c->total += b->count[i];
            }
            c->state_names = b->state_names;
            c->n_states = b->n_states;
            pthread_mutex_unlock(&b->lock);
        }
    }
    pthread_mutex_unlock(&rosters_lock);
    if (!filter->uid && !filter->state)
        c->matching = c->total > c->n ? c->total : c->n;
}

static int64_t since(uint64_t now, uint64_t then)
{
    return now > then ? (int64_t)(now - then) : 0;
}

static void row_write(struct json_w *w, const struct roster_row *r, const char *state, uint64_t now)
{
    json_w_open(w, '{');
    json_w_kstr(w, "id", r->id);
    json_w_kstr(w, "uid", r->uid_tag);
    json_w_kstr(w, "state", state);
    json_w_kstr(w, "codec", r->codec);
    json_w_kint(w, "sample_rate", r->sample_rate);
    json_w_kint(w, "channels", r->channels);
    json_w_kstr(w, "language", r->language);
    json_w_kstr(w, "provider", r->provider[0] ? r->provider : NULL);
    json_w_kstr(w, "tasks", r->tasks);
    json_w_knum(w, "seconds", (double)since(now, r->began_ms) / 1000);
    json_w_knum(w, "idle_seconds", (double)since(now, r->last_data_ms) / 1000);
    json_w_kint(w, "bytes", (int64_t)r->bytes);
    json_w_kint(w, "bytes_per_second", r->bytes_per_s);
    json_w_kint(w, "lag_ms", r->lag_ms);
    json_w_close(w, '}');
}

void roster_write(const struct roster_filter *filter, struct json_w *w)
{
    struct roster_copy c = {.row = calloc(ROSTER_ROWS_MAX, sizeof *c.row),
                            .state = calloc(ROSTER_ROWS_MAX, sizeof *c.state)};
    if (filter->uid)
        hash_uid_tag(filter->uid, c.uid_tag);
    if (c.row && c.state)
        rosters_copy(filter, &c);
    uint64_t now = clock_mono_ms();
    json_w_open(w, '{');
    json_w_key(w, "sessions");
    json_w_open(w, '[');
    for (unsigned i = 0; c.row && c.state && i < c.n; i++)
        row_write(w, &c.row[i], c.state[i], now);
    json_w_close(w, ']');
    json_w_kint(w, "shown", c.n);
    json_w_kint(w, "matching", c.matching);
    json_w_kint(w, "total", c.total);
    json_w_key(w, "states");
    json_w_open(w, '{');
    for (unsigned i = 0; i < c.n_states; i++)
        json_w_kint(w, c.state_names[i], c.count[i]);
    json_w_close(w, '}');
    json_w_close(w, '}');
    free(c.row);
    free(c.state);
}

static bool list_has(const struct list *rows, const char *id)
{
    list_each (it, rows) {
        if (strcmp(list_entry(it, struct roster_entry, link)->row.id, id) == 0)
            return true;
    }
    return false;
}

void *roster_find(const char *id)
{
    void *owner = NULL;
    pthread_mutex_lock(&rosters_lock);
    list_each (it, &rosters) {
        struct roster *b = list_entry(it, struct roster, link);
        pthread_mutex_lock(&b->lock);
        if (list_has(&b->troubled, id) || list_has(&b->calm, id))
            owner = b->owner;
        pthread_mutex_unlock(&b->lock);
        if (owner)
            break;
    }
    pthread_mutex_unlock(&rosters_lock);
    return owner;
}
