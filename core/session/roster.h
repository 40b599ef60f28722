/*
 * What others may see of sessions. Sessions belong to their reactors; a copy of the little that is shown lies in a
 * roster per reactor, under a lock that is held for a bounded number of rows. A session writes its own row when its
 * state changes and once a second. Rows in trouble stand first: whoever asks gets a bounded number of them.
 */
#ifndef OMID_SESSION_ROSTER_H
#define OMID_SESSION_ROSTER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/list.h"

#define ROSTER_ROWS_MAX 1000u   /* of one answer, all reactors together */
#define ROSTER_LAGGING_MS 1000u /* audio that waits for its provider: from here on it is trouble */
#define ROSTER_STATES_MAX 8u

struct roster_row {
    char id[37], uid_tag[16];
    unsigned state; /* an index into the names given to roster_init() */
    char codec[24], language[16], provider[40];
    uint32_t sample_rate, channels;
    char tasks[48];                  /* what goes on for it: "client,watch,stt" */
    uint64_t began_ms, last_data_ms; /* monotonic */
    uint64_t bytes;                  /* received, of all data frames */
    uint32_t bytes_per_s;            /* in the last second or so */
    uint32_t lag_ms;                 /* audio received and not yet sent to the provider */
};

/* One session's place on the roster; the session's memory. */
struct roster_entry {
    struct list link;
    struct roster_row row;
    bool listed;
};

struct roster {
    pthread_mutex_t lock;
    struct list troubled, calm;
    unsigned count[ROSTER_STATES_MAX];
    struct list link; /* of all rosters */
    const char *const *state_names;
    unsigned n_states, calm_state;
    void *owner;
};

/* state_names: static, n_states of them; calm_state: the one that is no trouble. owner: for roster_find(). Any thread
 * until it is shared; visible to roster_write() and roster_find() from here to roster_free(). */
void roster_init(struct roster *b, const char *const *state_names, unsigned n_states, unsigned calm_state, void *owner);
void roster_free(struct roster *b); /* no row is left */

/* Reactor. The row is copied; the first time it is put up. */
void roster_put(struct roster *b, struct roster_entry *e, const struct roster_row *row);
void roster_remove(struct roster *b, struct roster_entry *e);

/* What is asked for; NULL: any. uid: a uid or its tag. state: by name. */
struct roster_filter {
    const char *uid, *state;
};
/* {"sessions":[...],"shown":N,"matching":N,"total":N,"states":{...}} of all rosters. Any thread. */
void roster_write(const struct roster_filter *filter, struct json_w *w);
/* The owner of the roster that has this session, or NULL. Any thread; as long as rosters live. */
void *roster_find(const char *id);

#endif
