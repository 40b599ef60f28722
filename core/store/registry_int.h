/*
 * The inside of the registry: registry.c (what is in memory), registry_write.c (the writer's side), registry_run.c
 * (failures), registry_told.c (whom they are told), registry_entry.c (one entry, from and to the file),
 * registry_check.c (what is usable), registry_json.c.
 *
 * The writer's thread alone changes what is in memory, and before the start whoever makes the registry; so it reads
 * without the lock, and takes it to change. All others take it to read. Failures (slot.run, dirty) are anybody's, with
 * the lock.
 */
#ifndef OMID_STORE_REGISTRY_INT_H
#define OMID_STORE_REGISTRY_INT_H

#include "base/list.h"
#include "base/map.h"
#include "base/metrics.h"
#include "store/registry.h"
#include "store/store_int.h"

#define REGISTRY_MAGIC UINT32_C(0x72656769)
#define ENTRY_MAGIC UINT32_C(0x72656e74)
#define SNAPSHOT_MAGIC UINT32_C(0x72736e61)
#define REGISTRY_SHARDS 64        /* a table that grows is held for a while: many small ones, each for a short one */
#define REGISTRY_FLUSH_RUNS 10000 /* in one call of the writer */

struct snapshot {
    struct omid_endpoints pub; /* first */
    uint32_t magic;
    _Atomic unsigned refs;
    int64_t until_ms; /* a secret ends then */
    struct registry_entry **entry;
    struct omid_endpoint *endpoint;
    const struct omid_endpoint **at;
    const char **secret;
};

struct slot {
    struct list dirty; /* its run is not on disk */
    struct registry_entry *entry;
    struct registry_run run;
    int64_t mono_ms; /* of run.since_ms; may be negative */
    bool disabling;  /* on its way to the writer */
};

struct user {
    struct slot **slot;
    size_t n, cap;
    struct snapshot *snapshot; /* of the last look; NULL: none, or void */
    uint64_t generation;       /* of the apps, at that time */
};

/* In the order of rows; slot NULL: removed. */
struct place {
    int64_t row;
    struct slot *slot;
};
struct order {
    struct place *place;
    size_t n, cap, holes;
};

enum reserved { RESERVED_WEBHOOKS, RESERVED_APPS, RESERVED_ENABLED, RESERVED_KINDS, RESERVED_NONE = -1 };

struct registry {
    uint32_t magic;
    struct store *store;
    pthread_mutex_t lock;
    struct registry_config config;
    struct map *id[REGISTRY_SHARDS];   /* of struct slot */
    struct map *user[REGISTRY_SHARDS]; /* of struct user */
    struct order order[2];             /* webhooks, apps */
    size_t count[RESERVED_KINDS];
    size_t reserved[RESERVED_KINDS]; /* on their way to the writer */
    size_t n_disabled;
    uint64_t generation; /* of the apps: goes up with each change, for they are many users' */
    struct list dirty;
    size_t n_dirty;
    struct list told; /* registry_told(), whose rows are still there; anybody's, with the lock */
    size_t n_told;
    struct metric *m_refused, *m_disabled[3];
};

/* registry.c; those of the second group on the writer's thread, after the commit */
struct slot *registry_slot(const struct registry *r, const char *id);

void registry_put(struct registry *r, struct registry_entry *entry, bool forget_run); /* takes the reference */
void registry_drop(struct registry *r, const char *id);
void registry_user_add(struct registry *r, const char *uid, const char *id);
void registry_user_remove(struct registry *r, const char *uid, const char *id);

/* registry_entry.c */
struct registry_entry *registry_entry_new(void);
struct registry_entry *registry_entry_ref(struct registry_entry *e);
/* What is given of s over `base` (NULL: the defaults). NULL: no memory. */
struct registry_entry *registry_entry_make(const struct registry_entry *base, const struct registry_spec *s);
/* *out NULL: there is none. OMID_OK or OMID_ERR. */
int registry_entry_read(struct db *db, const char *id, struct registry_entry **out);
/* From a row of SS_ENDPOINT_*. */
struct registry_entry *registry_entry_row(struct db *db, sqlite3_stmt *st, struct registry_run *run);
/* Binds all that a row has to SS_ENDPOINT_ADD, SS_ENDPOINT_SET. *events: the text that is bound; free it. */
bool registry_entry_bind(sqlite3_stmt *st, const struct registry_entry *e, char **events);

/* registry_told.c: the store has stopped */
void registry_told_clear(struct registry *r);

/* registry_write.c */
int registry_disable(struct registry *r, const char *id, const char *reason, unsigned failures, int64_t now_ms);
int registry_runs_write(struct registry *r, size_t max); /* so many of those that are dirty then */

#endif
