/*
 * What the files of this folder share. All structs but struct ingress belong to one ingress thread.
 *
 * A connection is a struct client from accept to the end of its socket. h2o's HTTP/1 code owns the socket while
 * requests are read and answered, the struct websocket after an upgrade. The client knows which, bounds the time
 * each stage may take (on the monotonic clock: h2o's own timers follow the wall clock), and counts.
 */
#ifndef OMID_INGRESS_PRIVATE_H
#define OMID_INGRESS_PRIVATE_H

#include <h2o.h>
#include <h2o/http1.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/wsframe.h"
#include "ingress/ingress.h"
#include "ingress/jwt.h"
#include "ingress/limits.h"
#include "ingress/proxy.h"
#include "ingress/timer.h"

#define INGRESS_MAGIC UINT32_C(0x696e6772)
#define CLIENT_MAGIC UINT32_C(0x636c6965)
#define EXCHANGE_MAGIC UINT32_C(0x65786368)
#define WEBSOCKET_MAGIC UINT32_C(0x77656273)

#define INGRESS_ADDRESSES_MAX 16
#define CLIENT_LINGER_MS 1000      /* a refused or failed client may read our answer for this long */
#define CLIENT_LINGERING_MAX 256   /* per thread; beyond: cut at once */
#define CLIENT_EARLY_MS 200        /* so long a connection may take to ask for something before it may be displaced */
#define CLIENT_HANDSHAKE_MS 10000  /* TLS, or request_timeout if that is shorter */
#define CLIENT_FREE_BYTES 16384    /* what every connection may hold without being charged for it */
#define CLIENT_BODY_FREE 65536     /* requests up to this size are taken beyond memory.sessions, too */
#define CONTROL_CONNECTIONS_MAX 64 /* on the control socket, apart from max_connections */
#define EXCHANGE_GRACE_MS 500      /* beyond answer_timeout: whoever is asked may say so itself, and knows more */
#define WEBSOCKET_CLOSE_MS 3000    /* for the peer's Close after ours */
#define TCP_UNACKED_MS 30000       /* TCP_USER_TIMEOUT, or receive_timeout if that is shorter */

struct client;
struct websocket;
struct exchange;
struct auth_waiter;

/* ---- metrics, process-wide ---- */
enum refused_reason {
    REFUSED_CONNECTIONS,
    REFUSED_ADDRESS,
    REFUSED_TLS,
    REFUSED_TIMEOUT,
    REFUSED_HEADER,
    REFUSED_BODY,
    REFUSED_REQUEST,
    REFUSED_MEMORY,
    REFUSED_DESCRIPTORS,
    REFUSED_DISPLACED,
    REFUSED_N
};
enum limited_by {
    LIMITED_SESSIONS_UID,
    LIMITED_SESSIONS_ADDRESS,
    LIMITED_UPGRADES_UID,
    LIMITED_UPGRADES_ADDRESS,
    LIMITED_UNAUTHENTICATED,
    LIMITED_TABLE,
    LIMITED_N
};
/* What came of a token: its form, or why not; then JWT_OK's place, which is not used, and what else jwt_check() says.
 */
enum auth_result {
    AUTH_RESULT_TOKEN,
    AUTH_RESULT_ADMIN,
    AUTH_RESULT_MISSING,
    AUTH_RESULT_NOT_ADMIN, /* a route for the admin key alone, and it is not that */
    AUTH_RESULT_OFF,       /* no form of it is configured */
    AUTH_RESULT_UNAVAILABLE,
    AUTH_RESULT_FULL,
    AUTH_RESULT_JWT,
    AUTH_RESULT_SUBJECT = AUTH_RESULT_JWT + JWT_SUBJECT,
    AUTH_RESULT_N = AUTH_RESULT_JWT + JWT_RESULTS
};
/* What came of a web client's first message. */
enum greeting_result {
    GREETED_OK,
    GREETED_TIMEOUT,
    GREETED_BAD, /* not the message it had to be */
    GREETED_INVALID,
    GREETED_UNAVAILABLE,
    GREETED_LIMIT,
    GREETED_LEFT,
    GREETED_N
};
enum upgrade_result {
    UPGRADE_ACCEPTED,
    UPGRADE_BAD_REQUEST,
    UPGRADE_VERSION,
    UPGRADE_ORIGIN,
    UPGRADE_PRECHECK,
    UPGRADE_AUTH,
    UPGRADE_LIMIT,
    UPGRADE_STOPPING,
    UPGRADE_LOST,
    UPGRADE_N
};
struct ingress_metrics {
    struct metric *connections, *websockets, *accepted;
    struct metric *refused[REFUSED_N], *upgrades[UPGRADE_N];
    struct metric *bytes_in, *bytes_out, *messages_in, *messages_out;
    struct metric *pauses, *stalls, *answers_late;
    struct metric *requests[4]; /* 2xx .. 5xx */
    struct metric *protocol_errors;
    struct metric *limited[LIMITED_N], *strangers, *limit_entries[LIMITS_TABLES], *limit_evictions;
    struct metric *tokens[AUTH_RESULT_N], *auth_waiting, *greeted[GREETED_N];
};
extern struct ingress_metrics ingress_metrics;
void ingress_metrics_init(void);
const char *ingress_refused_name(enum refused_reason why);

/* ---- listener.c ---- */
/* Who comes in by a listener. */
enum door_kind {
    DOOR_PUBLIC,
    DOOR_UPLOAD, /* the same routes, with larger bodies and more time for them */
    DOORS,
    DOOR_CONTROL = DOORS, /* the control socket: what may be asked there may be asked of the public door's h2o */
};
/* What h2o has one of for each kind: a body's limit is a listener's. */
struct door {
    h2o_globalconf_t config;
    bool made;
    h2o_context_t ctx;
};
struct ingress_address {
    enum door_kind door;
    struct sockaddr_storage sa; /* with the port as bound */
    socklen_t len;
    char text[64]; /* "127.0.0.1:41234", "[::1]:8700" */
};
struct ingress_listener {
    struct ingress_thread *t;
    h2o_socket_t *sock; /* NULL once closed */
    int fd;             /* until the thread has made a socket of it; else -1 */
    enum door_kind door;
};
/* Binds address i for all threads. false with a reason. */
bool listener_bind(struct ingress *in, enum door_kind door, const char *text, char *err, size_t errlen);
bool listener_bind_control(struct ingress *in, const char *path, char *err, size_t errlen);
void listener_start(struct ingress_thread *t); /* on the thread */
/* On the thread. control: the control socket, too; it answers until the end otherwise. */
void listener_close(struct ingress_thread *t, bool control);

/* ---- thread ---- */
struct ingress_thread {
    struct ingress *in;
    unsigned index;
    pthread_t thread;
    bool started;

    struct conf *conf;     /* held; ours until the next one is taken */
    struct routes *routes; /* the same */
    struct conf *next_conf;
    struct routes *next_routes;
    SSL_CTX *next_tls; /* all three under ingress.lock */
    SSL_CTX *tls;      /* a reference; NULL: plain */

    struct ingress_listener listener[INGRESS_ADDRESSES_MAX + 1];
    size_t n_listeners;
    struct timer accept_timer; /* accepting rests while descriptors are short */

    struct door door[DOORS]; /* per thread, as their limits change with conf */
    h2o_evloop_t *loop;
    h2o_multithread_receiver_t receiver;
    struct timers timers;
    struct channel_sink sink;
    struct loop_outbox up; /* what this turn has for the reactors */
    pthread_mutex_t wake_lock;
    bool awake;         /* under wake_lock: the receiver exists */
    bool waiting;       /* under wake_lock: in epoll; else its next turn comes by itself */
    uint64_t posted_ns; /* under wake_lock: when the sink became non-empty; 0: taken */
    struct pulse pulse;

    struct proxy_list proxies; /* of conf */
    struct jwt_keys *keys;     /* held; see keys_now() */
    uint64_t keys_until_ms;
    unsigned keys_generation;
    bool keys_taken, keys_failed;
    struct list auth_waiters; /* struct auth_waiter.link */
    size_t n_auth_waiters;
    struct timer auth_timer;

    struct list clients;   /* struct client.link */
    struct list early;     /* struct client.early_link: no request is there yet; the oldest first */
    struct list unwatched; /* struct client.watch_link: h2o set its read callback anew */
    struct list dirty;     /* struct websocket.dirty_link: has something to write */
    size_t n_clients, n_lingering, n_control;
    uint64_t now_ms;  /* monotonic, of this turn */
    uint64_t turn_ns; /* the same, when it began */
    unsigned round_robin;
    uint64_t too_big;       /* how many 413 of h2o's were counted */
    struct client *opening; /* is it still there after a call into h2o? on_close() says no */
    bool paused, stopping;
    unsigned taken; /* of ingress.configured */
};

struct ingress {
    uint32_t magic;
    struct ingress_env env;
    bool tls;
    struct ingress_thread *thread;
    unsigned n_threads;
    struct ingress_address address[INGRESS_ADDRESSES_MAX];
    size_t n_addresses;
    char *control_path; /* unlinked at the end */

    pthread_mutex_t lock; /* state below, and `ready` */
    pthread_cond_t changed;
    unsigned n_ready, n_paused;
    struct map *per_address; /* connections by address, as (void *)(uintptr_t)n */
    struct limits *limits;
    bool collecting;
    uint64_t evicted; /* of limits, as counted; the metrics' collector's */

    atomic_bool pause, stop;
    atomic_uint configured; /* how often next_conf was set */
    _Atomic uint64_t deadline_ms;
    atomic_uint n_connections, n_websockets, n_uploads;
};

/* ---- tls.c ---- */
SSL_CTX *tls_new(const char *certificate, const char *key, char *err, size_t errlen);

/* ---- client.c ---- */
enum client_state {
    CLIENT_NEW,
    CLIENT_HANDSHAKE, /* TLS */
    CLIENT_READING,   /* a request, or waiting for one */
    CLIENT_BUSY,      /* a request is being served */
    CLIENT_WEBSOCKET,
    CLIENT_LINGERING, /* has got its answer; what it still sends is thrown away */
    CLIENT_DYING,     /* shut down; its socket's owner will notice and close */
};
struct client {
    uint32_t magic;
    enum client_state state;
    struct ingress_thread *t;
    h2o_socket_t *sock;
    struct timer timer;
    struct list link, watch_link, early_link;
    uint64_t since_ms; /* of the state */
    enum door_kind door;
    bool control, counted, tls;
    char peer[INET6_ADDRSTRLEN];
    char net[INET6_ADDRSTRLEN]; /* what counts as one address */
    char key[INET6_ADDRSTRLEN]; /* of per_address */
    size_t charged;             /* to memory.sessions: of what has come and is not whole yet */

    /* CLIENT_READING: h2o's read callback, behind ours */
    h2o_socket_cb reading;
    size_t scanned; /* bytes of the head that were searched for its end */
    bool head_done;
    int linger_fd; /* h2o refused the request and will close: our own descriptor of the connection; else -1 */

    bool refused_body; /* and that because of max_body */

    struct exchange *exchange; /* CLIENT_BUSY */
    struct websocket *ws;      /* CLIENT_WEBSOCKET */
};
/* Takes over the socket. */
void client_accept(struct ingress_thread *t, h2o_socket_t *sock, enum door_kind door);
void client_set_state(struct client *c, enum client_state state);
struct client *client_of(h2o_req_t *req);
void client_request_begin(struct client *c); /* our handler has it */
void client_request_done(struct client *c);  /* h2o is done with it */
void client_watch(struct ingress_thread *t); /* end of turn */
/* Cuts the connection from outside of its socket's callbacks; whoever owns the socket sees the end of file. */
void client_cut(struct client *c);
/* It holds so many bytes of a request or a message that is not whole yet: from now on they count in memory.sessions. */
void client_charge(struct client *c, size_t bytes);
size_t client_input_bytes(const struct client *c); /* of its socket's input buffer */
const char *client_state_name(enum client_state state);

/* ---- admission.c ---- */
/* One WebSocket's share of the limits. Zeroed: nothing. Moved, not copied. */
struct admission {
    struct ingress_thread *t;
    char address[CIDR_TEXT]; /* "": nothing is held */
    char *uid;               /* NULL: not known yet */
    bool stranger;
};
struct admission_refusal {
    const char *reason; /* static */
    unsigned retry_s;
};
/* Who the client of this request is: the address, and what counts as one (of IPv6 a /64). */
void admission_peer(struct ingress_thread *t, const struct client *c, h2o_req_t *req, char peer[CIDR_TEXT],
                    char key[CIDR_TEXT]);
/* In this order; false with *refusal: counted, nothing more is held than before. */
bool admission_address(struct admission *a, struct ingress_thread *t, const char *key,
                       struct admission_refusal *refusal);
bool admission_stranger(struct admission *a, struct admission_refusal *refusal); /* whose user is not known yet */
bool admission_uid(struct admission *a, const char *uid, struct admission_refusal *refusal);
void admission_leave(struct admission *a); /* gives back all; harmless when nothing is held */

/* ---- http.c ---- */
struct exchange {
    uint32_t magic;
    struct client *client;
    h2o_req_t *req;
    struct channel *ch; /* a request on its way through a reactor; else NULL */
    const struct route *route;
    struct routes *routes;          /* that it is in; held */
    struct channel_request request; /* until the channel takes it */
    char key[25];                   /* Sec-WebSocket-Key */
    bool websocket, upgrading, answered, watching;
    struct auth_waiter *waiter;
    struct admission admission;
    char net[CIDR_TEXT]; /* admission_peer()'s key */
    struct stream {      /* of an answer in pieces: stream.c */
        h2o_generator_t generator;
        struct channel_down *first, **last; /* not yet given to h2o */
        struct channel_down *sending;       /* h2o's until it asks for more; NULL: it waits for us */
        bool ended, cut;
    } stream;
};
int http_handle(h2o_handler_t *self, h2o_req_t *req);
void http_down(struct exchange *ex, struct channel_down *d); /* takes over d */
void http_timeout(struct client *c);
void http_abandon(struct exchange *ex); /* the daemon ends: 503 */
/* The answer of an exchange; body is copied. Also for refusals: then err goes into {"error":...}. */
void http_answer(struct exchange *ex, int status, const char *content_type, const void *body, size_t len);
void http_refuse(struct exchange *ex, int status, const char *err);
void http_header(struct exchange *ex, const char *name, const char *value); /* value is copied */
/* "Name: value" each, NUL behind each and one more; checked where they came from. lines may be NULL. */
void http_header_lines(struct exchange *ex, const char *lines);
const char *http_reason(int status);
/* How long an exchange may wait for its answer, or for the next step of it. */
uint64_t http_answer_ms(const struct client *c);
void http_unwatch(struct exchange *ex);
unsigned http_reactor_of(struct ingress_thread *t, const char *uid);
/* The value of a header that may stand only once. *n: how often it does. */
h2o_iovec_t http_header_get(h2o_req_t *req, const char *name, size_t *n);

/* ---- stream.c: answers in pieces ---- */
void http_stream(struct exchange *ex, struct channel_down *d); /* takes over d: DOWN_HEAD, DOWN_BODY, DOWN_END */
void http_stream_cut(struct exchange *ex);                     /* it will not be whole: the client sees the end early */
void http_stream_free(struct exchange *ex);                    /* what was not sent */
/* client_cut() for one whose exchange, if any, is answered: h2o does not see the end of a socket it leaves alone. */
void http_cut(struct client *c);

/* ---- upgrade.c ---- */
/* Does the request ask for a WebSocket? */
bool upgrade_wanted(h2o_req_t *req);
/* Everything about the handshake itself; false: refused already. */
bool upgrade_check(struct exchange *ex);
/* Sends 101 and hands the socket to a WebSocket. */
void upgrade_accept(struct exchange *ex);

/* ---- websocket.c ---- */
struct websocket_start {
    struct ingress_thread *t;
    struct client *client; /* NULL once it is gone */
    const struct route *route;
    struct routes *routes; /* held */
    struct channel_request request;
    struct admission admission;
};
void websocket_start_free(struct websocket_start **start);
void websocket_begin(struct websocket_start *start, h2o_socket_t *sock);
void websocket_down(struct websocket *ws, struct channel_down *d); /* takes over d */
void websocket_timer(struct websocket *ws);
void websocket_stop(struct websocket *ws);      /* 1001 */
void websocket_cut(struct websocket *ws);       /* at once */
void websocket_flush(struct ingress_thread *t); /* end of turn: one write per connection */

/* ---- auth.c ---- */
enum auth_verdict { AUTH_OK, AUTH_MISSING, AUTH_INVALID, AUTH_UNAVAILABLE };
#define AUTH_UID_MAX 128
struct auth_answer {
    enum auth_verdict verdict;
    enum auth_result result;
    char uid[AUTH_UID_MAX + 1]; /* AUTH_OK */
    const char *reason;         /* static; else */
};
/* done is called exactly once on this thread. false: it was, within the call. true: it will be; until then *waiter is
 * set, must not move, and whoever owns `arg` may end the waiting with auth_cancel(). The token is copied. */
typedef void (*auth_done_fn)(void *arg, const struct auth_answer *answer);
bool auth_token(struct ingress_thread *t, const char *token, size_t len, auth_done_fn done, void *arg,
                struct auth_waiter **waiter);
/* Is that header the admin key? NULL: yes; else why not. On the thread, at once. */
const char *auth_admin(struct ingress_thread *t, const char *value, size_t len);
/* The same by the value of an Authorization header, NULL when absent. */
bool auth_header(struct ingress_thread *t, const char *value, size_t len, auth_done_fn done, void *arg,
                 struct auth_waiter **waiter);
void auth_cancel(struct auth_waiter **waiter); /* done is not called; NULL is fine */
void auth_turn(struct ingress_thread *t);      /* looks again at those that wait, when keys have come or failed to */

/* What channel_conn() points to begins with one of the magic numbers above. */
static inline uint32_t conn_magic(const void *conn)
{
    return *(const uint32_t *)conn;
}

#endif
