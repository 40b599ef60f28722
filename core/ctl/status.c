/* omictl status, omictl plugins: the daemon's own words, as tables. */
#include <inttypes.h>
#include <string.h>

#include "ctl/ctl.h"

static long long num(yajl_val v, const char *key)
{
    return (long long)json_num(v, key, 0);
}

static const char *str(yajl_val v, const char *key)
{
    const char *s = json_str(v, key);
    return s ? s : "-";
}

/* All that it has open, whatever the kind. */
static long long open_of(yajl_val plugin)
{
    yajl_val v = json_object(plugin, "in_flight");
    long long n = 0;
    for (size_t i = 0; v && i < v->u.object.len; i++) {
        yajl_val kind = v->u.object.values[i];
        n += YAJL_IS_INTEGER(kind) ? YAJL_GET_INTEGER(kind) : 0;
    }
    return n;
}

static void plugins_print(yajl_val plugins)
{
    printf("%-12s %-10s %-9s %10s %8s %6s %10s %9s %9s %10s  %s\n", "PLUGIN", "STATE", "VERSION", "CALLBACKS", "ERRORS",
           "SLOW", "TIME", "LONGEST", "IN FLIGHT", "MEMORY", "REMARK");
    for (size_t i = 0; i < json_len(plugins); i++) {
        yajl_val p = json_at(plugins, i);
        const char *reason = json_str(p, "reason");
        printf("%-12s %-10s %-9s %10lld %8lld %6lld %9.3fs %7.1fms %9lld %9.1fK  %s\n", str(p, "name"), str(p, "state"),
               str(p, "version"), num(p, "callbacks"), num(p, "errors"), num(p, "slow"), json_num(p, "seconds", 0),
               json_num(p, "max_ms", 0), open_of(p), json_num(p, "memory", 0) / 1024, reason ? reason : "");
    }
}

static void lanes_print(yajl_val lanes)
{
    printf("%-12s %9s %8s %9s %10s %8s %8s\n", "LANE", "IN FLIGHT", "WAITING", "REJECTED", "DONE", "TARGETS",
           "STREAMS");
    for (size_t i = 0; i < json_len(lanes); i++) {
        yajl_val l = json_at(lanes, i);
        printf("%-12s %9lld %8lld %9lld %10lld %8lld %8lld\n", str(l, "name"), num(l, "in_flight"), num(l, "waiting"),
               num(l, "rejected"), num(l, "done"), num(l, "targets"), num(l, "streams"));
    }
}

static void status_print(yajl_val v)
{
    yajl_val sessions = json_object(v, "sessions"), queue = json_object(v, "queue"), loops = json_array(v, "loops"),
             addresses = json_array(v, "addresses"), remarks = json_array(v, "remarks");
    printf("omid %s, pid %lld, %s for %lld s, configuration %s\n", str(v, "version"), num(v, "pid"), str(v, "phase"),
           num(v, "uptime_s"), str(v, "config"));
    printf("listening    ");
    for (size_t i = 0; i < json_len(addresses); i++)
        printf(" %s", YAJL_GET_STRING(json_at(addresses, i)) ? YAJL_GET_STRING(json_at(addresses, i)) : "?");
    printf("\nsessions      %lld live, %lld in all, %lld refused; %lld segments, %lld conversations completed\n",
           num(sessions, "live"), num(sessions, "total"), num(sessions, "refused"), num(sessions, "segments"),
           num(sessions, "conversations_completed"));
    yajl_val samples = json_object(sessions, "speaker_samples");
    if (num(samples, "waiting") + num(samples, "given_up") > 0)
        printf("samples       of voices: %lld wait, %lld kept, %lld given up\n", num(samples, "waiting"),
               num(samples, "kept"), num(samples, "given_up"));
    printf("queue         %lld ready, %lld delayed, %lld leased, %lld dead\n", num(queue, "ready"),
           num(queue, "delayed"), num(queue, "leased"), num(queue, "dead"));
    for (size_t i = 0; i < json_len(loops); i++) {
        yajl_val l = json_at(loops, i);
        printf("%-13s lag p50 %.3f ms, p99 %.3f ms, max %.3f ms\n", str(l, "name"), json_num(l, "lag_p50_ms", 0),
               json_num(l, "lag_p99_ms", 0), json_num(l, "lag_max_ms", 0));
    }
    for (size_t i = 0; i < json_len(remarks); i++)
        printf("remark        %s\n", YAJL_GET_STRING(json_at(remarks, i)) ? YAJL_GET_STRING(json_at(remarks, i)) : "?");
    putchar('\n');
    plugins_print(json_array(v, "plugins"));
    putchar('\n');
    lanes_print(json_array(v, "lanes"));
}

static int show(const struct ctl *ctl, const char *path, void (*print)(yajl_val v))
{
    struct buf body;
    char err[128];
    if (!ctl_get(ctl, path, &body))
        return CTL_FAULT;
    yajl_val v = json_parse(body.data, body.len, 0, err, sizeof err);
    int rc = v ? CTL_OK : CTL_FAULT;
    if (!v)
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
    else if (ctl->json)
        printf("%s%s", body.data, body.data[body.len - 1] == '\n' ? "" : "\n");
    else
        print(v);
    json_free(&v);
    buf_free(&body);
    return rc;
}

int ctl_status(const struct ctl *ctl, int argc, char **argv)
{
    if (argc > 1)
        return ctl_usage("status", "unexpected argument \"%s\"", argv[1]);
    return show(ctl, "/v1/admin/status", status_print);
}

static void plugins_show(yajl_val v)
{
    plugins_print(json_array(v, "plugins"));
}

int ctl_plugins(const struct ctl *ctl, int argc, char **argv)
{
    if (argc > 1)
        return ctl_usage("plugins", "unexpected argument \"%s\"", argv[1]);
    return show(ctl, "/v1/admin/plugins", plugins_show);
}
