/*
 * Listening sockets: one per address and thread (SO_REUSEPORT, so that the kernel spreads the connections), and
 * the control socket on the first thread. A port 0 is bound once; its number is used for the other threads.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "ingress/private.h"

#define ACCEPTS_PER_TURN 64 /* then the connections that are there get their turn */
#define ACCEPT_REST_MS 100  /* when descriptors are short */
#define BACKLOG 1024

/* ------------------------------------------------------------ addresses */

/* "127.0.0.1:8700", "[::]:8700". Numeric only: a name could block the start and change later. */
static bool parse_address(const char *text, struct ingress_address *out, char *err, size_t errlen)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    char *end;

    if (colon == NULL || colon == text || (size_t)(colon - text) >= sizeof(host)) {
        snprintf(err, errlen, "%s: expected an address and a port, like 0.0.0.0:8700 or [::]:8700", text);
        return false;
    }
    errno = 0;
    long port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || errno != 0 || port < 0 || port > 65535) {
        snprintf(err, errlen, "%s: expected a port from 0 to 65535", text);
        return false;
    }
    size_t len = (size_t)(colon - text);
    bool v6 = text[0] == '[' && text[len - 1] == ']';
    memcpy(host, v6 ? text + 1 : text, v6 ? len - 2 : len);
    host[v6 ? len - 2 : len] = '\0';
    struct sockaddr_in *in4 = (struct sockaddr_in *)&out->sa;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&out->sa;
    memset(&out->sa, 0, sizeof(out->sa));
    if (v6 && inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        out->len = sizeof(*in6);
    } else if (!v6 && inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
        in4->sin_family = AF_INET;
        in4->sin_port = htons((uint16_t)port);
        out->len = sizeof(*in4);
    } else {
        snprintf(err, errlen, "%s: expected a numeric IPv4 address, or an IPv6 address in brackets", text);
        return false;
    }
    return true;
}

static void format_address(struct ingress_address *a)
{
    char host[INET6_ADDRSTRLEN] = "";

    if (a->sa.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(a->text, sizeof(a->text), "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&a->sa;
        inet_ntop(AF_INET, &in4->sin_addr, host, sizeof(host));
        snprintf(a->text, sizeof(a->text), "%s:%u", host, ntohs(in4->sin_port));
    }
}

/* ------------------------------------------------------------ binding */

static int open_listener(const struct ingress_address *a)
{
    int on = 1;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->sa.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    return fd;
}

/* SO_REUSEPORT lets a second daemon of the same user share our port unnoticed. So the first socket is bound without
 * it, which fails when the port is taken, and the option is set before the others join. */
static int bind_listener(const struct ingress_address *a, bool first)
{
    int on = 1;
    int fd = open_listener(a);

    if (fd < 0)
        return -1;
    if (!first)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (bind(fd, (const struct sockaddr *)&a->sa, a->len) == 0 &&
        (!first || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) == 0))
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static void add_listener(struct ingress_thread *t, int fd, enum door_kind door)
{
    omid_assert(t->n_listeners < ARRAY_LEN(t->listener));
    t->listener[t->n_listeners++] = (struct ingress_listener){.t = t, .fd = fd, .door = door};
}

bool listener_bind(struct ingress *in, enum door_kind door, const char *text, char *err, size_t errlen)
{
    if (in->n_addresses == INGRESS_ADDRESSES_MAX) {
        snprintf(err, errlen, "ingress.address: more than %d addresses", INGRESS_ADDRESSES_MAX);
        return false;
    }
    struct ingress_address *a = &in->address[in->n_addresses];
    if (!parse_address(text, a, err, errlen))
        return false;
    a->door = door;
    for (unsigned i = 0; i < in->n_threads; i++) {
        int fd = bind_listener(a, i == 0);
        if (fd >= 0 && i == 0) {
            a->len = sizeof(a->sa);
            getsockname(fd, (struct sockaddr *)&a->sa, &a->len);
            format_address(a);
        }
        if (fd < 0 || listen(fd, BACKLOG) != 0) {
            snprintf(err, errlen, "%s: %s", text, strerror(errno));
            if (fd >= 0)
                close(fd);
            return false;
        }
        add_listener(&in->thread[i], fd, door);
    }
    in->n_addresses++;
    return true;
}

/* A socket file that nobody answers is left from a daemon that was killed; one that answers is in use. */
static bool clear_stale(const struct sockaddr_un *sa, char *err, size_t errlen)
{
    struct stat st;

    if (lstat(sa->sun_path, &st) != 0)
        return errno == ENOENT || (snprintf(err, errlen, "%s: %s", sa->sun_path, strerror(errno)), false);
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(err, errlen, "%s: exists and is no socket", sa->sun_path);
        return false;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        snprintf(err, errlen, "%s: %s", sa->sun_path, strerror(errno));
        return false;
    }
    int rc = connect(fd, (const struct sockaddr *)sa, sizeof(*sa));
    int saved = errno;
    close(fd);
    if (rc == 0 || saved != ECONNREFUSED) {
        snprintf(err, errlen, "%s: %s", sa->sun_path,
                 rc == 0 || saved == EAGAIN ? "another daemon is using it" : strerror(saved));
        return false;
    }
    if (unlink(sa->sun_path) != 0 && errno != ENOENT) {
        snprintf(err, errlen, "%s: %s", sa->sun_path, strerror(errno));
        return false;
    }
    return true;
}

bool listener_bind_control(struct ingress *in, const char *path, char *err, size_t errlen)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(sa.sun_path)) {
        snprintf(err, errlen, "%s: longer than the %zu bytes a unix socket may have", path, sizeof(sa.sun_path) - 1);
        return false;
    }
    strcpy(sa.sun_path, path);
    if (!clear_stale(&sa, err, errlen))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* On Linux the mode of the file is that of the socket before bind() (less the umask): never open to more. */
    if (fd < 0 || fchmod(fd, 0660) != 0 || bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) != 0) {
        snprintf(err, errlen, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    in->control_path = strdup(path);
    if (in->control_path == NULL || chmod(path, 0660) != 0 || listen(fd, CONTROL_CONNECTIONS_MAX) != 0) {
        snprintf(err, errlen, "%s: %s", path, strerror(errno));
        unlink(path);
        close(fd);
        return false;
    }
    add_listener(&in->thread[0], fd, DOOR_CONTROL);
    return true;
}

/* ------------------------------------------------------------ accepting */

static void on_accept(h2o_socket_t *sock, const char *err)
{
    struct ingress_listener *l = sock->data;
    struct ingress_thread *t = l->t;

    if (err != NULL)
        return;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        errno = 0;
        h2o_socket_t *client = h2o_evloop_socket_accept(sock);
        if (client != NULL) {
            client_accept(t, client, l->door);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The socket stays readable: without a rest this thread would spin. */
            metric_add(ingress_metrics.refused[REFUSED_DESCRIPTORS], 1);
            log_error("ingress", "cannot accept", LS("reason", strerror(errno)));
            for (size_t k = 0; k < t->n_listeners; k++)
                if (t->listener[k].sock != NULL)
                    h2o_socket_read_stop(t->listener[k].sock);
            timer_set(&t->timers, &t->accept_timer, t->now_ms + ACCEPT_REST_MS);
        }
        break;
    }
}

static void on_rested(struct timer *timer, uint64_t now_ms)
{
    struct ingress_thread *t = container_of(timer, struct ingress_thread, accept_timer);

    (void)now_ms;
    for (size_t i = 0; i < t->n_listeners; i++)
        if (t->listener[i].sock != NULL)
            h2o_socket_read_start(t->listener[i].sock, on_accept);
}

void listener_start(struct ingress_thread *t)
{
    t->accept_timer.fn = on_rested;
    for (size_t i = 0; i < t->n_listeners; i++) {
        struct ingress_listener *l = &t->listener[i];
        l->sock = h2o_evloop_socket_create(t->loop, l->fd, H2O_SOCKET_FLAG_DONT_READ);
        l->fd = -1;
        l->sock->data = l;
        h2o_socket_read_start(l->sock, on_accept);
    }
}

void listener_close(struct ingress_thread *t, bool control)
{
    for (size_t i = 0; i < t->n_listeners; i++) {
        struct ingress_listener *l = &t->listener[i];
        if (l->sock == NULL || (l->door == DOOR_CONTROL && !control))
            continue;
        h2o_socket_read_stop(l->sock);
        h2o_socket_close(l->sock);
        l->sock = NULL;
    }
}
