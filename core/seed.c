/*
 * Apps and webhooks of the configuration: checked with it, and registered when the daemon starts or reads it again.
 * What is registered already is changed only when its block has changed since the last time, which a hash of it tells;
 * so what an operator changes otherwise stays. A block that is gone removes nothing.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/magic.h"
#include "daemon.h"
#include "store/registry.h"

#define SEED_WAIT_S 10 /* for the disk */

/* ---------------------------------------------------------------- a block, as the registry has it */

/* Strings are the configuration's, or lie here. */
struct block_spec {
    struct registry_spec spec;
    char url[REGISTRY_MAX_URL + 16];
    char secret[REGISTRY_MAX_SECRET]; /* made, for one that is new */
    struct buf filter;                /* without the white space of the file */
    char hash[65];
};

static const char *text_of(const struct conf_block *b, const char *key)
{
    const struct conf_value *v = conf_block_value(b, key);
    return v && v->v.s ? v->v.s : "";
}

static bool triggers_take(struct registry_spec *s, const struct conf_block *b, struct conf_faults *faults)
{
    const struct conf_value *v = conf_block_value(b, "triggers");
    for (size_t i = 0; v && i < v->v.list.n; i++) {
        uint32_t bit = registry_trigger(b->app, v->v.list.item[i]);
        if (bit == 0) {
            conf_block_fault(faults, b, "triggers",
                             b->app ? "expected memory_creation, transcript_processed or audio_bytes, found \"%.40s\""
                                    : "expected realtime_transcript, audio_bytes, memory_created or day_summary, found "
                                      "\"%.40s\"",
                             v->v.list.item[i]);
            return false;
        }
        s->triggers |= bit;
    }
    return true;
}

static bool capabilities_take(struct registry_spec *s, const struct conf_block *b, struct conf_faults *faults)
{
    const struct conf_value *v = conf_block_value(b, "capabilities");
    for (size_t i = 0; v && i < v->v.list.n; i++) {
        uint32_t bit = registry_capability(v->v.list.item[i]);
        if (bit == 0) {
            conf_block_fault(faults, b, "capabilities", "expected proactive_notification, found \"%.40s\"",
                             v->v.list.item[i]);
            return false;
        }
        s->capabilities |= bit;
    }
    return true;
}

/* What is not JSON stays as it is, for the check to tell. */
static void filter_take(struct block_spec *bs, const char *text)
{
    char err[80];
    struct json_w w;
    yajl_val v = *text ? json_parse(text, strlen(text), 0, err, sizeof err) : NULL;
    bs->filter = BUF_INIT(0);
    if (v) {
        json_w_start(&w, &bs->filter);
        json_w_tree(&w, v);
        if (!json_w_end(&w))
            buf_clear(&bs->filter);
    }
    json_free(&v);
    bs->spec.filter = bs->filter.len ? bs->filter.data : text;
}

static void audio_take(struct block_spec *bs, const struct conf_block *b)
{
    struct registry_spec *s = &bs->spec;
    const struct conf_value *audio = conf_block_value(b, "audio");
    s->audio_ms = (uint32_t)(audio->v.i / 1000 * 1000);
    if (b->app || (s->triggers & 1u << OMID_TRIGGER_AUDIO) == 0 || audio->set || strlen(s->url) >= sizeof bs->url)
        return;
    snprintf(bs->url, sizeof bs->url, "%s", s->url);
    if (registry_audio_split(bs->url, &s->audio_ms))
        s->url = bs->url;
}

/* registry_spec_check() names the API's fields; those here that are called otherwise. */
static const char *key_of(const char *fault, char *key, size_t size)
{
    snprintf(key, size, "%.*s", (int)strcspn(fault, ":"), fault);
    return strcmp(key, "audio_seconds") == 0 ? "audio" : key;
}

/* false: told. Free bs->filter either way. */
static bool spec_make(struct block_spec *bs, const struct conf_block *b, struct conf_faults *faults)
{
    static const char *const none[] = {NULL};
    const struct conf_value *events = conf_block_value(b, "events");
    struct registry_spec *s = &bs->spec;
    char err[256], key[32];
    *bs = (struct block_spec){.filter = BUF_INIT(0)};
    *s = (struct registry_spec){.given = REGISTRY_UID | REGISTRY_NAME | REGISTRY_URL | REGISTRY_SETUP_URL |
                                         REGISTRY_TRIGGERS | REGISTRY_CAPABILITIES | REGISTRY_EVENTS | REGISTRY_FILTER |
                                         REGISTRY_AUDIO | REGISTRY_ORDERED | REGISTRY_RATE | REGISTRY_ENABLED,
                                .app = b->app,
                                .id = b->id,
                                .uid = text_of(b, "uid"),
                                .name = text_of(b, "name"),
                                .url = text_of(b, "url"),
                                .setup_url = text_of(b, "setup_completed_url"),
                                .secret = text_of(b, "secret"),
                                .events = events->v.list.n ? (const char *const *)events->v.list.item : none,
                                .rate_per_min = (uint32_t)conf_block_value(b, "rate_per_min")->v.i,
                                .ordered = conf_block_value(b, "ordered")->v.b,
                                .enabled = conf_block_value(b, "enabled")->v.b};
    filter_take(bs, text_of(b, "filter"));
    if (!triggers_take(s, b, faults) || (b->app && !capabilities_take(s, b, faults)))
        return false;
    audio_take(bs, b);
    if (s->secret[0])
        s->given |= REGISTRY_SECRET;
    if (!registry_spec_check(s, err, sizeof err)) {
        const char *why = strchr(err, ':');
        conf_block_fault(faults, b, key_of(err, key, sizeof key), "%s", why ? why + 2 : err);
        return false;
    }
    if (s->triggers == 0 && s->events[0] == NULL) {
        conf_block_fault(faults, b, NULL, "expected at least one of triggers and events");
        return false;
    }
    return true;
}

bool daemon_blocks_check(const struct conf *c, struct conf_faults *faults)
{
    bool ok = true;
    for (size_t i = 0; i < c->n_blocks; i++) {
        struct block_spec bs;
        ok = spec_make(&bs, &c->block[i], faults) && ok;
        buf_free(&bs.filter);
    }
    return ok;
}

/* ---------------------------------------------------------------- has it changed? */

/* Each value with its length, so that no two blocks give the same text. */
static void hash_text(EVP_MD_CTX *md, const char *text)
{
    char head[32];
    snprintf(head, sizeof head, "%zu:", strlen(text));
    EVP_DigestUpdate(md, head, strlen(head));
    EVP_DigestUpdate(md, text, strlen(text));
}

static bool spec_hash(struct block_spec *bs)
{
    const struct registry_spec *s = &bs->spec;
    unsigned char out[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char numbers[96];
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (!md || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return false;
    }
    const char *const texts[] = {s->id, s->uid, s->name, s->url, s->setup_url, s->filter, s->secret};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        hash_text(md, texts[i]);
    for (const char *const *e = s->events; *e; e++)
        hash_text(md, *e);
    snprintf(numbers, sizeof numbers, "%d %x %x %u %u %d %d", s->app, s->triggers, s->capabilities, s->audio_ms,
             s->rate_per_min, s->ordered, s->enabled);
    hash_text(md, numbers);
    bool ok = EVP_DigestFinal_ex(md, out, &n) == 1 && n == 32;
    EVP_MD_CTX_free(md);
    for (unsigned i = 0; ok && i < n; i++)
        snprintf(bs->hash + 2 * (size_t)i, 3, "%02x", out[i]);
    return ok;
}

/* ---------------------------------------------------------------- registering */

/* Of the main thread, which may stop waiting, and of each block that is on its way. */
struct seeding {
    atomic_uint holders;
    sem_t done;
};
struct seed {
    struct seeding *all;
    bool app;
    char id[REGISTRY_MAX_ID + 1];
};

static void seeding_leave(struct seeding *s)
{
    if (atomic_fetch_sub(&s->holders, 1) > 1)
        return;
    sem_destroy(&s->done);
    free(s);
}

static void seed_failed(bool app, const char *id, int result)
{
    const char *why = result == OMID_EINVAL  ? "its id is another user's, or of the other kind"
                      : result == OMID_EFULL ? "there is no room: registry.max_apps, registry.max_webhooks, or 256 of "
                                               "its user"
                                             : "the disk failed";
    log_error(MODULE, "a block of the configuration is not registered", LS("kind", app ? "app" : "webhook"),
              LS("id", id), LS("reason", why));
}

static void on_seeded(void *arg, int result)
{
    struct seed *s = arg;
    if (result != OMID_OK)
        seed_failed(s->app, s->id, result);
    sem_post(&s->all->done);
    seeding_leave(s->all);
    free(s);
}

static bool seed_post(struct daemon *d, struct seeding *all, const struct conf_block *b, struct block_spec *bs)
{
    struct registry_spec *spec = &bs->spec;
    struct registry_entry *there = registry_get(d->registry, spec->app, spec->id, NULL);
    struct seed *s = calloc(1, sizeof *s);
    if (!there && (spec->given & REGISTRY_SECRET) == 0) { /* one that nobody knows before it is rotated */
        registry_secret_make(bs->secret);
        spec->secret = bs->secret;
        spec->given |= REGISTRY_SECRET;
    }
    registry_entry_release(&there);
    omid_assert(s); /* a few bytes */
    s->all = all;
    s->app = spec->app;
    snprintf(s->id, sizeof s->id, "%s", b->id);
    atomic_fetch_add(&all->holders, 1);
    int rc = registry_seed(d->registry, spec, bs->hash, d->loop[0], on_seeded, s);
    explicit_bzero(bs->secret, sizeof bs->secret);
    if (rc == OMID_OK)
        return true;
    seed_failed(s->app, s->id, rc);
    seeding_leave(all);
    free(s);
    return false;
}

void daemon_blocks_seed(struct daemon *d, const struct conf *c)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    struct seeding *all = c->n_blocks ? calloc(1, sizeof *all) : NULL;
    struct timespec until;
    size_t n = 0;
    if (!all)
        return;
    atomic_init(&all->holders, 1);
    sem_init(&all->done, 0, 0);
    for (size_t i = 0; i < c->n_blocks; i++) {
        struct block_spec bs;
        if (spec_make(&bs, &c->block[i], &faults) && spec_hash(&bs) && seed_post(d, all, &c->block[i], &bs))
            n++;
        buf_free(&bs.filter);
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += SEED_WAIT_S;
    while (n > 0) {
        if (sem_timedwait(&all->done, &until) == 0)
            n--;
        else if (errno != EINTR)
            break;
    }
    if (n > 0)
        log_warning(MODULE, "blocks of the configuration are still on their way to the disk", LU("blocks", n));
    seeding_leave(all);
    conf_faults_free(&faults);
}
