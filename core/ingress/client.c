/*
 * A connection's life, whoever owns its socket: counting, limits on time and size before a request is known.
 *
 * While h2o reads a request, our read callback stands before its own: it sees how long the head has grown (h2o
 * would take 417 KB) and answers 431. h2o sets its callback anew for each request, so ours is put back at the end of
 * the turn. A connection is ended from outside with shutdown(2): its owner then reads the end of file and closes.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "ingress/private.h"

static const h2o_iovec_t answer_431 = {(char *)H2O_STRLIT(
    "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
    "Content-Length: 42\r\nConnection: close\r\n\r\n{\"error\":\"the request header is too big\"}\n")};
static const h2o_iovec_t answer_503 = {
    (char *)H2O_STRLIT("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
                       "Content-Length: 33\r\nConnection: close\r\n\r\n{\"error\":\"too many connections\"}\n")};
static const h2o_iovec_t answer_503_memory = {
    (char *)H2O_STRLIT("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
                       "Content-Length: 40\r\nConnection: close\r\n\r\n{\"error\":\"overloaded, try again later\"}\n")};
static const char answer_408[] = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

const char *client_state_name(enum client_state state)
{
    static const char *const names[] = {"new", "handshake", "reading", "busy", "websocket", "lingering", "dying"};
    omid_assert(state < ARRAY_LEN(names));
    return names[state];
}

static bool legal_move(enum client_state from, enum client_state to)
{
    switch (from) {
    case CLIENT_NEW:
        return to == CLIENT_HANDSHAKE || to == CLIENT_READING || to == CLIENT_LINGERING;
    case CLIENT_HANDSHAKE:
        return to == CLIENT_READING || to == CLIENT_DYING;
    case CLIENT_READING:
        return to == CLIENT_READING || to == CLIENT_BUSY || to == CLIENT_LINGERING || to == CLIENT_DYING;
    case CLIENT_BUSY:
        return to == CLIENT_READING || to == CLIENT_WEBSOCKET || to == CLIENT_DYING;
    case CLIENT_WEBSOCKET:
    case CLIENT_LINGERING:
        return to == CLIENT_DYING;
    case CLIENT_DYING:
        break;
    }
    return false;
}

void client_set_state(struct client *c, enum client_state state)
{
    CHECK_MAGIC(c, CLIENT_MAGIC);
    omid_assert(legal_move(c->state, state));
    if (c->state == CLIENT_LINGERING)
        c->t->n_lingering--;
    if (state == CLIENT_LINGERING)
        c->t->n_lingering++;
    list_remove(&c->early_link);
    if ((state == CLIENT_HANDSHAKE || state == CLIENT_READING) && !c->control)
        list_append(&c->t->early, &c->early_link);
    c->state = state;
    c->since_ms = c->t->now_ms;
}

struct client *client_of(h2o_req_t *req)
{
    struct client *c = req->conn->callbacks->get_socket(req->conn)->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    return c;
}

void client_cut(struct client *c)
{
    CHECK_MAGIC(c, CLIENT_MAGIC);
    if (c->state == CLIENT_DYING)
        return;
    client_set_state(c, CLIENT_DYING);
    timer_clear(&c->t->timers, &c->timer);
    shutdown(h2o_socket_get_fd(c->sock), SHUT_RDWR);
}

static struct door *door_of(const struct client *c)
{
    return &c->t->door[c->door == DOOR_UPLOAD ? DOOR_UPLOAD : DOOR_PUBLIC];
}

/* For a whole request, its body included. */
static uint32_t request_ms(const struct client *c)
{
    const struct conf *conf = c->t->conf;
    return c->door == DOOR_UPLOAD ? conf->ingress.upload.request_timeout_ms : conf->ingress.request_timeout_ms;
}

/* ------------------------------------------------------------ memory */

void client_charge(struct client *c, size_t bytes)
{
    if (bytes < CLIENT_FREE_BYTES)
        bytes = 0;
    if (bytes == c->charged)
        return;
    budget_add((int64_t)bytes - (int64_t)c->charged);
    c->charged = bytes;
}

size_t client_input_bytes(const struct client *c)
{
    return c->sock->input->size > 0 ? c->sock->input->capacity : 0;
}

/* ------------------------------------------------------------ limits */

/* All places are taken. Whoever has connected and not asked for anything for a while makes room for the newcomer, the
 * oldest first: so those who never will can't keep out those who do. */
static bool displace(struct ingress_thread *t)
{
    if (list_empty(&t->early))
        return false;
    struct client *c = list_entry(t->early.next, struct client, early_link);
    if (t->now_ms - c->since_ms < CLIENT_EARLY_MS)
        return false;
    metric_add(ingress_metrics.refused[REFUSED_DISPLACED], 1);
    client_cut(c);
    return true;
}

static bool from_proxy(const struct client *c)
{
    struct cidr_addr addr;
    return c->t->proxies.n > 0 && cidr_addr_parse(c->peer, strlen(c->peer), &addr) &&
           proxy_trusted(&c->t->proxies, &addr);
}

static bool count_in(struct client *c, enum refused_reason *why)
{
    struct ingress *in = c->t->in;
    unsigned now = atomic_fetch_add(&in->n_connections, 1) + 1;

    c->counted = true;
    if (c->door == DOOR_UPLOAD && atomic_fetch_add(&in->n_uploads, 1) >= c->t->conf->ingress.upload.max_connections) {
        *why = REFUSED_CONNECTIONS;
        c->key[0] = '\0';
        return false;
    }
    if (now > c->t->conf->ingress.max_connections && !displace(c->t)) {
        *why = REFUSED_CONNECTIONS;
        c->key[0] = '\0';
        return false;
    }
    if (from_proxy(c)) { /* its clients have limits of their own */
        c->key[0] = '\0';
        return true;
    }
    pthread_mutex_lock(&in->lock);
    uintptr_t n = (uintptr_t)map_get(in->per_address, c->key) + 1;
    bool ok = n <= c->t->conf->ingress.max_connections_per_address;
    *why = REFUSED_ADDRESS;
    if (ok && !map_put(in->per_address, c->key, (void *)n, NULL)) {
        ok = false;
        *why = REFUSED_MEMORY;
    }
    pthread_mutex_unlock(&in->lock);
    if (!ok)
        c->key[0] = '\0';
    return ok;
}

static void count_out(struct client *c)
{
    struct ingress *in = c->t->in;

    if (!c->counted)
        return;
    c->counted = false;
    atomic_fetch_sub(&in->n_connections, 1);
    if (c->door == DOOR_UPLOAD)
        atomic_fetch_sub(&in->n_uploads, 1);
    if (c->key[0] == '\0')
        return;
    pthread_mutex_lock(&in->lock);
    uintptr_t n = (uintptr_t)map_get(in->per_address, c->key);
    omid_assert(n > 0);
    if (n == 1)
        map_remove(in->per_address, c->key);
    else
        map_put(in->per_address, c->key, (void *)(n - 1), NULL); /* replaces: needs no memory */
    pthread_mutex_unlock(&in->lock);
    c->key[0] = '\0';
}

/* ------------------------------------------------------------ lingering */

static void on_discard(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    h2o_buffer_consume(&sock->input, sock->input->size);
    if (err == NULL)
        return;
    if (c->reading != NULL)
        c->reading(sock, err);
    else
        h2o_socket_close(sock);
}

static void on_answer_written(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    if (err != NULL)
        client_cut(c);
    else if (c->state == CLIENT_LINGERING && !c->tls)
        shutdown(h2o_socket_get_fd(sock), SHUT_WR);
}

/* Closing a socket that has unread bytes resets the connection, and the answer with it. So: answer, end our
 * direction, and throw away what comes, for a while. */
static void linger(struct client *c, const h2o_iovec_t *answer)
{
    client_set_state(c, CLIENT_LINGERING);
    timer_set(&c->t->timers, &c->timer, c->t->now_ms + CLIENT_LINGER_MS);
    h2o_buffer_consume(&c->sock->input, c->sock->input->size);
    h2o_socket_read_start(c->sock, on_discard);
    h2o_iovec_t buf = *answer;
    h2o_socket_write(c->sock, &buf, 1, on_answer_written);
}

static void drop_linger_fd(struct client *c)
{
    if (c->linger_fd >= 0)
        close(c->linger_fd);
    c->linger_fd = -1;
}

static void on_close(void *data);

/* h2o has closed the socket of a request that it refused itself (413, 400). The connection lives on in our own
 * descriptor until the client has had the time to read why. */
static bool linger_on(struct client *c)
{
    struct ingress_thread *t = c->t;

    if (c->linger_fd < 0 || c->state != CLIENT_READING || t->stopping || t->n_lingering >= CLIENT_LINGERING_MAX)
        return false;
    shutdown(c->linger_fd, SHUT_WR);
    c->sock = h2o_evloop_socket_create(t->loop, c->linger_fd, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION);
    c->linger_fd = -1;
    c->reading = NULL;
    c->sock->on_close.cb = on_close;
    c->sock->on_close.data = c;
    client_set_state(c, CLIENT_LINGERING);
    timer_set(&t->timers, &c->timer, t->now_ms + CLIENT_LINGER_MS);
    h2o_socket_read_start(c->sock, on_discard);
    return true;
}

static void on_close(void *data)
{
    struct client *c = data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    struct ingress_thread *t = c->t;

    omid_assert(c->ws == NULL && c->exchange == NULL);
    client_charge(c, 0);
    if (t->opening == c)
        t->opening = NULL;
    if (c->linger_fd >= 0 && c->state == CLIENT_READING && !c->refused_body)
        metric_add(ingress_metrics.refused[REFUSED_REQUEST], 1);
    if (linger_on(c))
        return;
    drop_linger_fd(c);
    count_out(c);
    if (c->state == CLIENT_LINGERING)
        t->n_lingering--;
    if (c->control)
        t->n_control--;
    timer_clear(&t->timers, &c->timer);
    list_remove(&c->link);
    list_remove(&c->watch_link);
    list_remove(&c->early_link);
    t->n_clients--;
    metric_add(ingress_metrics.connections, -1);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

/* ------------------------------------------------------------ reading */

/* Has the head come to its end? Stores how far was searched. */
static bool head_complete(struct client *c, size_t *end)
{
    const char *bytes = c->sock->input->bytes;
    size_t size = c->sock->input->size;
    size_t i = c->scanned < 3 ? 0 : c->scanned - 3;

    /* An empty line: "\n\r\n" or "\n\n", as h2o's parser takes it. */
    while (i < size) {
        const char *nl = memchr(bytes + i, '\n', size - i);
        if (nl == NULL)
            break;
        i = (size_t)(nl - bytes) + 1;
        if (i < size && bytes[i] == '\n')
            *end = i + 1;
        else if (i + 1 < size && bytes[i] == '\r' && bytes[i + 1] == '\n')
            *end = i + 2;
        else
            continue;
        return true;
    }
    c->scanned = size;
    return false;
}

/* h2o answers without having asked us, and does not read on: it refuses the request, or has sent 100 (Continue),
 * which client_request_begin() finds out. */
static void refused_by_h2o(struct client *c, bool body)
{
    drop_linger_fd(c);
    c->refused_body = body;
    c->linger_fd = fcntl(h2o_socket_get_fd(c->sock), F_DUPFD_CLOEXEC, 0);
}

void client_request_begin(struct client *c)
{
    CHECK_MAGIC(c, CLIENT_MAGIC);
    drop_linger_fd(c);
    client_set_state(c, CLIENT_BUSY);
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    size_t max = c->t->conf->ingress.max_header;

    /* It was cut, and the kernel still had bytes of it: they begin nothing any more. */
    if (c->state == CLIENT_DYING && err == NULL) {
        h2o_buffer_consume(&sock->input, sock->input->size);
        err = "cut";
    }
    if (err == NULL && c->state == CLIENT_READING && !c->head_done) {
        size_t end = 0;
        c->head_done = head_complete(c, &end);
        if (c->head_done ? end > max : sock->input->size > max) {
            metric_add(ingress_metrics.refused[REFUSED_HEADER], 1);
            linger(c, &answer_431);
            return;
        }
    }
    if (err == NULL && c->state == CLIENT_READING && sock->input->size > CLIENT_BODY_FREE && budget_exhausted()) {
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
        client_charge(c, 0);
        linger(c, &answer_503_memory);
        return;
    }
    /* It may free c. */
    struct ingress_thread *t = c->t;
    struct door *door = door_of(c);
    uint64_t too_big = door->ctx.emitted_error_status[H2O_STATUS_ERROR_413];
    t->opening = c;
    c->reading(sock, err);
    if (t->opening == c && c->state == CLIENT_READING && sock->_cb.read == NULL && h2o_socket_is_writing(sock))
        refused_by_h2o(c, door->ctx.emitted_error_status[H2O_STATUS_ERROR_413] != too_big);
    if (t->opening == c && c->state == CLIENT_READING)
        client_charge(c, client_input_bytes(c));
    t->opening = NULL;
}

static void watch(struct client *c)
{
    h2o_socket_cb cb = c->sock->_cb.read;
    if (c->state == CLIENT_READING)
        client_charge(c, client_input_bytes(c)); /* of the request that is over: nothing any more */
    if ((c->state != CLIENT_READING && c->state != CLIENT_DYING) || cb == NULL || cb == on_read)
        return;
    c->reading = cb;
    h2o_socket_read_start(c->sock, on_read);
}

void client_watch(struct ingress_thread *t)
{
    struct list *l;
    while ((l = list_pop(&t->unwatched)) != NULL)
        watch(list_entry(l, struct client, watch_link));
}

void client_request_done(struct client *c)
{
    CHECK_MAGIC(c, CLIENT_MAGIC);
    if (c->state != CLIENT_BUSY)
        return;
    client_set_state(c, CLIENT_READING);
    c->scanned = 0;
    c->head_done = false;
    timer_set(&c->t->timers, &c->timer, c->t->now_ms + request_ms(c));
    list_remove(&c->watch_link);
    list_append(&c->t->unwatched, &c->watch_link);
}

static void read_timeout(struct client *c)
{
    h2o_socket_t *sock = c->sock;

    /* An idle kept-alive connection is closed in silence; half a request is told why. */
    if (sock->input->size > 0 || c->state == CLIENT_HANDSHAKE)
        metric_add(ingress_metrics.refused[REFUSED_TIMEOUT], 1);
    if (sock->input->size > 0 && !c->tls && !h2o_socket_is_writing(sock)) {
        ssize_t n = send(h2o_socket_get_fd(sock), answer_408, sizeof(answer_408) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n; /* a courtesy */
    }
    client_cut(c);
}

static void on_timer(struct timer *timer, uint64_t now_ms)
{
    struct client *c = container_of(timer, struct client, timer);
    CHECK_MAGIC(c, CLIENT_MAGIC);
    (void)now_ms;
    switch (c->state) {
    case CLIENT_HANDSHAKE:
    case CLIENT_READING:
        read_timeout(c);
        break;
    case CLIENT_BUSY:
        http_timeout(c);
        break;
    case CLIENT_WEBSOCKET:
        websocket_timer(c->ws);
        break;
    case CLIENT_NEW:
    case CLIENT_LINGERING:
    case CLIENT_DYING:
        client_cut(c);
        break;
    }
}

/* ------------------------------------------------------------ accept */

static void serve_http(struct client *c)
{
    struct ingress_thread *t = c->t;
    struct door *door = door_of(c);
    h2o_accept_ctx_t accept_ctx = {.ctx = &door->ctx, .hosts = door->config.hosts};

    client_set_state(c, CLIENT_READING);
    timer_set(&t->timers, &c->timer, t->now_ms + request_ms(c));
    t->opening = c; /* bytes that came with the handshake may end it within h2o_http1_accept() */
    h2o_http1_accept(&accept_ctx, c->sock, *h2o_get_timestamp(&door->ctx, NULL, NULL));
    if (t->opening == c)
        watch(c);
    t->opening = NULL;
}

static void on_handshake(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    CHECK_MAGIC(c, CLIENT_MAGIC);
    if (err != NULL || c->state != CLIENT_HANDSHAKE) {
        if (c->state == CLIENT_HANDSHAKE)
            metric_add(ingress_metrics.refused[REFUSED_TLS], 1);
        log_debug("ingress", "TLS handshake failed", LS("reason", err), LS("peer", c->peer));
        h2o_socket_close(sock);
        return;
    }
    serve_http(c);
}

/* The address, and what counts as one: an IPv6 client usually has a /64 to itself. */
static void name_peer(struct client *c)
{
    struct sockaddr_storage sa;
    struct in6_addr net;

    snprintf(c->peer, sizeof(c->peer), "%s", c->control ? "control" : "unknown");
    if (c->control || h2o_socket_getpeername(c->sock, (struct sockaddr *)&sa) == 0) {
        memcpy(c->key, c->peer, sizeof(c->key));
        return;
    }
    if (sa.ss_family == AF_INET6) {
        const struct in6_addr *addr = &((const struct sockaddr_in6 *)&sa)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(addr)) {
            inet_ntop(AF_INET, addr->s6_addr + 12, c->peer, sizeof(c->peer));
            memcpy(c->key, c->peer, sizeof(c->key));
            return;
        }
        inet_ntop(AF_INET6, addr, c->peer, sizeof(c->peer));
        net = *addr;
        memset(net.s6_addr + 8, 0, 8);
        inet_ntop(AF_INET6, &net, c->key, sizeof(c->key));
        return;
    }
    inet_ntop(AF_INET, &((const struct sockaddr_in *)&sa)->sin_addr, c->peer, sizeof(c->peer));
    memcpy(c->key, c->peer, sizeof(c->key));
}

static void set_options(struct client *c)
{
    int fd = h2o_socket_get_fd(c->sock);
    unsigned receive_ms = c->t->conf->ingress.receive_timeout_ms;
    unsigned unacked_ms = receive_ms < TCP_UNACKED_MS ? receive_ms : TCP_UNACKED_MS;
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof(unacked_ms));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static void refuse(struct client *c, enum refused_reason why)
{
    metric_add(ingress_metrics.refused[why], 1);
    log_notice("ingress", "connection refused", LS("reason", ingress_refused_name(why)), LS("peer", c->peer));
    count_out(c);
    if (c->t->tls != NULL || c->t->n_lingering >= CLIENT_LINGERING_MAX) {
        h2o_socket_close(c->sock);
        return;
    }
    linger(c, &answer_503);
}

void client_accept(struct ingress_thread *t, h2o_socket_t *sock, enum door_kind door)
{
    bool control = door == DOOR_CONTROL;
    struct client *c = calloc(1, sizeof(*c));
    if (c == NULL || !timers_reserve(&t->timers, t->n_clients + 3)) { /* and the thread's own two */
        free(c);
        metric_add(ingress_metrics.refused[REFUSED_MEMORY], 1);
        h2o_socket_close(sock);
        return;
    }
    c->magic = CLIENT_MAGIC;
    c->t = t;
    c->sock = sock;
    c->linger_fd = -1;
    c->door = door;
    c->control = control;
    c->timer.fn = on_timer;
    list_init(&c->watch_link);
    list_init(&c->early_link);
    list_append(&t->clients, &c->link);
    t->n_clients++;
    sock->on_close.cb = on_close;
    sock->on_close.data = c;
    name_peer(c);
    memcpy(c->net, c->key, sizeof(c->net));
    metric_add(ingress_metrics.connections, 1);
    metric_add(ingress_metrics.accepted, 1);
    if (control) {
        if (++t->n_control > CONTROL_CONNECTIONS_MAX)
            refuse(c, REFUSED_CONNECTIONS);
        else
            serve_http(c);
        return;
    }
    set_options(c);
    enum refused_reason why;
    if (!count_in(c, &why)) {
        refuse(c, why);
        return;
    }
    if (t->tls == NULL) {
        serve_http(c);
        return;
    }
    uint32_t bound = t->conf->ingress.request_timeout_ms;
    c->tls = true;
    client_set_state(c, CLIENT_HANDSHAKE);
    timer_set(&t->timers, &c->timer, t->now_ms + (bound < CLIENT_HANDSHAKE_MS ? bound : CLIENT_HANDSHAKE_MS));
    h2o_socket_ssl_handshake(sock, t->tls, NULL, on_handshake);
}
