#include "lane/http/curlev.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/magic.h"
#include "conf/lane.h"

#define CURLEV_MAGIC UINT32_C(0x63757265)

struct curlev {
    uint32_t magic;
    struct ev_loop *ev;
    CURLM *multi;
    ev_timer timer;
    curlev_done_fn done;
    void *arg;
    unsigned connections, kept;
    struct watch **own; /* of the connections that curlev_keep() was told of, by descriptor */
    size_t n_own;
    bool reading; /* the results are being read: done() may start transfers, never read them again */
};

/*
 * curl lets go of a connection's socket after each request and takes it up again with the next. The watcher of one that
 * is known to be closed through us stays as it is meanwhile, which spares a system call per request; it is stopped when
 * something comes that nobody waits for.
 */
struct watch {
    ev_io io;
    struct curlev *c;
    int wanted; /* what curl waits for; 0: nothing */
    int armed;  /* what the watcher waits for, while active */
};

static struct watch *watch_own(const struct curlev *c, curl_socket_t fd)
{
    return (size_t)fd < c->n_own ? c->own[fd] : NULL;
}

static pthread_once_t global_once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
    omid_assert(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
    if (!(curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS))
        log_error(
            "lane",
            "this libcurl looks up names on the loop, which stands meanwhile: use one with a resolver of its own");
}

static void read_results(struct curlev *c)
{
    CURLMsg *msg;
    int left;

    if (c->reading)
        return;
    c->reading = true;
    while ((msg = curl_multi_info_read(c->multi, &left)) != NULL) {
        if (msg->msg == CURLMSG_DONE)
            c->done(c->arg, msg->easy_handle, msg->data.result);
    }
    c->reading = false;
}

static void on_io(struct ev_loop *ev, ev_io *io, int revents)
{
    struct watch *w = io->data;
    struct curlev *c = w->c;
    int mask = 0, running;

    if (w->wanted == 0) { /* the end of an unused connection, mostly: curl finds it when it looks for one */
        ev_io_stop(ev, io);
        return;
    }
    if (revents & EV_READ)
        mask |= CURL_CSELECT_IN;
    if (revents & EV_WRITE)
        mask |= CURL_CSELECT_OUT;
    if (revents & EV_ERROR)
        mask |= CURL_CSELECT_ERR;
    curl_multi_socket_action(c->multi, io->fd, mask, &running);
    read_results(c);
}

static void on_timeout(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct curlev *c = timer->data;
    int running;

    (void)ev;
    (void)revents;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    read_results(c);
}

/* Called by curl: must not call back into it. */
static int on_timer_change(CURLM *multi, long timeout_ms, void *arg)
{
    struct curlev *c = arg;

    (void)multi;
    ev_timer_stop(c->ev, &c->timer);
    if (timeout_ms < 0)
        return 0;
    /* libev counts from the turn's time, which a long callback leaves behind. No matter for "at once". */
    if (timeout_ms > 0)
        ev_now_update(c->ev);
    ev_timer_set(&c->timer, (double)timeout_ms / 1000, 0.);
    ev_timer_start(c->ev, &c->timer);
    return 0;
}

static struct watch *watch_new(struct curlev *c)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->c = c;
    w->io.data = w;
    ev_init(&w->io, on_io);
    return w;
}

/* Called by curl: must not call back into it, but for curl_multi_assign. */
static int on_socket_change(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct curlev *c = arg;
    struct watch *own = watch_own(c, fd), *w = own ? own : socket_arg;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (own) {
            own->wanted = 0;
        } else if (w) {
            ev_io_stop(c->ev, &w->io);
            free(w);
        }
        return 0;
    }
    int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    if (!w) {
        w = watch_new(c);
        /* An error from here would kill the whole multi: every transfer of the lane. */
        omid_assert(w != NULL);
        curl_multi_assign(c->multi, fd, w);
    }
    w->wanted = events;
    if (ev_is_active(&w->io) && w->armed == events)
        return 0;
    ev_io_stop(c->ev, &w->io);
    w->armed = events;
    ev_io_set(&w->io, fd, events);
    ev_io_start(c->ev, &w->io);
    return 0;
}

static bool own_room(struct curlev *c, size_t fd)
{
    if (fd < c->n_own)
        return true;
    size_t n = c->n_own > 0 ? c->n_own : 64;
    while (n <= fd)
        n *= 2;
    struct watch **more = realloc(c->own, n * sizeof(*more));
    if (!more)
        return false;
    memset(more + c->n_own, 0, (n - c->n_own) * sizeof(*more));
    c->own = more;
    c->n_own = n;
    return true;
}

void curlev_keep(struct curlev *c, CURL *easy)
{
    CHECK_MAGIC(c, CURLEV_MAGIC);
    curl_socket_t fd = CURL_SOCKET_BAD;
    long connects = 0;

    if (curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connects) != CURLE_OK || connects == 0 ||
        curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK || fd == CURL_SOCKET_BAD)
        return;
    if (own_room(c, (size_t)fd) && !c->own[fd])
        c->own[fd] = watch_new(c);
}

int curlev_socket_close(void *arg, curl_socket_t fd)
{
    struct curlev *c = arg;
    struct watch *w = watch_own(c, fd);

    CHECK_MAGIC(c, CURLEV_MAGIC);
    if (w) {
        c->own[fd] = NULL;
        ev_io_stop(c->ev, &w->io);
        free(w);
    }
    return close(fd);
}

struct curlev *curlev_new(struct ev_loop *ev, curlev_done_fn done, void *arg)
{
    pthread_once(&global_once, global_init);
    struct curlev *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->magic = CURLEV_MAGIC;
    c->ev = ev;
    c->done = done;
    c->arg = arg;
    c->multi = curl_multi_init();
    if (!c->multi) {
        free(c);
        return NULL;
    }
    ev_init(&c->timer, on_timeout);
    c->timer.data = c;
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket_change);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer_change);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    return c;
}

void curlev_free(struct curlev **cp)
{
    struct curlev *c = *cp;

    if (!c)
        return;
    CHECK_MAGIC(c, CURLEV_MAGIC);
    omid_assert(!c->reading);
    *cp = NULL;
    curl_multi_cleanup(c->multi); /* reports each socket's removal, and closes */
    ev_timer_stop(c->ev, &c->timer);
    free(c->own);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

void curlev_limit(struct curlev *c, unsigned connections, unsigned kept)
{
    CHECK_MAGIC(c, CURLEV_MAGIC);
    kept = kept > 0 ? kept : 1;
    if (c->connections != connections)
        curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)connections);
    if (c->kept != kept)
        curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)kept);
    c->connections = connections;
    c->kept = kept;
}

bool curlev_add(struct curlev *c, CURL *easy)
{
    CHECK_MAGIC(c, CURLEV_MAGIC);
    return curl_multi_add_handle(c->multi, easy) == CURLM_OK;
}

void curlev_remove(struct curlev *c, CURL *easy)
{
    CHECK_MAGIC(c, CURLEV_MAGIC);
    curl_multi_remove_handle(c->multi, easy);
}

CURL *curlev_easy_new(void)
{
    pthread_once(&global_once, global_init);
    CURL *easy = curl_easy_init();
    if (!easy)
        return NULL;
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* nor one of the environment's, nor its exceptions */
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
    curl_easy_setopt(easy, CURLOPT_NETRC, CURL_NETRC_IGNORED);
    /* Without it, removing a handle that still resolves joins the resolver's thread: the loop would stand. */
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    const char *ca = getenv("CURL_CA_BUNDLE");
    if (!ca || !*ca)
        ca = getenv("SSL_CERT_FILE");
    if (ca && *ca)
        curl_easy_setopt(easy, CURLOPT_CAINFO, ca);
    /* A directory beside the file would keep curl from caching the parsed CA store: 5 ms for each connection. */
    curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    return easy;
}

static bool set_blob(CURL *easy, CURLoption option, const struct conf_bytes *bytes)
{
    struct curl_blob blob = {
        .data = bytes ? bytes->data : NULL, .len = bytes ? bytes->len : 0, .flags = CURL_BLOB_COPY};
    return curl_easy_setopt(easy, option, blob.data ? &blob : NULL) == CURLE_OK;
}

/* curl decodes both as parts of a URL. */
static bool set_decoded(CURL *easy, CURLoption option, const char *text, size_t len)
{
    char *encoded = len > 0 ? curl_easy_escape(easy, text, (int)len) : NULL;
    bool ok = (len == 0 || encoded) && curl_easy_setopt(easy, option, len > 0 ? encoded : text ? "" : NULL) == CURLE_OK;
    if (encoded)
        explicit_bzero(encoded, strlen(encoded));
    curl_free(encoded);
    return ok;
}

/* "user:password", or NULL. */
static bool set_proxy_auth(CURL *easy, const char *auth)
{
    const char *colon = auth ? strchr(auth, ':') : NULL, *password = colon ? colon + 1 : NULL;
    return set_decoded(easy, CURLOPT_PROXYUSERNAME, colon ? auth : NULL, colon ? (size_t)(colon - auth) : 0) &&
           set_decoded(easy, CURLOPT_PROXYPASSWORD, password, password ? strlen(password) : 0);
}

bool curlev_outside(CURL *easy, const struct conf_outside *o, bool certificate)
{
    bool shown = o && certificate;

    return curl_easy_setopt(easy, CURLOPT_PROXY, o && o->proxy ? o->proxy : "") == CURLE_OK &&
           set_proxy_auth(easy, o ? o->proxy_auth : NULL) && set_blob(easy, CURLOPT_CAINFO_BLOB, o ? &o->ca : NULL) &&
           set_blob(easy, CURLOPT_SSLCERT_BLOB, shown ? &o->certificate : NULL) &&
           set_blob(easy, CURLOPT_SSLKEY_BLOB, shown ? &o->key : NULL);
}
