/* omictl deliveries, dead: the log of attempts and the dead letters of the durable queue. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/query.h"
#include "conf/conf.h"
#include "ctl/ctl.h"

#define WATCH_MS 1000
#define LIMIT 100
#define LIMIT_MAX 1000

/* What is asked for, of both commands. */
struct wanted {
    struct buf query; /* "" or "?...": */
    bool filtered, all, watch, wait;
    const char *id;
    double limit, rate;
};

/* "2h": so long ago, as the API wants it. */
static bool put_ago(const char *command, struct wanted *w, const char *option, const char *name, const char *text)
{
    uint64_t ms;
    char err[128], number[32];
    if (!conf_parse_duration(text, &ms, err, sizeof err)) {
        ctl_usage(command, "%s: %s", option, err);
        return false;
    }
    int64_t at = clock_wall_ms() - (int64_t)ms;
    snprintf(number, sizeof number, "%lld", at > 1 ? (long long)at : 1);
    return query_append(&w->query, name, number);
}

struct filter {
    const char *option, *name;
    bool value;
};

static const struct filter filters[] = {
    {"--plugin", "plugin", true},  {"--type", "type", true},         {"--target", "target", true},
    {"--error", "error", true},    {"--since", "from", true},        {"--until", "to", true},
    {"--failed", "failed", false}, {"--endpoint", "endpoint", true},
};

/* 1: it was a filter; 0: it is something else; -1: told why not. */
static int take_filter(const char *command, struct wanted *w, int argc, char **argv, int *i)
{
    for (size_t k = 0; k < sizeof filters / sizeof filters[0]; k++) {
        const struct filter *f = &filters[k];
        if (strcmp(argv[*i], f->option) != 0)
            continue;
        bool ok = true;
        if (f->value && *i + 1 >= argc) {
            ctl_usage(command, "%s: expected a value behind it", f->option);
            return -1;
        }
        const char *value = f->value ? argv[++*i] : "true";
        if (strcmp(f->name, "from") == 0 || strcmp(f->name, "to") == 0)
            ok = put_ago(command, w, f->option, f->name, value);
        else
            ok = query_append(&w->query, f->name, value);
        w->filtered = true;
        return ok ? 1 : -1;
    }
    return 0;
}

/* flags: those that the command has, besides filters; an id if `id`. */
static bool wanted_parse(const char *command, struct wanted *w, const char *flags, bool id, int argc, char **argv,
                         int i)
{
    *w = (struct wanted){.query = BUF_INIT(0), .limit = LIMIT};
    (void)buf_puts(&w->query, "");
    for (; i < argc; i++) {
        const char *a = argv[i];
        bool more = i + 1 < argc;
        int filter = strstr(flags, "F") ? take_filter(command, w, argc, argv, &i) : 0;
        if (filter < 0)
            goto bad;
        if (filter > 0)
            continue;
        if (strstr(flags, "L") && strcmp(a, "--limit") == 0 && more) {
            if (!ctl_whole(command, a, argv[++i], 1, LIMIT_MAX, &w->limit))
                goto bad;
        } else if (strstr(flags, "R") && strcmp(a, "--rate") == 0 && more) {
            if (!ctl_whole(command, a, argv[++i], 1, 100000, &w->rate))
                goto bad;
        } else if (strstr(flags, "W") && strcmp(a, "--watch") == 0) {
            w->watch = true;
        } else if (strstr(flags, "A") && strcmp(a, "--all") == 0) {
            w->all = true;
        } else if (strstr(flags, "A") && strcmp(a, "--wait") == 0) {
            w->wait = true;
        } else if (id && a[0] != '-' && !w->id) {
            double n;
            if (!ctl_whole(command, "ID", a, 1, 9e15, &n))
                goto bad;
            w->id = a;
        } else {
            ctl_usage(command, "unexpected argument \"%s\"", a);
            goto bad;
        }
    }
    return true;
bad:
    buf_free(&w->query);
    return false;
}

static bool put_number(struct buf *url, const char *name, double n)
{
    char text[32];
    snprintf(text, sizeof text, "%.0f", n);
    return query_append(url, name, text);
}

/* The answer parsed, or NULL, having told why. */
static yajl_val fetch(const struct ctl *ctl, const char *method, const char *path, struct buf *body)
{
    char err[128];
    if (!ctl_request(ctl, method, path, NULL, body))
        return NULL;
    yajl_val v = json_parse(body->data, body->len, 0, err, sizeof err);
    if (!v) {
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
        buf_free(body);
    }
    return v;
}

static void when(int64_t ms, char out[24])
{
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    if (!localtime_r(&t, &tm) || strftime(out, 24, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(out, 24, "-");
}

/* One element of an answer's list as a line of JSON. */
static void json_line(yajl_val v)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_tree(&w, v);
    if (json_w_end(&w))
        printf("%s\n", b.data);
    buf_free(&b);
}

/* What came from outside, on one line of a terminal. */
static void print_text(const char *s, size_t max)
{
    for (size_t i = 0; s[i] && i < max; i++)
        putchar((unsigned char)s[i] < 0x20 || s[i] == 0x7f ? ' ' : s[i]);
}

/* ---------------------------------------------------------------- deliveries */

static void delivery_print(yajl_val d)
{
    char at[24];
    const char *error = ctl_str(d, "error"), *answer = ctl_str(d, "answer");
    when(ctl_num(d, "time_ms"), at);
    printf("%s %-9lld %-7s %6lld %7lld %2lld  %-18.18s %s", at, ctl_num(d, "job"), ctl_str(d, "outcome"),
           ctl_num(d, "status"), ctl_num(d, "elapsed_ms"), ctl_num(d, "attempt"), ctl_str(d, "type"),
           ctl_str(d, "endpoint"));
    if (*error && strcmp(error, "-") != 0) {
        printf("  ");
        print_text(error, 120);
    } else if (*answer && strcmp(answer, "-") != 0) {
        printf("  ");
        print_text(answer, 60);
    }
    putchar('\n');
}

/* Those of the answer, the oldest first; *last becomes the newest id. */
static void deliveries_print(const struct ctl *ctl, yajl_val v, long long *last)
{
    yajl_val list = json_array(v, "deliveries");
    for (size_t i = json_len(list); i > 0; i--) {
        yajl_val d = json_at(list, i - 1);
        if (ctl_num(d, "id") > *last)
            *last = ctl_num(d, "id");
        if (ctl->json)
            json_line(d);
        else
            delivery_print(d);
    }
}

static int deliveries_once(const struct ctl *ctl, const struct wanted *w, double limit, bool head, long long *last)
{
    struct buf path = BUF_INIT(0), body;
    bool ok = buf_printf(&path, "/v1/admin/deliveries%s", w->query.data ? w->query.data : "") &&
              put_number(&path, "limit", limit) && (*last == 0 || put_number(&path, "after", (double)*last));
    yajl_val v = ok ? fetch(ctl, "GET", path.data, &body) : NULL;
    buf_free(&path);
    if (!v)
        return CTL_FAULT;
    if (head && !ctl->json)
        printf("%-19s %-9s %-7s %6s %7s %2s  %-18s %s\n", "TIME", "JOB", "OUTCOME", "STATUS", "MS", "N", "TYPE",
               "ENDPOINT, ERROR OR ANSWER");
    deliveries_print(ctl, v, last);
    json_free(&v);
    buf_free(&body);
    return CTL_OK;
}

int ctl_deliveries(const struct ctl *ctl, int argc, char **argv)
{
    struct wanted w;
    long long last = 0;
    if (!wanted_parse("deliveries", &w, "FLW", false, argc, argv, 1))
        return CTL_USAGE;
    int rc = deliveries_once(ctl, &w, w.limit, true, &last);
    while (w.watch && rc == CTL_OK && fflush(stdout) == 0) {
        nanosleep(&(struct timespec){.tv_sec = WATCH_MS / 1000}, NULL);
        rc = deliveries_once(ctl, &w, LIMIT_MAX, false, &last);
    }
    buf_free(&w.query);
    return rc;
}

/* ---------------------------------------------------------------- dead letters */

static void dead_print(yajl_val v)
{
    yajl_val list = json_array(v, "dead");
    printf("%-9s %-19s %-10s %-18s %3s %8s  %s\n", "ID", "DIED", "PLUGIN", "TYPE", "N", "BYTES", "TARGET, ERROR");
    for (size_t i = 0; i < json_len(list); i++) {
        yajl_val d = json_at(list, i);
        char at[24];
        when(ctl_num(d, "died_ms"), at);
        printf("%-9lld %-19s %-10.10s %-18.18s %3lld %8lld  %s  ", ctl_num(d, "id"), at, ctl_str(d, "plugin"),
               ctl_str(d, "type"), ctl_num(d, "attempts"), ctl_num(d, "bytes"), ctl_str(d, "target"));
        print_text(ctl_str(d, "error"), 200);
        putchar('\n');
    }
    printf("%zu shown of %lld dead letters\n", json_len(list), ctl_num(v, "total"));
}

static int dead_list(const struct ctl *ctl, const struct wanted *w)
{
    struct buf path = BUF_INIT(0);
    bool ok = buf_printf(&path, "/v1/admin/dead%s", w->query.data ? w->query.data : "") &&
              put_number(&path, "limit", w->limit);
    int rc = ok ? ctl_show(ctl, path.data, dead_print, false) : CTL_FAULT;
    buf_free(&path);
    return rc;
}

static int dead_show(const struct ctl *ctl, const char *id)
{
    static const char *const texts[] = {"plugin", "type", "name", "target", "error"};
    struct buf path = BUF_INIT(0), body;
    char at[24];
    yajl_val v = buf_printf(&path, "/v1/admin/dead/%s", id) ? fetch(ctl, "GET", path.data, &body) : NULL;
    buf_free(&path);
    if (!v)
        return CTL_FAULT;
    if (ctl->json) {
        printf("%s", body.data);
    } else {
        printf("id        %lld\n", ctl_num(v, "id"));
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
            printf("%-9s %s\n", texts[i], ctl_str(v, texts[i]));
        printf("attempts  %lld\n", ctl_num(v, "attempts"));
        when(ctl_num(v, "created_ms"), at);
        printf("created   %s\n", at);
        when(ctl_num(v, "died_ms"), at);
        printf("died      %s\n", at);
        const char *payload = json_str(v, "payload");
        printf("%s\n%s\n", payload ? "payload" : "payload in base64", payload ? payload : ctl_str(v, "payload_base64"));
    }
    json_free(&v);
    buf_free(&body);
    return CTL_OK;
}

static void sweep_print(yajl_val s)
{
    static const char *const texts[] = {"plugin", "type", "target", "error"};
    char at[24];
    when(ctl_num(s, "created_ms"), at);
    printf("%-6lld %-19s %-7s %-10s %9lld %9lld %9lld ", ctl_num(s, "id"), at, ctl_str(s, "action"),
           ctl_str(s, "state"), ctl_num(s, "done"), ctl_num(s, "seen"), ctl_num(s, "total"));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (json_str(s, texts[i]))
            printf(" %s=\"%s\"", texts[i], json_str(s, texts[i]));
    }
    putchar('\n');
}

static void sweeps_print(yajl_val v)
{
    yajl_val list = json_array(v, "replays");
    printf("%-6s %-19s %-7s %-10s %9s %9s %9s  %s\n", "ID", "BEGAN", "ACTION", "STATE", "DONE", "SEEN", "OF", "FILTER");
    for (size_t i = 0; i < json_len(list); i++)
        sweep_print(json_at(list, i));
}

/* Until it has ended. */
static int sweep_wait(const struct ctl *ctl, long long id)
{
    char path[64];
    snprintf(path, sizeof path, "/v1/admin/replays/%lld", id);
    for (;;) {
        struct buf body;
        yajl_val v = fetch(ctl, "GET", path, &body);
        if (!v)
            return CTL_FAULT;
        bool over = strcmp(ctl_str(v, "state"), "running") != 0, done = strcmp(ctl_str(v, "state"), "done") == 0;
        if (over && ctl->json)
            printf("%s", body.data);
        else if (over)
            printf("%s %lld: %s, %lld of %lld\n", ctl_str(v, "action"), id, ctl_str(v, "state"), ctl_num(v, "done"),
                   ctl_num(v, "seen"));
        json_free(&v);
        buf_free(&body);
        if (over)
            return done ? CTL_OK : CTL_FAULT;
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000000L}, NULL);
    }
}

static int dead_act(const struct ctl *ctl, const char *action, const struct wanted *w)
{
    struct buf path = BUF_INIT(0), body;
    if ((w->id != NULL) + w->all + w->filtered != 1)
        return ctl_usage("dead", "%s: expected an ID, or a filter, or --all", action);
    bool ok = buf_printf(&path, "/v1/admin/dead/%s%s", action, w->query.data ? w->query.data : "") &&
              (!w->id || query_append(&path, "id", w->id)) && (!w->all || query_append(&path, "all", "true")) &&
              (w->rate == 0 || put_number(&path, "rate", w->rate));
    yajl_val v = ok ? fetch(ctl, "POST", path.data, &body) : NULL;
    buf_free(&path);
    if (!v)
        return CTL_FAULT;
    long long id = w->id ? 0 : ctl_num(v, "id");
    if (ctl->json && !(w->wait && id))
        printf("%s", body.data);
    else if (w->id)
        printf("%s: done\n", action);
    else if (!w->wait)
        printf("%s %lld has begun; `omictl dead replays` shows how far it is\n", action, id);
    json_free(&v);
    buf_free(&body);
    return w->wait && id ? sweep_wait(ctl, id) : CTL_OK;
}

static int dead_cancel(const struct ctl *ctl, const char *id)
{
    struct buf path = BUF_INIT(0), body;
    yajl_val v = buf_printf(&path, "/v1/admin/replays/%s", id) ? fetch(ctl, "DELETE", path.data, &body) : NULL;
    buf_free(&path);
    if (!v)
        return CTL_FAULT;
    if (ctl->json)
        printf("%s", body.data);
    else
        printf("%s is cancelled\n", id);
    json_free(&v);
    buf_free(&body);
    return CTL_OK;
}

int ctl_dead(const struct ctl *ctl, int argc, char **argv)
{
    struct wanted w;
    const char *what = argc > 1 ? argv[1] : "";
    bool list = strcmp(what, "list") == 0, show = strcmp(what, "show") == 0, cancel = strcmp(what, "cancel") == 0,
         replay = strcmp(what, "replay") == 0, drop = strcmp(what, "drop") == 0, replays = strcmp(what, "replays") == 0;
    if (!list && !show && !cancel && !replay && !drop && !replays)
        return ctl_usage("dead", "expected list, show, replay, drop, replays or cancel");
    if (!wanted_parse("dead", &w, list ? "FL" : replay ? "FAR" : drop ? "FA" : "", !list && !replays, argc, argv, 2))
        return CTL_USAGE;
    int rc;
    if ((show || cancel) && !w.id)
        rc = ctl_usage("dead", "%s: expected an ID", what);
    else if (list)
        rc = dead_list(ctl, &w);
    else if (show)
        rc = dead_show(ctl, w.id);
    else if (cancel)
        rc = dead_cancel(ctl, w.id);
    else if (replays)
        rc = ctl_show(ctl, "/v1/admin/replays", sweeps_print, false);
    else
        rc = dead_act(ctl, what, &w);
    buf_free(&w.query);
    return rc;
}
