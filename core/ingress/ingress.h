/*
 * Ingress: listeners, TLS, HTTP/1.1 and WebSocket framing, authentication and limits, on h2o. Each ingress thread has
 * an h2o evloop and a listener (SO_REUSEPORT) per address of its own, and owns its client sockets.
 *
 * Knows routes and channels, nothing of sessions or plugins.
 */
#ifndef OMID_INGRESS_INGRESS_H
#define OMID_INGRESS_INGRESS_H

#include <stdbool.h>

#include "base/json.h"
#include "base/pulse.h"
#include "bus/route.h"
#include "conf/conf.h"

struct ingress;
struct jwks; /* ingress/jwks.h */

/* Answered on the ingress thread itself, at once: health, metrics, status. Any thread; appends to *body.
 * `path` is the request's, with its query. Returns the HTTP status; *content_type is preset to application/json. */
typedef int (*ingress_direct_fn)(void *arg, const char *path, struct buf *body, const char **content_type);
struct ingress_direct {
    const char *method, *path;
    bool control_only; /* only on the control socket */
    ingress_direct_fn fn;
    void *arg;
};

struct ingress_env {
    const struct conf *conf;
    const struct routes *routes;
    struct loop **loops; /* the reactors */
    unsigned n_loops;
    /* Which reactor serves a request; uid may be NULL. Any thread. */
    unsigned (*reactor_of)(const char *uid, unsigned n_loops);
    const struct ingress_direct *direct; /* ends with path NULL */
    struct jwks *jwks;        /* NULL: no id tokens. Stopped after ingress_stop(), freed after ingress_free() */
    const char *control_path; /* unix socket for omictl, mode 0660; NULL: none */
};

/* Binds everything. NULL with a reason in err ("127.0.0.1:8700: Address already in use", certificate faults, ...). */
struct ingress *ingress_new(const struct ingress_env *env, char *err, size_t errlen);
bool ingress_start(struct ingress *in);
/* "127.0.0.1:41234", as bound; NULL behind the last. */
const char *ingress_address(const struct ingress *in, size_t i);
bool ingress_address_uploads(const struct ingress *in, size_t i); /* it is of ingress.upload */
/* Certificate and key as they are in their files now, for ingress_configure(); *tls is NULL without TLS. false: with a
 * reason in err. Reads files. Main thread. */
struct ssl_ctx_st;
bool ingress_tls_read(const struct ingress *in, const struct conf *conf, struct ssl_ctx_st **tls, char *err,
                      size_t errlen);
void ingress_tls_free(struct ssl_ctx_st **tls);
/* Limits, origins, routes and (unless NULL) certificates from now on; each thread takes them at its next turn and holds
 * all. Addresses stay, and whether there is TLS. Main thread. */
void ingress_configure(struct ingress *in, const struct conf *conf, const struct routes *routes,
                       struct ssl_ctx_st *tls);
/* The i-th thread's, for the watchdog; NULL behind the last. Lives as long as in. */
const struct pulse *ingress_pulse(const struct ingress *in, unsigned i);
/* Closes the listeners; connections go on. Main thread. */
void ingress_pause(struct ingress *in);
/* Closes what is left (1001) until deadline_ms (monotonic), ends the threads. */
void ingress_stop(struct ingress *in, uint64_t deadline_ms);
void ingress_free(struct ingress **in);
/* {"connections":..,"websockets":..,"addresses":[..]} Any thread. */
void ingress_status(struct ingress *in, struct json_w *w);

#endif
