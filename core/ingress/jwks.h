/*
 * The issuer's public keys: fetched through a lane of their own ("auth"), kept while Cache-Control lets them, and
 * handed to the ingress threads as immutable, counted sets.
 *
 * Fetching happens on the lane thread, which no plugin's code can hold: a hung plugin must not end logins. When:
 *   at the start, and when the configuration names another issuer;
 *   ahead of the keys' end, at three quarters of their time, which is max-age within refresh_min and a day (an hour
 * when nothing is said); when a token names a key that is not there: at most once per refresh_min; after a failure,
 * again and again: from 1 s on, doubled up to a minute, varied by a fifth. While the issuer can't be reached keys are
 * used beyond their time, for `stale` at most; then there are none. A set that can't be used (no JSON, too big, no key
 * that fits) is a failure: the former one stays.
 */
#ifndef OMID_INGRESS_JWKS_H
#define OMID_INGRESS_JWKS_H

#include "conf/conf.h"
#include "ingress/jwt.h"

struct jwks;
struct lanes; /* lane/http/lane.h */

/* NULL: no memory. Main thread. */
struct jwks *jwks_new(struct lanes *lanes);
/* Applies conf's auth.jwt and auth.lane, soon; fetches when there is a project. At the start and at each reload. Main
 * thread. */
void jwks_configure(struct jwks *jw, const struct conf *conf);
/* Called on the lane thread after each fetch, whatever came of it. One watcher; before jwks_configure(). */
void jwks_watch(struct jwks *jw, void (*ended)(void *arg), void *arg);
/* Ends what is under way, soon; before lanes_stop(). Main thread. */
void jwks_stop(struct jwks *jw);
void jwks_free(struct jwks **jw); /* after lanes_stop() */

/* ---- any thread ---- */
/* Changes with each end of a fetch. Cheap. */
unsigned jwks_generation(const struct jwks *jw);
/* A reference to the keys (jwt_keys_free()), and until when they may be used (monotonic ms). NULL: there are none.
 * *failed: the last fetch was a failure. */
struct jwt_keys *jwks_get(struct jwks *jw, uint64_t *until_ms, bool *failed);
/* Keys are missing: all of them, or the one a token names. true: a fetch is under way, wait for the next generation.
 * false: none now, by the rules above. */
enum jwks_reason { JWKS_NONE, JWKS_UNKNOWN_KEY };
bool jwks_ask(struct jwks *jw, enum jwks_reason reason, uint64_t now_ms);

#endif
