#include "session/vad_engine.h"

#include "base/list.h"
#include "base/magic.h"

const char *vad_error_name(enum vad_error e)
{
    static const char *const names[VAD_ERRORS] = {
        [VAD_OK] = "none",       [VAD_NO_PLUGIN] = "no_plugin", [VAD_OPEN] = "open",
        [VAD_ERROR] = "error",   [VAD_BAD_VALUE] = "bad_value", [VAD_STOPPED] = "stopped",
        [VAD_MEMORY] = "memory",
    };
    return names[e];
}

static void engine_close(struct vad_engine *v)
{
    struct host_call call;
    void *engine = v->engine;
    v->engine = NULL;
    host_detach(&v->att);
    host_enter(&call, v->inst, "vad.close");
    host_plugin(v->inst)->vad->close(engine);
    host_leave(&call, OMID_OK);
}

/* The next window() will tell. */
static void on_stopping(struct host_attachment *att)
{
    engine_close(container_of(att, struct vad_engine, att));
}

static void on_stopped(struct host_attachment *att)
{
    host_detach(att); /* on_stopping() has: for the contract alone */
}

static struct omid_instance *find(struct host *host, unsigned reactor)
{
    for (unsigned i = 0; i < host_module_count(host, reactor); i++) {
        struct omid_instance *inst = host_instance(host, reactor, i);
        if (inst && host_plugin(inst)->vad)
            return inst;
    }
    return NULL;
}

enum vad_error vad_engine_open(struct vad_engine *v, struct host *host, unsigned reactor, uint32_t rate)
{
    struct omid_instance *inst = find(host, reactor);
    omid_assert(!v->inst);
    if (!inst)
        return VAD_NO_PLUGIN;
    struct host_call call;
    void *engine = NULL;
    host_enter(&call, inst, "vad.open");
    int rc = host_leave(&call, host_plugin(inst)->vad->open(host_state(inst), rate, &engine));
    if (rc != OMID_OK)
        return VAD_OPEN;
    *v = (struct vad_engine){.inst = inst, .engine = engine, .att = {.stopping = on_stopping, .stopped = on_stopped}};
    host_use(inst);
    host_attach(inst, &v->att);
    return VAD_OK;
}

enum vad_error vad_engine_window(struct vad_engine *v, const int16_t *pcm, size_t n, float *probability)
{
    if (!v->inst)
        return VAD_NO_PLUGIN;
    if (!v->engine)
        return VAD_STOPPED;
    struct host_call call;
    float p = -1;
    host_enter(&call, v->inst, "vad.window");
    int rc = host_leave(&call, host_plugin(v->inst)->vad->window(v->engine, pcm, n, &p));
    if (rc != OMID_OK)
        return VAD_ERROR;
    if (!(p >= 0 && p <= 1)) /* NaN is neither */
        return VAD_BAD_VALUE;
    *probability = p;
    return VAD_OK;
}

void vad_engine_close(struct vad_engine *v)
{
    if (!v->inst)
        return;
    if (v->engine)
        engine_close(v);
    host_unuse(v->inst);
    v->inst = NULL;
}
