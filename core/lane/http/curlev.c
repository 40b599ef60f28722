#include "lane/http/curlev.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/magic.h"

#define CURLEV_MAGIC UINT32_C(0x63757265)

struct curlev {
    uint32_t magic;
    struct ev_loop *ev;
    CURLM *multi;
    ev_timer timer;
    curlev_done_fn done;
    void *arg;
    bool reading; /* the results are being read: done() may start transfers, never read them again */
};

struct watch {
    ev_io io;
    struct curlev *c;
};

static pthread_once_t global_once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
    omid_assert(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
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
    struct curlev *c = ((struct watch *)io->data)->c;
    int mask = 0, running;

    (void)ev;
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
    /* libev counts from the turn's time, which a long callback leaves behind. */
    ev_now_update(c->ev);
    ev_timer_set(&c->timer, (double)timeout_ms / 1000, 0.);
    ev_timer_start(c->ev, &c->timer);
    return 0;
}

/* Called by curl: must not call back into it, but for curl_multi_assign. */
static int on_socket_change(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct curlev *c = arg;
    struct watch *w = socket_arg;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            ev_io_stop(c->ev, &w->io);
            free(w);
        }
        return 0;
    }
    int events = (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    if (!w) {
        w = calloc(1, sizeof *w);
        /* An error from here would kill the whole multi: every transfer of the lane. */
        omid_assert(w != NULL);
        w->c = c;
        w->io.data = w;
        ev_init(&w->io, on_io);
        curl_multi_assign(c->multi, fd, w);
    }
    ev_io_stop(c->ev, &w->io);
    ev_io_set(&w->io, fd, events);
    ev_io_start(c->ev, &w->io);
    return 0;
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
    curl_multi_cleanup(c->multi); /* reports each socket's removal */
    ev_timer_stop(c->ev, &c->timer);
    c->magic = OMID_MAGIC_DEAD;
    free(c);
}

void curlev_limit(struct curlev *c, unsigned connections, unsigned kept)
{
    CHECK_MAGIC(c, CURLEV_MAGIC);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)connections);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)(kept > 0 ? kept : 1));
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
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
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
