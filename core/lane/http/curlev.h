/*
 * A curl multi handle driven by a libev loop, through curl's socket and timer callbacks. One thread: the loop's.
 * Lanes use one each, outgoing WebSockets one per loop.
 */
#ifndef OMID_LANE_HTTP_CURLEV_H
#define OMID_LANE_HTTP_CURLEV_H

#include <curl/curl.h>
#include <ev.h>
#include <stdbool.h>

struct curlev;
/* A transfer is over. The handle is still in the multi; the callback may remove it, and add or remove others. */
typedef void (*curlev_done_fn)(void *arg, CURL *easy, CURLcode rc);

/* NULL: no memory. */
struct curlev *curlev_new(struct ev_loop *ev, curlev_done_fn done, void *arg);
/* All easy handles must have been removed. Closes the idle connections. Not from within `done`. */
void curlev_free(struct curlev **c);
/* Connections in all, and how many may stay open unused beside `busy` transfers. */
void curlev_limit(struct curlev *c, unsigned connections, unsigned kept);
bool curlev_add(struct curlev *c, CURL *easy);
/* Ends the transfer at once, if it is still under way. Never waits, not even for a resolver thread. */
void curlev_remove(struct curlev *c, CURL *easy);

/* From `done`, of a transfer that went well: its connection, if it was a new one, is watched through its pauses. Its
 * easy handle must have curlev_socket_close() as CURLOPT_CLOSESOCKETFUNCTION, with c. (Before it is connected curl
 * closes a socket without that callback.) */
void curlev_keep(struct curlev *c, CURL *easy);
int curlev_socket_close(void *c, curl_socket_t fd);

/* An easy handle with what every transfer of omid has in common: http and https alone, HTTP/1.1, no redirects, no
 * proxy from the environment, no signals, peers verified (against $CURL_CA_BUNDLE or $SSL_CERT_FILE if set). The
 * caller's; NULL: no memory. */
CURL *curlev_easy_new(void);

struct conf_outside; /* conf/lane.h */
/* Sets proxy and certificates as they are there, and takes back what is not; NULL: none. What it is told is copied.
 * certificate: false leaves the client's out. Connections are shared only among those that were set alike. false: no
 * memory; the handle is good for nothing but curl_easy_cleanup(). */
bool curlev_outside(CURL *easy, const struct conf_outside *o, bool certificate);

#endif
