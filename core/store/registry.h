/*
 * The registry: apps and developer webhooks, in store.db and, to be looked up at each event, in memory.
 *
 * Changes go to the store's writer; the memory changes after the commit, on the writer's thread. What is looked up is a
 * snapshot: counted, never changed, of any thread. Failures are counted in memory and written in batches: a crash loses
 * the last registry.flush of them.
 */
#ifndef OMID_STORE_REGISTRY_H
#define OMID_STORE_REGISTRY_H

#include "store/store.h"

#define REGISTRY_MAX_ID 64
#define REGISTRY_MAX_UID 128
#define REGISTRY_MAX_NAME 128
#define REGISTRY_MAX_URL 2048
#define REGISTRY_MAX_EVENTS 64
#define REGISTRY_MAX_EVENT 128   /* characters of a type */
#define REGISTRY_MAX_FILTER 4096 /* bytes of its JSON */
#define REGISTRY_MAX_PATHS 32    /* members of a filter */
#define REGISTRY_MAX_RATE 1000000
#define REGISTRY_MAX_SECRETS 5  /* valid at once: beyond it a rotation has to wait */
#define REGISTRY_MAX_OF_UID 256 /* webhooks and enabled apps of one uid */
#define REGISTRY_MAX_SECRET 100 /* characters, NUL included */
#define REGISTRY_AUDIO_MS 5000
#define REGISTRY_MAX_AUDIO_MS 60000

struct registry;

/* Somebody failed for too long. Valid during the call. */
struct registry_disabled {
    const char *id, *uid, *url, *reason;
    bool app;
    int64_t at_ms;
};
struct registry_config {
    unsigned max_apps, max_webhooks, max_enabled; /* max_enabled: apps enabled for a uid, all together */
    unsigned failures;                            /* of a webhook, in a row */
    uint64_t failing_ms;                          /* of an app, since the first failure of a row */
    uint64_t overlap_ms;                          /* how long an old secret stays valid */
    /* Writer's thread, after the commit. May be NULL. Not changed by registry_configure(). What is told stays in the
     * store until registry_told(): disabled() comes again for it after a registry_retell(), untold() says that one is
     * due, as not all could be read, or the disk did not take a registry_told(). */
    void (*disabled)(void *arg, const struct registry_disabled *d);
    void (*untold)(void *arg);
    void *arg;
};
/* Reads all that is in the store, which has not been started yet. NULL: err. */
struct registry *registry_new(struct store *s, const struct registry_config *config, char *err, size_t errlen);
/* Numbers that a reload has changed. Any thread. */
void registry_configure(struct registry *r, const struct registry_config *config);
/* Writes the failures counted since the last time, if any. Any thread; every few seconds and before store_stop(). */
void registry_flush(struct registry *r);
/* disabled() for all whose telling has not ended well, those under way included. Any thread. OMID_OK; or not posted. */
int registry_retell(struct registry *r);
/* The user has been told for good: disabled() does not come again for it in this life, and when the store has taken it
 * in none. Any thread. OMID_OK; or not posted: it may be told again. */
int registry_told(struct registry *r, const char *id, int64_t at_ms);
/* The store has stopped, or is not started; nobody looks up any more. */
void registry_free(struct registry **r);

/* ---- looking up: any thread ---- */
/* As omid_host.endpoints and .endpoint_find. NULL: no memory. now_ms: Unix ms, for secrets that end. */
const struct omid_endpoints *registry_of(struct registry *r, const char *uid, int64_t now_ms);
const struct omid_endpoints *registry_find(struct registry *r, const char *id, const char *uid, int64_t now_ms);
void registry_release(const struct omid_endpoints **e);
/* What became of an attempt. mono_ms: monotonic, so that a clock that jumps disables nobody. */
void registry_report(struct registry *r, const char *id, enum omid_delivery_outcome outcome, int status, int64_t now_ms,
                     uint64_t mono_ms);

/* ---- one, as it was registered ---- */
struct registry_secret {
    char *text;
    int64_t created_ms, valid_until_ms; /* 0: until it is rotated */
};
/* Counted, never changed. */
struct registry_entry {
    uint32_t magic;
    _Atomic unsigned refs;
    int64_t row;
    bool app, ordered;
    char *id, *uid, *name, *url, *setup_url;
    char *filter; /* JSON object, or "" */
    char *seed;   /* of the configuration's block that it came from: a hash; "": none */
    char *disabled_reason;
    char **events; /* ends with NULL */
    uint32_t triggers, capabilities, audio_ms, rate_per_min;
    int64_t created_ms, changed_ms, disabled_ms; /* disabled 0: it is not */
    struct registry_secret *secret;              /* the newest first */
    size_t n_secrets;
};
struct registry_run {
    unsigned failures;
    int64_t since_ms; /* of the first; 0: none */
};
/* NULL: there is none of this kind. run may be NULL. */
struct registry_entry *registry_get(struct registry *r, bool app, const char *id, struct registry_run *run);
void registry_entry_release(struct registry_entry **e);
/* Is the app enabled for the uid? */
bool registry_enabled_for(struct registry *r, const char *id, const char *uid);
/* A page in the order of their making. */
struct registry_list {
    bool app;
    const char *uid;   /* whose webhooks, or for whom the apps are enabled; NULL: all */
    const char *after; /* the page behind this one; NULL: the first */
    bool disabled;     /* those alone */
    size_t limit;
};
/* Up to l->limit; *more: there are others. -1: `after` is not there. */
int registry_page(struct registry *r, const struct registry_list *l, struct registry_entry **out, bool *more);
/* {"id", "name", ...} without secrets. now_ms: of which secrets is told that they are valid. */
void registry_entry_json(struct json_w *w, const struct registry_entry *e, const struct registry_run *run,
                         int64_t now_ms);

/* ---- changing ---- */
enum registry_field {
    REGISTRY_UID = 1u << 0,
    REGISTRY_NAME = 1u << 1,
    REGISTRY_URL = 1u << 2,
    REGISTRY_SETUP_URL = 1u << 3,
    REGISTRY_TRIGGERS = 1u << 4,
    REGISTRY_CAPABILITIES = 1u << 5,
    REGISTRY_EVENTS = 1u << 6,
    REGISTRY_FILTER = 1u << 7,
    REGISTRY_AUDIO = 1u << 8,
    REGISTRY_ORDERED = 1u << 9,
    REGISTRY_RATE = 1u << 10,
    REGISTRY_ENABLED = 1u << 11,
    REGISTRY_SECRET = 1u << 12,
};
struct registry_spec {
    unsigned given; /* enum registry_field; what is not given is as it was, or as it is by default */
    bool app;
    const char *id, *uid, *name, *url, *setup_url, *filter, *secret;
    const char *const *events;
    uint32_t triggers, capabilities, audio_ms, rate_per_min;
    bool ordered, enabled;
};
/* Is what is given usable? false: "url: expected ...", never with a secret in it. */
bool registry_spec_check(const struct registry_spec *s, char *err, size_t errlen);
bool registry_id_ok(const char *id);
bool registry_uid_ok(const char *uid);
bool registry_url_ok(const char *url, char *err, size_t errlen);
bool registry_event_ok(const char *type);
/* "whsec_" and the base64 of 24 to 64 bytes. */
bool registry_secret_ok(const char *secret);
void registry_secret_make(char out[REGISTRY_MAX_SECRET]);
/* By the names of the contract. 0: there is none of this name. */
uint32_t registry_trigger(bool app, const char *name);
const char *registry_trigger_name(bool app, enum omid_trigger t); /* NULL: not of this kind */
uint32_t registry_capability(const char *name);
/* Takes ",SECONDS" from the end of a developer's audio URL. false: there is no such end. */
bool registry_audio_split(char *url, uint32_t *audio_ms);

/*
 * cb on loop, exactly once when the call answered OMID_OK: OMID_OK, or
 * OMID_EINVAL: the id is taken (add) or all secrets are young (rotate); OMID_ENOTSUP: there is none of this id and
 * kind; OMID_EFULL: a bound; OMID_ERR: the disk. The calls answer OMID_EFULL, OMID_ECLOSED and OMID_ERR (memory) at
 * once.
 */
typedef void (*registry_cb)(void *arg, int result);
int registry_add(struct registry *r, const struct registry_spec *s, struct loop *loop, registry_cb cb, void *arg);
int registry_change(struct registry *r, const struct registry_spec *s, struct loop *loop, registry_cb cb, void *arg);
int registry_remove(struct registry *r, bool app, const char *id, struct loop *loop, registry_cb cb, void *arg);
/* As a whole. On: failures are forgotten. */
int registry_enable(struct registry *r, bool app, const char *id, bool on, struct loop *loop, registry_cb cb,
                    void *arg);
/* An app, for one user. */
int registry_enable_for(struct registry *r, const char *id, const char *uid, bool on, struct loop *loop, registry_cb cb,
                        void *arg);
/* The new one is valid at once, those before it for overlap_ms. */
int registry_rotate(struct registry *r, bool app, const char *id, const char *secret, struct loop *loop, registry_cb cb,
                    void *arg);
/* From the configuration: added when it is not there, changed when `hash` is not the one of the last time. s says all
 * of it. OMID_EINVAL: the id is of the other kind. */
int registry_seed(struct registry *r, const struct registry_spec *s, const char *hash, struct loop *loop,
                  registry_cb cb, void *arg);

struct registry_counts {
    size_t apps, webhooks, enabled, disabled;
};
void registry_counts(struct registry *r, struct registry_counts *out);

#endif
