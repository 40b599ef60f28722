#include "session/voices.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lane/exec/exec.h"
#include "session/speakers.h"
#include "session/state.h"

#define MODULE "speakers"
#define VOICES_MAGIC UINT32_C(0x766f6963)

struct voices {
    uint32_t magic;
    struct sessions *ss;
    char *uid;
    unsigned holders;
    bool reading, settled; /* settled: they have been read, once */
    bool stale;            /* to be read again, when the reading under way is over or when there is room for it */
    struct store_voices known;
    /* The reading's, while it is under way. */
    struct store_voices read;
    size_t max_bytes;
    int result;
    char err[256];
};

static void voices_read_begin(struct voices *v);

static void voices_free(struct voices *v)
{
    CHECK_MAGIC(v, VOICES_MAGIC);
    map_remove(v->ss->voices, v->uid);
    budget_add(-(int64_t)v->known.bytes);
    store_voices_free(&v->known);
    v->magic = OMID_MAGIC_DEAD;
    free(v->uid);
    free(v);
}

/* On a thread of the executor: v->known is the reactor's meanwhile. */
static void read_run(void *arg)
{
    struct voices *v = arg;
    v->result = store_voices_read(v->ss->env.store, v->uid, v->max_bytes, &v->read, v->err, sizeof v->err);
}

static void read_done(void *arg, bool ran)
{
    struct voices *v = arg;
    CHECK_MAGIC(v, VOICES_MAGIC);
    v->reading = false;
    if (ran && v->result == OMID_OK) {
        budget_add((int64_t)v->read.bytes - (int64_t)v->known.bytes);
        store_voices_free(&v->known);
        v->known = v->read;
        v->read = (struct store_voices){0};
        v->settled = true;
        log_debug(MODULE, "voices were read", LU("voices", v->known.n));
        if (v->known.left_out > 0) {
            metric_add(speakers_metrics()->left_out, (int64_t)v->known.left_out);
            log_warning(MODULE, "a user has more voices than speakers.voices has room for: the oldest are left out",
                        LU("voices", v->known.n), LU("left_out", v->known.left_out));
        }
    } else if (ran) {
        log_error(MODULE, "voices were not read: nobody new is recognised", LS("reason", v->err));
    }
    if (v->holders == 0) {
        voices_free(v);
        return;
    }
    if (v->stale)
        voices_read_begin(v);
    speakers_voices_read(v->ss, v);
}

static void voices_read_begin(struct voices *v)
{
    struct omid_work work = {.size = sizeof work,
                             .pool = OMID_POOL_STORAGE,
                             .label = "read_voices",
                             .run = read_run,
                             .done = read_done,
                             .arg = v};
    v->stale = false;
    v->result = OMID_ERR;
    v->max_bytes = (size_t)v->ss->env.conf->speakers.voices;
    v->reading = exec_submit(v->ss->env.exec, exec_core, v->ss->env.loop, &work) == OMID_OK;
    v->stale = !v->reading; /* the executor is full */
}

struct voices *voices_hold(struct sessions *ss, const char *uid)
{
    struct voices *v = map_get(ss->voices, uid);
    if (v) {
        v->holders++;
        return v;
    }
    v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->magic = VOICES_MAGIC;
    v->ss = ss;
    v->holders = 1;
    v->uid = strdup(uid);
    if (!v->uid || !map_put(ss->voices, uid, v, NULL)) {
        free(v->uid);
        free(v);
        return NULL;
    }
    voices_read_begin(v);
    return v;
}

void voices_release(struct voices **vp)
{
    struct voices *v = *vp;
    *vp = NULL;
    if (!v)
        return;
    CHECK_MAGIC(v, VOICES_MAGIC);
    omid_assert(v->holders > 0);
    if (--v->holders == 0 && !v->reading)
        voices_free(v);
}

const struct store_voices *voices_known(const struct voices *v)
{
    CHECK_MAGIC(v, VOICES_MAGIC);
    return &v->known;
}

bool voices_awaited(const struct voices *v)
{
    CHECK_MAGIC(v, VOICES_MAGIC);
    return !v->settled && (v->reading || v->stale);
}

void voices_settle(struct voices *v)
{
    CHECK_MAGIC(v, VOICES_MAGIC);
    if (v->stale && !v->reading)
        voices_read_begin(v);
}

void voices_changed(struct sessions *ss, const char *uid)
{
    struct voices *v = map_get(ss->voices, uid);
    if (!v)
        return;
    if (v->reading)
        v->stale = true;
    else
        voices_read_begin(v);
}

void voices_free_all(struct sessions *ss)
{
    size_t pos = 0;
    void *value;
    while (ss->voices && map_next(ss->voices, &pos, NULL, &value)) {
        struct voices *v = value;
        map_remove(ss->voices, v->uid);
        if (!v->reading) /* else an executor's thread that was abandoned may still use it */
            voices_free(v);
        pos = 0;
    }
}
