/* Health, readiness, metrics and status: what ingress answers directly, and what omictl asks for. Any thread. */
#ifndef OMID_ADMIN_ADMIN_H
#define OMID_ADMIN_ADMIN_H

#include "ingress/ingress.h"

struct admin;
struct exec;
struct host;
struct lanes;
struct queue;
struct store;

struct admin_env {
    const struct conf *conf;
    struct host *host;
    struct lanes *lanes;
    struct exec *exec;
    struct queue *queue;
    struct store *store;
    struct loop **loops;
    unsigned n_loops;
    /* Makes the main thread reload soon. Any thread, must not block. NULL: it can't. */
    void (*reload)(void *arg);
    void *reload_arg;
};
struct admin *admin_new(const struct admin_env *env);
void admin_free(struct admin **a);
/* /healthz, /readyz, /metrics; on the control socket also /v1/admin/status, .../plugins and .../reload. Lives as long
 * as a.
 */
const struct ingress_direct *admin_direct(struct admin *a);
void admin_set_ingress(struct admin *a, struct ingress *in);
/* Start: "starting" -> "ready" -> "draining". readyz is 200 only when ready and store and queue are healthy. */
enum admin_phase { ADMIN_STARTING, ADMIN_READY, ADMIN_DRAINING };
void admin_set_phase(struct admin *a, enum admin_phase phase);
/* Main thread, around each reload. begin: the number of the requests that this reload answers. end: how it went; faults
 * is one line per fault. */
uint64_t admin_reload_begin(struct admin *a);
void admin_reload_end(struct admin *a, uint64_t number, bool ok, const char *summary, const char *faults);
/* What status and metrics tell of the configuration. */
void admin_configure(struct admin *a, const struct conf *conf);
/* A standing remark for readyz that does not make it fail ("store.db was corrupt and set aside"). Copied. */
void admin_remark(struct admin *a, const char *text);

#endif
