/*
 * Where a conversation was: the place that the user's client said last, geocoded by the plugin of that role. Whatever
 * fails on the way, the raw coordinates are kept. On the reactor.
 */
#ifndef OMID_SESSION_GEOLOCATION_H
#define OMID_SESSION_GEOLOCATION_H

#include "bus/route.h"
#include "session/session.h"

struct sessions;
struct geolocation; /* a question under way; gone with its callback's return, or by geolocation_cancel() */

/* json: a JSON object, or "": the user has not said where, or too long before from_ms or after to_ms (Unix ms, the
 * conversation; listen.location_age). result OMID_ERR: the store failed; worth trying again. */
typedef void (*geolocation_cb)(void *arg, int result, const char *json);

/* OMID_OK: cb follows exactly once, never within this call. Or OMID_ERR, OMID_EFULL, OMID_ECLOSED: memory, the store.
 */
int geolocation_resolve(struct sessions *ss, const char *uid, int64_t from_ms, int64_t to_ms, geolocation_cb cb,
                        void *arg, struct geolocation **out);
/* No callback any more. *g may be NULL. */
void geolocation_cancel(struct geolocation **g);
void geolocation_metrics(void); /* shown before the first fallback */

/* PATCH /v1/users/geolocation. all: the array of all reactors' sessions. */
bool geolocation_route_add(struct routes *routes, struct sessions **all);
/* The requests and questions that are under way when the sessions of a reactor end. */
void geolocation_free_all(struct sessions *ss);

#endif
