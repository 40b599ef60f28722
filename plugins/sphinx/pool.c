/* What the instances share: sessions, turns to decode, idle decoders. */
#include <stdlib.h>
#include <string.h>

#include "sphinx.h"

static void conf_clear(struct sphinx_conf *conf)
{
    free(conf->acoustic);
    free(conf->lm);
    free(conf->dictionary);
}

struct sphinx_shared *shared_new(struct omid_module *mod, const struct omid_host *host, struct sphinx_conf *conf)
{
    struct sphinx_shared *sh = calloc(1, sizeof(*sh));
    struct decoder **idle = calloc(conf->max_sessions, sizeof(struct decoder *));
    if (sh == NULL || idle == NULL || pthread_mutex_init(&sh->lock, NULL) != 0) {
        free(sh);
        free(idle);
        conf_clear(conf);
        return NULL;
    }
    sh->magic = SPHINX_SHARED_MAGIC;
    sh->mod = mod;
    sh->host = host;
    sh->conf = *conf;
    sh->idle = idle;
    atomic_init(&sh->sessions, 0);
    atomic_init(&sh->refs, 1);
    return sh;
}

void shared_ref(struct sphinx_shared *sh)
{
    sphinx_assert(sh->magic == SPHINX_SHARED_MAGIC);
    atomic_fetch_add(&sh->refs, 1);
}

void shared_unref(struct sphinx_shared **shp)
{
    struct sphinx_shared *sh = *shp;
    *shp = NULL;
    sphinx_assert(sh->magic == SPHINX_SHARED_MAGIC);
    if (atomic_fetch_sub(&sh->refs, 1) != 1)
        return;
    for (unsigned i = 0; i < sh->n_idle; i++)
        decoder_free(&sh->idle[i]);
    free(sh->idle);
    pthread_mutex_destroy(&sh->lock);
    conf_clear(&sh->conf);
    sh->magic = 0;
    free(sh);
}

bool shared_session_take(struct sphinx_shared *sh)
{
    unsigned have = atomic_load(&sh->sessions);
    do {
        if (have >= sh->conf.max_sessions)
            return false;
    } while (!atomic_compare_exchange_weak(&sh->sessions, &have, have + 1));
    return true;
}

void shared_session_give(struct sphinx_shared *sh)
{
    unsigned had = atomic_fetch_sub(&sh->sessions, 1);
    sphinx_assert(had > 0);
}

bool turn_ask(struct sphinx_shared *sh, struct turn *t)
{
    pthread_mutex_lock(&sh->lock);
    sphinx_assert(atomic_load(&t->state) == TURN_NONE);
    t->next = NULL;
    bool now = sh->running < sh->conf.threads && sh->first == NULL;
    if (now) {
        sh->running++;
    } else if (sh->first == NULL) {
        sh->first = sh->last = t;
    } else {
        sh->last->next = t;
        sh->last = t;
    }
    atomic_store(&t->state, now ? TURN_GRANTED : TURN_WAITING);
    pthread_mutex_unlock(&sh->lock);
    return now;
}

bool turn_granted(const struct turn *t)
{
    return atomic_load(&t->state) == TURN_GRANTED;
}

static void queue_remove(struct sphinx_shared *sh, struct turn *t)
{
    struct turn *before = NULL;
    struct turn *at = sh->first;
    while (at != t) {
        sphinx_assert(at != NULL);
        before = at;
        at = at->next;
    }
    if (before == NULL)
        sh->first = t->next;
    else
        before->next = t->next;
    if (sh->last == t)
        sh->last = before;
}

void turn_end(struct sphinx_shared *sh, struct turn *t)
{
    pthread_mutex_lock(&sh->lock);
    enum turn_state state = atomic_load(&t->state);
    sphinx_assert(state != TURN_NONE);
    if (state == TURN_WAITING) {
        queue_remove(sh, t);
    } else {
        sphinx_assert(sh->running > 0);
        sh->running--;
        /* The next in the queue owns the turn from now on; its reactor finds out when it looks. */
        while (sh->first != NULL && sh->running < sh->conf.threads) {
            struct turn *next = sh->first;
            sh->first = next->next;
            if (sh->first == NULL)
                sh->last = NULL;
            sh->running++;
            atomic_store(&next->state, TURN_GRANTED);
        }
    }
    atomic_store(&t->state, TURN_NONE);
    pthread_mutex_unlock(&sh->lock);
}

struct decoder *pool_take(struct sphinx_shared *sh)
{
    pthread_mutex_lock(&sh->lock);
    struct decoder *d = sh->n_idle > 0 ? sh->idle[--sh->n_idle] : NULL;
    pthread_mutex_unlock(&sh->lock);
    return d;
}

void pool_give(struct sphinx_shared *sh, struct decoder **d)
{
    pthread_mutex_lock(&sh->lock);
    bool room = sh->n_idle < sh->conf.max_sessions;
    if (room) {
        sh->idle[sh->n_idle++] = *d;
        *d = NULL;
    }
    pthread_mutex_unlock(&sh->lock);
    if (!room)
        decoder_free(d);
}
