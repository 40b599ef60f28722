/*
 * The floor of the benchmark `webhooks`: what libcurl's multi interface costs on libev when nothing is done beside the
 * requests. Easy handles are set up once and reused; each goes again as soon as its answer is there.
 *
 *     curl_loop URL IN_FLIGHT BODY_BYTES
 *
 * Protocol of all clients of the benchmark: each line N on the standard input runs N requests, and answers
 * `OK FAILED SECONDS`.
 */
#include <curl/curl.h>
#include <ev.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct watch {
    ev_io io;
};

static struct ev_loop *loop;
static CURLM *multi;
static ev_timer timer;
static long left, running, ok, failed;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    (void)data;
    (void)arg;
    return size * n;
}

static CURL **idle;
static long n_idle;

static void start_one(void)
{
    left--;
    running++;
    curl_multi_add_handle(multi, idle[--n_idle]);
}

static void read_results(void)
{
    CURLMsg *msg;
    int queued;
    while ((msg = curl_multi_info_read(multi, &queued)) != NULL) {
        CURL *easy = msg->easy_handle;
        long status = 0;
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
        *(msg->data.result == CURLE_OK && status == 200 ? &ok : &failed) += 1;
        curl_multi_remove_handle(multi, easy);
        idle[n_idle++] = easy;
        running--;
        if (left > 0)
            start_one();
    }
    if (running == 0)
        ev_break(loop, EVBREAK_ALL);
}

static void on_io(struct ev_loop *ev, ev_io *io, int revents)
{
    int still;
    (void)ev;
    curl_multi_socket_action(
        multi, io->fd, (revents & EV_READ ? CURL_CSELECT_IN : 0) | (revents & EV_WRITE ? CURL_CSELECT_OUT : 0), &still);
    read_results();
}

static void on_timeout(struct ev_loop *ev, ev_timer *t, int revents)
{
    int still;
    (void)ev;
    (void)t;
    (void)revents;
    curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &still);
    read_results();
}

static int on_timer_change(CURLM *m, long ms, void *arg)
{
    (void)m;
    (void)arg;
    ev_timer_stop(loop, &timer);
    if (ms >= 0) {
        ev_timer_set(&timer, (double)ms / 1000, 0.);
        ev_timer_start(loop, &timer);
    }
    return 0;
}

static int on_socket_change(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct watch *w = socket_arg;
    (void)easy;
    (void)arg;
    if (what == CURL_POLL_REMOVE) {
        if (w != NULL) {
            ev_io_stop(loop, &w->io);
            free(w);
        }
        return 0;
    }
    if (w == NULL) {
        w = calloc(1, sizeof *w);
        if (w == NULL)
            abort();
        ev_init(&w->io, on_io);
        curl_multi_assign(multi, fd, w);
    }
    ev_io_stop(loop, &w->io);
    ev_io_set(&w->io, fd, (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0));
    ev_io_start(loop, &w->io);
    return 0;
}

static CURL *easy_new(const char *url, const char *body, long len, struct curl_slist *headers)
{
    CURL *easy = curl_easy_init();
    if (easy == NULL)
        abort();
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, len);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 2000L);
    return easy;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "curl_loop URL IN_FLIGHT BODY_BYTES\n");
        return 2;
    }
    long in_flight = atol(argv[2]), len = atol(argv[3]), n;
    char *body = malloc((size_t)len + 1);
    idle = calloc((size_t)in_flight, sizeof(*idle));
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (body == NULL || idle == NULL || headers == NULL)
        return 1;
    memset(body, 'x', (size_t)len);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    loop = ev_loop_new(EVFLAG_NOENV | EVBACKEND_EPOLL);
    multi = curl_multi_init();
    ev_init(&timer, on_timeout);
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket_change);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer_change);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, in_flight);
    while (n_idle < in_flight)
        idle[n_idle++] = easy_new(argv[1], body, len, headers);

    while (scanf("%ld", &n) == 1 && n > 0) {
        double began = seconds();
        left = n;
        ok = failed = 0;
        while (left > 0 && n_idle > 0)
            start_one();
        ev_run(loop, 0);
        printf("%ld %ld %.6f\n", ok, failed, seconds() - began);
        fflush(stdout);
    }
    while (n_idle > 0)
        curl_easy_cleanup(idle[--n_idle]);
    curl_multi_cleanup(multi);
    curl_slist_free_all(headers);
    ev_loop_destroy(loop);
    free(idle);
    free(body);
    return 0;
}
