/*
 * What others may see of a lane's targets. Targets belong to the lane thread; a copy of the little that is shown lies
 * in each under the lane's `board_lock`, or is an atomic where it changes with every attempt. Readers hold the lock
 * for a bounded number of rows, those in trouble first: they are kept in a list of their own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "lane/http/lane_int.h"

#define ROWS_MAX 1000u /* of one answer, all lanes together */

void board_init(struct lane *l)
{
    pthread_mutex_init(&l->board_lock, NULL);
    list_init(&l->board_troubled);
    list_init(&l->board_calm);
}

void board_free(struct lane *l)
{
    omid_assert(list_empty(&l->board_troubled) && list_empty(&l->board_calm));
    pthread_mutex_destroy(&l->board_lock);
}

static void board_copy(struct lane *l, struct target *t)
{
    t->seen.state = t->breaker.state;
    t->seen.since_ms = t->breaker.since_ms;
    t->seen.open_until = t->breaker.open_until;
    t->seen.why = breaker_why_name(t->breaker.why);
    list_remove(&t->board);
    list_prepend(t->breaker.state == BREAKER_CLOSED ? &l->board_calm : &l->board_troubled, &t->board);
}

void board_put(struct lane *l, struct target *t)
{
    pthread_mutex_lock(&l->board_lock);
    board_copy(l, t);
    pthread_mutex_unlock(&l->board_lock);
}

void board_remove(struct lane *l, struct target *t)
{
    pthread_mutex_lock(&l->board_lock);
    list_remove(&t->board);
    pthread_mutex_unlock(&l->board_lock);
}

static void write_target(struct json_w *w, const struct lane *l, struct target *t, uint64_t now)
{
    json_w_open(w, '{');
    json_w_kstr(w, "lane", l->name);
    json_w_kstr(w, "target", t->key);
    json_w_kstr(w, "state", breaker_state_name(t->seen.state));
    json_w_kint(w, "since_ms", now > t->seen.since_ms ? (int64_t)(now - t->seen.since_ms) : 0);
    json_w_kstr(w, "why", t->seen.why);
    json_w_key(w, "next_probe_ms");
    if (t->seen.state == BREAKER_OPEN)
        json_w_int(w, t->seen.open_until > now ? (int64_t)(t->seen.open_until - now) : 0);
    else
        json_w_null(w);
    json_w_key(w, "limit");
    if (t->adaptive)
        json_w_int(w, atomic_load(&t->seen.limit));
    else
        json_w_null(w);
    json_w_kint(w, "in_flight", atomic_load(&t->seen.inflight));
    json_w_kint(w, "waiting", atomic_load(&t->seen.waiting));
    json_w_close(w, '}');
}

static void write_list(struct json_w *w, struct lane *l, bool troubled, uint64_t now, unsigned *rows)
{
    pthread_mutex_lock(&l->board_lock);
    list_each (it, troubled ? &l->board_troubled : &l->board_calm) {
        if (*rows == 0)
            break;
        --*rows;
        write_target(w, l, list_entry(it, struct target, board), now);
    }
    pthread_mutex_unlock(&l->board_lock);
}

void lanes_breakers(struct lanes *ls, const char *name, struct json_w *w)
{
    unsigned rows = ROWS_MAX;
    uint64_t all = 0;

    CHECK_MAGIC(ls, LANES_MAGIC);
    uint64_t now = clock_mono_ms();
    json_w_open(w, '{');
    json_w_key(w, "breakers");
    json_w_open(w, '[');
    pthread_mutex_lock(&ls->lock);
    for (int troubled = 1; troubled >= 0; troubled--) {
        list_each (it, &ls->lanes) {
            struct lane *l = list_entry(it, struct lane, link);
            if (name && strcmp(l->name, name) != 0)
                continue;
            write_list(w, l, troubled == 1, now, &rows);
            all += troubled == 1 ? atomic_load(&l->seen.targets) : 0;
        }
    }
    pthread_mutex_unlock(&ls->lock);
    json_w_close(w, ']');
    json_w_kint(w, "shown", ROWS_MAX - rows);
    json_w_kint(w, "targets", (int64_t)all);
    json_w_close(w, '}');
}

/* ------------------------------------------------------------------ reset */

struct reset_msg {
    struct loop_msg msg;
    struct lanes *ls;
    bool one_lane;
    char text[]; /* the target's key and, behind its NUL, the lane's name */
};

static void on_reset(struct loop *loop, struct loop_msg *msg)
{
    struct reset_msg *m = container_of(msg, struct reset_msg, msg);
    const char *name = m->one_lane ? m->text + strlen(m->text) + 1 : NULL;

    (void)loop;
    pthread_mutex_lock(&m->ls->lock);
    list_each (it, &m->ls->lanes) {
        struct lane *l = list_entry(it, struct lane, link);
        if (!name || strcmp(l->name, name) == 0)
            target_reset(l, m->text);
    }
    pthread_mutex_unlock(&m->ls->lock);
    free(m);
}

static unsigned count_troubled(struct lanes *ls, const char *name, const char *key)
{
    unsigned n = 0;

    pthread_mutex_lock(&ls->lock);
    list_each (it, &ls->lanes) {
        struct lane *l = list_entry(it, struct lane, link);
        if (name && strcmp(l->name, name) != 0)
            continue;
        pthread_mutex_lock(&l->board_lock);
        list_each (at, &l->board_troubled)
            n += strcmp(list_entry(at, struct target, board)->key, key) == 0;
        pthread_mutex_unlock(&l->board_lock);
    }
    pthread_mutex_unlock(&ls->lock);
    return n;
}

int lanes_breaker_reset(struct lanes *ls, const char *url, const char *name)
{
    CHECK_MAGIC(ls, LANES_MAGIC);
    size_t size = strlen(url) + URL_KEY_EXTRA, name_size = name ? strlen(name) + 1 : 0;

    if (strlen(url) > LANE_MAX_URL)
        return OMID_EINVAL;
    struct reset_msg *m = calloc(1, sizeof *m + size + name_size);
    if (!m)
        return OMID_ERR;
    if (!url_key(url, m->text, size)) {
        free(m);
        return OMID_EINVAL;
    }
    int n = (int)count_troubled(ls, name, m->text);
    if (n == 0 || !lanes_enter(ls)) {
        free(m);
        return n == 0 ? 0 : OMID_ECLOSED;
    }
    m->msg.fn = on_reset;
    m->ls = ls;
    m->one_lane = name != NULL;
    if (name)
        memcpy(m->text + strlen(m->text) + 1, name, name_size);
    loop_post(ls->loop, &m->msg);
    lanes_leave(ls);
    return n;
}
