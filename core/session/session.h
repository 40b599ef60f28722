/*
 * Sessions: the listen protocol. Everything of a session happens on its uid's reactor.
 */
#ifndef OMID_SESSION_SESSION_H
#define OMID_SESSION_SESSION_H

#include <stdbool.h>

#include "base/json.h"
#include "bus/route.h"
#include "conf/conf.h"

struct bus;
struct exec;
struct host;
struct queue;
struct sessions; /* all of one reactor */
struct store;

struct sessions_env {
    const struct conf *conf;
    struct host *host;
    struct bus *bus;
    struct store *store;
    struct queue *queue;
    struct exec *exec;
    struct loop *loop;
    unsigned reactor, reactors; /* this one, of so many */
};
struct sessions *sessions_new(const struct sessions_env *env);
/* Once, when plugins and queue have started: what a former run left unfinished is processed, and they are to hear of
 * it. Any thread. */
void sessions_start(struct sessions *ss);
/* Reactor. Settings from now on; held until the next ones. */
void sessions_configure(struct sessions *ss, const struct conf *conf);
/* Reactor. The instance begins to get events, or gets no more: it is told of the sessions that live as if they began or
 * ended now. */
void sessions_tell(struct sessions *ss, struct omid_instance *inst, bool begins);
/* Reactor: closes every session with 1001; `done` (reactor) when the last is gone. What sessions still wait for is
 * cancelled at until_ms (monotonic), or when their own drain is over. */
void sessions_drain(struct sessions *ss, uint64_t until_ms, void (*done)(void *arg), void *arg);
void sessions_free(struct sessions **ss); /* loop stopped */

/* /v4/listen; route.arg is an array of struct sessions *, one per reactor. */
extern const struct channel_handler session_channel_handler;
bool session_precheck(const struct channel_request *req, char *err, size_t errlen);

/* The REST routes of conversations (omid-api(7)), with the same arg. false: no memory. */
bool sessions_routes_add(struct routes *r, struct sessions **all);

/* host_services' part: results of providers. */
struct omid_stt;
void session_stt_ready(struct omid_stt *stt);
void session_stt_writable(struct omid_stt *stt);
void session_stt_result(struct omid_stt *stt, const struct omid_stt_result *result);
void session_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end);

/* Which reactor serves this uid. Any thread. */
unsigned session_reactor_of(const char *uid, unsigned reactors);
/* Counts for omictl: live, by state. Any thread. */
void sessions_status(struct json_w *w);
/* {"sessions":[...],"shown":N,"matching":N,"total":N,"states":{...}}: at most 1000, those that are not live or lag
 * behind first. uid: a uid or its tag in the log; state: starting, live, closing, leaving; NULL: any. Any thread but
 * after the reactors have stopped. */
void sessions_list(const char *uid, const char *state, struct json_w *w);
bool session_state_known(const char *name);
/* Ends the session with this close code and reason (at most WS_MAX_REASON bytes). One that is ending already is not
 * waited for any longer. OMID_OK: it has been told, and ends soon. OMID_ENOTSUP: there is none. OMID_ERR: no memory.
 * The same threads. */
int session_kill(const char *id, uint16_t code, const char *reason);

#endif
