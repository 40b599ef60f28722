/*
 * bench - a plugin that offers HTTP posts, for the benchmarks: what a plugin on the realtime lane does, and no more.
 *
 *     POST /bench?window=N&count=N          N requests under way at any time, until `count` have been offered
 *     POST /bench?rate=N&ms=N               `rate` requests a second, for that long
 *
 * The body is the list of targets, one URL a line, taken in turn; those with a '!' before them are ill ones, whose
 * outcomes are counted apart. The answer comes when the last request is over: JSON with numbers and latencies.
 */
#include <omid/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_TARGETS 1024u
#define MAX_SAMPLES (4u << 20) /* latencies that are kept */
#define BODY_BYTES 1024u

struct run {
    struct bench *b;
    struct omid_exchange *ex;
    struct omid_timer *timer;
    char *list; /* the targets' text */
    char *target[MAX_TARGETS];
    bool ill[MAX_TARGETS];
    unsigned n_targets;
    unsigned long window, count, rate, ms;
    unsigned long offered, under_way;
    uint64_t began_us;
    unsigned long ok, failed, refused, ill_answered, ill_failed;
    unsigned long error[OMID_HTTP_ERRORS]; /* of the healthy ones */
    uint32_t *sample;                      /* µs, of the healthy ones */
    size_t n_samples;
};

struct bench {
    struct omid_instance *inst;
    const struct omid_host *host;
    struct run *run;
    char body[BODY_BYTES];
};

/* One request under way. */
struct call {
    struct run *run;
    uint64_t began_us;
    bool ill;
};

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_ms(const struct run *r, double q)
{
    return r->n_samples == 0 ? 0 : r->sample[(size_t)(q * (double)(r->n_samples - 1))] / 1000.0;
}

static void run_free(struct run *r)
{
    struct bench *b = r->b;
    b->host->timer_stop(&r->timer);
    free(r->list);
    free(r->sample);
    free(r);
    b->run = NULL;
}

static void run_end(struct run *r)
{
    char text[1024];
    double seconds = (double)(now_us() - r->began_us) / 1e6;
    qsort(r->sample, r->n_samples, sizeof *r->sample, compare);
    int n = snprintf(text, sizeof text,
                     "{\"seconds\":%.6f,\"ok\":%lu,\"failed\":%lu,\"refused\":%lu,\"ill_answered\":%lu,"
                     "\"ill_failed\":%lu,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"errors\":[",
                     seconds, r->ok, r->failed, r->refused, r->ill_answered, r->ill_failed, quantile_ms(r, 0.5),
                     quantile_ms(r, 0.99), quantile_ms(r, 1));
    for (unsigned i = 0; i < OMID_HTTP_ERRORS; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%lu", i ? "," : "", r->error[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, "]}");
    (void)r->b->host->respond(&r->ex, 200, "application/json", text, (size_t)n);
    run_free(r);
}

static bool run_is_over(const struct run *r)
{
    bool all = r->rate > 0 ? now_us() - r->began_us >= r->ms * 1000 : r->offered >= r->count;
    return all && r->under_way == 0;
}

static void offer(struct run *r);

static void on_answer(void *arg, const struct omid_http_response *res)
{
    struct call *c = arg;
    struct run *r = c->run;
    uint32_t took = (uint32_t)(now_us() - c->began_us);
    bool good = res->error == OMID_HTTP_OK && res->status == 200;
    if (c->ill) {
        *(res->error == OMID_HTTP_OK ? &r->ill_answered : &r->ill_failed) += 1;
    } else {
        *(good ? &r->ok : &r->failed) += 1;
        r->error[res->error] += !good;
        if (r->n_samples < MAX_SAMPLES)
            r->sample[r->n_samples++] = took;
    }
    free(c);
    r->under_way--;
    if (r->window > 0)
        offer(r);
    if (run_is_over(r))
        run_end(r);
}

static void offer_one(struct run *r)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    struct bench *b = r->b;
    unsigned t = (unsigned)(r->offered++ % r->n_targets);
    const struct omid_http_request req = {
        .size = sizeof req,
        .method = "POST",
        .url = r->target[t],
        .headers = headers,
        .body = b->body,
        .body_len = sizeof b->body,
    };
    struct call *c = malloc(sizeof *c);
    if (c != NULL) {
        *c = (struct call){.run = r, .began_us = now_us(), .ill = r->ill[t]};
        if (b->host->http_start(b->inst, &req, on_answer, c, NULL) == OMID_OK) {
            r->under_way++;
            return;
        }
        free(c);
    }
    r->refused += !r->ill[t];
    r->ill_failed += r->ill[t];
}

static void offer(struct run *r)
{
    while (r->offered < r->count && r->under_way < r->window)
        offer_one(r);
}

static void on_tick(void *arg)
{
    struct run *r = arg;
    uint64_t passed_us = now_us() - r->began_us;
    if (passed_us > r->ms * 1000)
        passed_us = r->ms * 1000;
    while (r->offered < passed_us * r->rate / 1000000)
        offer_one(r);
    if (run_is_over(r))
        run_end(r);
}

/* The number after `name=` in a query; 0 without. */
static unsigned long query_number(const char *query, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = query; *at != '\0'; at += strcspn(at, "&"), at += *at == '&') {
        if (strncmp(at, name, len) == 0 && at[len] == '=')
            return strtoul(at + len + 1, NULL, 10);
    }
    return 0;
}

static bool run_targets(struct run *r, const struct omid_request *req)
{
    r->list = malloc(req->body_len + 1);
    if (r->list == NULL)
        return false;
    memcpy(r->list, req->body, req->body_len);
    r->list[req->body_len] = '\0';
    char *rest = NULL;
    for (char *line = strtok_r(r->list, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        if (r->n_targets == MAX_TARGETS)
            return false;
        r->ill[r->n_targets] = line[0] == '!';
        r->target[r->n_targets++] = line + (line[0] == '!');
    }
    return r->n_targets > 0;
}

static int on_request(void *state, struct omid_exchange *ex, const struct omid_request *req)
{
    struct bench *b = state;
    struct run *r = calloc(1, sizeof *r);
    if (r == NULL)
        return OMID_ERR;
    r->b = b;
    r->window = query_number(req->query, "window");
    r->count = query_number(req->query, "count");
    r->rate = query_number(req->query, "rate");
    r->ms = query_number(req->query, "ms");
    r->sample = malloc(MAX_SAMPLES * sizeof *r->sample);
    bool windowed = r->window > 0 && r->count > 0, paced = r->rate > 0 && r->ms > 0;
    if (b->run != NULL || windowed == paced || r->sample == NULL || !run_targets(r, req)) {
        free(r->list);
        free(r->sample);
        free(r);
        return b->host->respond(&ex, 400, "text/plain", "a run is under way, or not understood\n", 38);
    }
    r->ex = ex;
    r->began_us = now_us();
    if (paced)
        r->timer = b->host->timer_start(b->inst, 1, 1, on_tick, r);
    b->run = r;
    offer(r);
    if (run_is_over(r)) /* every one was refused at once */
        run_end(r);
    return OMID_OK;
}

static int configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route route = {
        .size = sizeof route, .path = "/bench", .method = "POST", .auth = OMID_AUTH_NONE, .request = on_request};
    (void)shared;
    return host->route_add(mod, &route);
}

static int start(struct omid_instance *inst, const struct omid_host *host, void *shared, void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    (void)shared;
    if (b == NULL)
        return OMID_ERR;
    b->inst = inst;
    b->host = host;
    memset(b->body, 'x', sizeof b->body);
    memcpy(b->body, "{\"text\":\"", 9);
    memcpy(b->body + sizeof b->body - 2, "\"}", 2);
    *state = b;
    return OMID_OK;
}

/* Calls still under way are leaked with the process: the benchmark ends its runs first. */
static void stop(void *state)
{
    struct bench *b = state;
    if (b->run != NULL) {
        (void)b->host->respond(&b->run->ex, 503, "text/plain", "stopped\n", 8);
        run_free(b->run);
    }
    free(b);
}

OMID_EXPORT const struct omid_plugin omid_plugin = {
    OMID_PLUGIN_HEAD,       .name = "bench", .version = "1.0", .summary = "Offers HTTP posts, for the benchmarks",
    .configure = configure, .start = start,  .stop = stop,
};
