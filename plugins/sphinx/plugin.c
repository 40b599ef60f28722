/* sphinx: the plugin's table, its options and its life. See omid-sphinx(5). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sphinx.h"

static const struct omid_option options[] = {
    {.name = "model_dir",
     .type = OMID_OPT_STRING,
     .def = OMID_MODELDIR "/en-us",
     .min = 1,
     .max = 1024,
     .help = "Directory of the model. Relative acoustic_model, lm and dictionary are looked up in it."},
    {.name = "acoustic_model",
     .type = OMID_OPT_STRING,
     .def = "en-us",
     .min = 1,
     .max = 1024,
     .help = "Directory of the acoustic model."},
    {.name = "lm", .type = OMID_OPT_STRING, .def = "en-us.lm.bin", .min = 1, .max = 1024, .help = "Language model."},
    {.name = "dictionary",
     .type = OMID_OPT_STRING,
     .def = "cmudict-en-us.dict",
     .min = 1,
     .max = 1024,
     .help = "Pronunciation dictionary."},
    {.name = "threads",
     .type = OMID_OPT_INT,
     .def = "2",
     .min = 1,
     .max = 64,
     .help = "Streams that are decoded at the same moment, over all reactors."},
    {.name = "max_sessions",
     .type = OMID_OPT_INT,
     .def = "4",
     .min = 1,
     .max = 256,
     .help = "Streams open at the same time, over all reactors. Each needs a decoder of its own: about 94 MB."},
    {.name = "preload",
     .type = OMID_OPT_BOOL,
     .def = "true",
     .help = "Load the first decoder at start, so that the first stream need not wait for it."},
    {.name = "silence",
     .type = OMID_OPT_DURATION,
     .def = "700ms",
     .min = 100,
     .max = 5000,
     .help = "Silence that ends an utterance."},
    {.name = "max_utterance",
     .type = OMID_OPT_DURATION,
     .def = "30s",
     .min = 2000,
     .max = 120000,
     .help = "An utterance is cut here when no silence ends it before."},
    {.name = "buffer",
     .type = OMID_OPT_DURATION,
     .def = "10s",
     .min = 2000,
     .max = 60000,
     .help = "Audio that may wait in a stream for its decoding."},
    {.name = "ds", .type = OMID_OPT_INT, .def = "2", .min = 1, .max = 10, .help = "Frames per Gaussian selection."},
    {.name = "topn", .type = OMID_OPT_INT, .def = "2", .min = 1, .max = 32, .help = "Gaussians scored per codebook."},
    {.name = "maxhmmpf",
     .type = OMID_OPT_INT,
     .def = "3000",
     .min = 100,
     .max = 100000,
     .help = "HMMs evaluated per frame at most: the bound on the work of a frame."},
    {.name = "bestpath",
     .type = OMID_OPT_BOOL,
     .def = "true",
     .help = "Search the word lattice for the best path at the end of each utterance."},
    {.name = "fwdflat",
     .type = OMID_OPT_BOOL,
     .def = "false",
     .help = "A second, flat search at the end of each utterance: a little better, and several times slower."},
    {.name = NULL}};

/* NULL: no memory. */
static char *path_of(const char *dir, const char *name)
{
    size_t len = strlen(dir) + strlen(name) + 2;
    char *path = malloc(len);
    if (path == NULL)
        return NULL;
    if (name[0] == '/')
        snprintf(path, len, "%s", name);
    else
        snprintf(path, len, "%s/%s", dir, name);
    return path;
}

static bool is_there(const char *path, bool directory)
{
    struct stat st;
    return stat(path, &st) == 0 && (directory ? S_ISDIR(st.st_mode) : S_ISREG(st.st_mode)) && access(path, R_OK) == 0;
}

/* The parts of an acoustic model. pocketsphinx reports some missing ones by ending the process. */
static const char *const acoustic_parts[] = {"feat.params", "mdef", "means", "variances", "transition_matrices"};

static bool paths_check(struct omid_module *mod, const struct omid_host *host, const struct sphinx_conf *c,
                        const char *dir)
{
    if (!is_there(dir, true)) {
        host->conf_error(mod, "model_dir", "expected a readable directory with a pocketsphinx model, %s is none", dir);
        return false;
    }
    if (!is_there(c->acoustic, true)) {
        host->conf_error(mod, "acoustic_model", "expected a readable directory, %s is none", c->acoustic);
        return false;
    }
    for (size_t i = 0; i < sizeof(acoustic_parts) / sizeof(acoustic_parts[0]); i++) {
        char *part = path_of(c->acoustic, acoustic_parts[i]);
        bool ok = part != NULL && is_there(part, false);
        free(part);
        if (!ok) {
            host->conf_error(mod, "acoustic_model", "expected an acoustic model, %s has no readable %s", c->acoustic,
                             acoustic_parts[i]);
            return false;
        }
    }
    if (!is_there(c->lm, false)) {
        host->conf_error(mod, "lm", "expected a readable file, %s is none", c->lm);
        return false;
    }
    if (!is_there(c->dictionary, false)) {
        host->conf_error(mod, "dictionary", "expected a readable file, %s is none", c->dictionary);
        return false;
    }
    return true;
}

static void counters_add(struct sphinx_shared *sh)
{
    const struct omid_host *h = sh->host;
    struct omid_module *mod = sh->mod;
    sh->count.opened = h->counter(mod, "streams", "Streams by how they went.", "event", "opened");
    sh->count.refused = h->counter(mod, "streams", "Streams by how they went.", "event", "refused");
    sh->count.failed = h->counter(mod, "streams", "Streams by how they went.", "event", "failed");
    sh->count.utterances = h->counter(mod, "utterances", "Utterances recognised.", "words", "some");
    sh->count.no_words = h->counter(mod, "utterances", "Utterances recognised.", "words", "none");
    sh->count.audio_refused = h->counter(mod, "audio_refused", "Audio refused because too much waits.", NULL, NULL);
    sh->count.loaded = h->counter(mod, "loads", "Decoders loaded.", NULL, NULL);
}

static int sphinx_configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    const char *dir = host->conf_str(mod, "model_dir");
    struct sphinx_conf c = {
        .acoustic = path_of(dir, host->conf_str(mod, "acoustic_model")),
        .lm = path_of(dir, host->conf_str(mod, "lm")),
        .dictionary = path_of(dir, host->conf_str(mod, "dictionary")),
        .ds = (int)host->conf_int(mod, "ds"),
        .topn = (int)host->conf_int(mod, "topn"),
        .maxhmmpf = (int)host->conf_int(mod, "maxhmmpf"),
        .bestpath = host->conf_bool(mod, "bestpath"),
        .fwdflat = host->conf_bool(mod, "fwdflat"),
        .preload = host->conf_bool(mod, "preload"),
        .threads = (unsigned)host->conf_int(mod, "threads"),
        .max_sessions = (unsigned)host->conf_int(mod, "max_sessions"),
        .silence_ms = (uint32_t)host->conf_int(mod, "silence"),
        .max_utterance_ms = (uint32_t)host->conf_int(mod, "max_utterance"),
        .buffer_ms = (uint32_t)host->conf_int(mod, "buffer"),
    };
    bool memory = c.acoustic != NULL && c.lm != NULL && c.dictionary != NULL;
    if (!memory || !paths_check(mod, host, &c, dir)) {
        free(c.acoustic);
        free(c.lm);
        free(c.dictionary);
        return memory ? OMID_EINVAL : OMID_ERR;
    }
    struct sphinx_shared *sh = shared_new(mod, host, &c);
    if (sh == NULL)
        return OMID_ERR;
    counters_add(sh);
    *shared = sh;
    return OMID_OK;
}

static void sphinx_unconfigure(void *shared)
{
    struct sphinx_shared *sh = shared;
    if (sh == NULL)
        return;
    shared_unref(&sh);
    decoder_quiet();
}

/* --- preload --- */

struct preload {
    struct sphinx_instance *si;
    struct decoder *decoder;
    struct turn turn;
    char error[200];
};

static void preload_run(void *arg)
{
    struct preload *p = arg;
    struct sphinx_shared *sh = p->si->shared;
    p->decoder = decoder_load(sh, p->error, sizeof(p->error));
    turn_end(sh, &p->turn);
}

static void preload_done(void *arg, bool ran)
{
    struct preload *p = arg;
    struct sphinx_instance *si = p->si;
    if (!ran)
        turn_end(si->shared, &p->turn);
    if (p->decoder != NULL) {
        if (!si->stopped)
            si->host->counter_add(si->shared->count.loaded, 1);
        pool_give(si->shared, &p->decoder);
    } else if (ran && !si->stopped) {
        si->host->log(si->mod, OMID_LOG_ERROR, "preload: %s", p->error);
    }
    free(p);
    instance_unref(si);
}

/* Failing here is no reason not to start: a stream loads its own. */
static void preload_start(struct sphinx_instance *si)
{
    struct preload *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return;
    p->si = si;
    atomic_init(&p->turn.state, TURN_NONE);
    const struct omid_work work = {.size = sizeof(work),
                                   .pool = OMID_POOL_BLOCKING,
                                   .label = "sphinx_preload",
                                   .run = preload_run,
                                   .done = preload_done,
                                   .arg = p};
    si->refs++;
    if (turn_ask(si->shared, &p->turn) && si->host->exec_submit(si->inst, &work) == OMID_OK)
        return;
    turn_end(si->shared, &p->turn);
    free(p);
    instance_unref(si);
}

/* --- the instance --- */

static int sphinx_start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct sphinx_shared *sh = shared;
    struct sphinx_instance *si = calloc(1, sizeof(*si));
    if (si == NULL)
        return OMID_ERR;
    si->magic = SPHINX_INSTANCE_MAGIC;
    si->inst = inst;
    si->host = host;
    si->mod = host->module(inst);
    si->shared = sh;
    si->refs = 1;
    shared_ref(sh);
    *state = si;
    if (sh->conf.preload && !atomic_exchange(&sh->preloaded, true))
        preload_start(si);
    return OMID_OK;
}

static void sphinx_drain(void *state)
{
    struct sphinx_instance *si = state;
    si->draining = true;
    instance_check_drained(si);
}

static void sphinx_stop(void *state)
{
    struct sphinx_instance *si = state;
    si->stopped = true;
    recordings_stop(si);
    if (si->poll != NULL)
        si->host->timer_stop(&si->poll);
    if (si->second != NULL)
        si->host->timer_stop(&si->second);
    instance_unref(si);
}

_Noreturn void sphinx_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "omid: sphinx: assertion %s failed at %s:%d\n", expr, file, line);
    abort();
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,
    .flags = OMID_PLUGIN_BLOCKS_ON_EXECUTORS,
    .name = "sphinx",
    .version = "1.0",
    .summary = "local speech-to-text with pocketsphinx (English)",
    .options = options,
    .configure = sphinx_configure,
    .unconfigure = sphinx_unconfigure,
    .start = sphinx_start,
    .drain = sphinx_drain,
    .stop = sphinx_stop,
    .stt = &sphinx_role,
};
