#ifndef OMID_ADMIN_PRIVATE_H
#define OMID_ADMIN_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "admin/admin.h"
#include "base/query.h"

#define ADMIN_MAGIC UINT32_C(0x61646d69)
#define ADMIN_REMARKS_MAX 16

struct admin {
    uint32_t magic;
    struct admin_env env;
    struct ingress_direct direct[13];
    char *file; /* of the configuration */
    _Atomic uint64_t memory_limit;
    _Atomic(struct ingress *) ingress;
    _Atomic enum admin_phase phase;
    uint64_t started_mono_ms;
    int64_t started_wall_ms;
    pthread_mutex_t lock; /* remarks, reload */
    struct admin_reload {
        uint64_t asked, done; /* numbers of requests */
        uint64_t times;       /* reloads, SIGHUP's included */
        bool ok;              /* the last one, as the rest */
        char *summary, *faults;
        int64_t wall_ms;
    } reload;
    char *remark[ADMIN_REMARKS_MAX];
    size_t n_remarks;
};

/* readiness.c */
const char *admin_phase_name(enum admin_phase phase);
void admin_remarks_write(struct admin *a, struct json_w *w); /* an array */
int admin_readyz(void *arg, const char *path, struct buf *body, const char **content_type);

/* status.c */
int admin_status(void *arg, const char *path, struct buf *body, const char **content_type);
int admin_plugins(void *arg, const char *path, struct buf *body, const char **content_type);

/* answer.c */
/* {"error":text}; returns the status. */
int admin_fault(struct buf *body, int status, const char *text);
/* The query's parameters; what is not among `known` (ends with NULL) is refused, so that a misspelt filter does not
 * show everything. false: a reason in err. */
bool admin_query(struct query *q, const char *path, const char *const *known, char *err, size_t errlen);

/* sessions.c */
int admin_sessions(void *arg, const char *path, struct buf *body, const char **content_type);
int admin_session_kill(void *arg, const char *path, struct buf *body, const char **content_type);

/* lanes.c */
int admin_lanes(void *arg, const char *path, struct buf *body, const char **content_type);
int admin_breakers(void *arg, const char *path, struct buf *body, const char **content_type);
int admin_breaker_reset(void *arg, const char *path, struct buf *body, const char **content_type);

/* reload.c */
int admin_reload_ask(void *arg, const char *path, struct buf *body, const char **content_type);
int admin_reload_result(void *arg, const char *path, struct buf *body, const char **content_type);

/* process.c: a metrics collector; arg is the struct admin */
void process_collect(void *arg, struct buf *out);

/* reload.c: its counters, from the start. */
void admin_reload_metrics(void);

#endif
