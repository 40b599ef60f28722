/* omictl lanes, breakers, breaker: what the lanes hold, and which targets they have given up on for now. */
#include <stdlib.h>
#include <string.h>

#include "base/query.h"
#include "ctl/ctl.h"

static const char *const rejects[] = {"full", "queue_timeout", "breaker", "streams", "shutdown"};

/* Target blocks of omi.conf, below the table. */
static void blocks_print(yajl_val lanes)
{
    for (size_t i = 0; i < json_len(lanes); i++) {
        yajl_val l = json_at(lanes, i), blocks = json_array(l, "target_blocks");
        for (size_t k = 0; k < json_len(blocks); k++) {
            yajl_val b = json_at(blocks, k);
            printf("%-12s target \"%s\": ", ctl_str(l, "name"), ctl_str(b, "prefix"));
            if (ctl_num(b, "matched") == 0)
                puts("has matched no target so far");
            else
                printf("%lld targets, %lld so far\n", ctl_num(b, "targets"), ctl_num(b, "matched"));
        }
    }
}

static void lanes_print(yajl_val v)
{
    yajl_val lanes = json_array(v, "lanes");
    printf("%-12s %9s %9s %8s %8s %9s %9s %10s %8s %5s  %s\n", "LANE", "IN FLIGHT", "SEMAPHORE", "WAITING", "STREAMS",
           "P50 MS", "P99 MS", "DONE", "TARGETS", "OPEN", "REJECTED");
    for (size_t i = 0; i < json_len(lanes); i++) {
        yajl_val l = json_at(lanes, i), by = json_object(l, "rejected_by");
        printf("%-12s %9lld %9lld %8lld %8lld %9.3f %9.3f %10lld %8lld %5lld  %lld", ctl_str(l, "name"),
               ctl_num(l, "in_flight"), ctl_num(l, "semaphore"), ctl_num(l, "waiting"), ctl_num(l, "streams"),
               json_num(l, "p50_ms", 0), json_num(l, "p99_ms", 0), ctl_num(l, "done"), ctl_num(l, "targets"),
               ctl_num(l, "breakers_open"), ctl_num(l, "rejected"));
        const char *between = " (";
        for (size_t k = 0; k < sizeof rejects / sizeof rejects[0]; k++) {
            if (ctl_num(by, rejects[k]) > 0) {
                printf("%s%s %lld", between, rejects[k], ctl_num(by, rejects[k]));
                between = ", ";
            }
        }
        puts(between[0] == ',' ? ")" : "");
    }
    blocks_print(lanes);
}

static void breakers_print(yajl_val v)
{
    yajl_val list = json_array(v, "breakers");
    printf("%-12s %-9s %9s %8s %6s %9s %8s  %s\n", "LANE", "STATE", "SINCE", "PROBE IN", "LIMIT", "IN FLIGHT",
           "WAITING", "TARGET, REASON");
    for (size_t i = 0; i < json_len(list); i++) {
        yajl_val b = json_at(list, i);
        char probe[24] = "-", limit[24] = "-";
        if (json_num(b, "next_probe_ms", -1) >= 0)
            snprintf(probe, sizeof probe, "%.0fs", json_num(b, "next_probe_ms", 0) / 1000);
        if (json_num(b, "limit", -1) >= 0)
            snprintf(limit, sizeof limit, "%lld", ctl_num(b, "limit"));
        printf("%-12s %-9s %8.0fs %8s %6s %9lld %8lld  %s", ctl_str(b, "lane"), ctl_str(b, "state"),
               json_num(b, "since_ms", 0) / 1000, probe, limit, ctl_num(b, "in_flight"), ctl_num(b, "waiting"),
               ctl_str(b, "target"));
        printf(strcmp(ctl_str(b, "why"), "new") == 0 ? "\n" : " (%s)\n", ctl_str(b, "why"));
    }
    if (ctl_num(v, "targets") > ctl_num(v, "shown"))
        printf("%lld of %lld targets; those whose breakers are not closed come first\n", ctl_num(v, "shown"),
               ctl_num(v, "targets"));
}

static int table(const struct ctl *ctl, const char *command, const char *base, void (*print)(yajl_val v), int argc,
                 char **argv)
{
    struct buf path = BUF_INIT(0);
    bool again = false, filter = strcmp(command, "breakers") == 0, ok = buf_puts(&path, base);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--watch") == 0) {
            again = true;
        } else if (filter && strcmp(argv[i], "--lane") == 0 && i + 1 < argc) {
            ok = query_append(&path, "lane", argv[++i]) && ok;
        } else {
            buf_free(&path);
            return ctl_usage(command, "unexpected argument \"%s\"", argv[i]);
        }
    }
    int rc = ok ? ctl_show(ctl, path.data, print, again) : CTL_FAULT;
    buf_free(&path);
    return rc;
}

int ctl_lanes(const struct ctl *ctl, int argc, char **argv)
{
    return table(ctl, "lanes", "/v1/admin/lanes", lanes_print, argc, argv);
}

int ctl_breakers(const struct ctl *ctl, int argc, char **argv)
{
    return table(ctl, "breakers", "/v1/admin/breakers", breakers_print, argc, argv);
}

int ctl_breaker(const struct ctl *ctl, int argc, char **argv)
{
    const char *target = NULL, *lane = NULL;
    if (argc < 2 || strcmp(argv[1], "reset") != 0)
        return ctl_usage("breaker", "expected: reset TARGET");
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--lane") == 0 && i + 1 < argc)
            lane = argv[++i];
        else if (argv[i][0] != '-' && !target)
            target = argv[i];
        else
            return ctl_usage("breaker", "unexpected argument \"%s\"", argv[i]);
    }
    if (!target)
        return ctl_usage("breaker", "expected: reset TARGET");
    struct buf path = BUF_INIT(0), body;
    bool ok = buf_puts(&path, "/v1/admin/breakers/reset") && query_append(&path, "target", target) &&
              (!lane || query_append(&path, "lane", lane)) && ctl_post(ctl, path.data, &body);
    buf_free(&path);
    if (!ok)
        return CTL_FAULT;
    char err[128];
    yajl_val v = json_parse(body.data, body.len, 0, err, sizeof err);
    if (ctl->json)
        printf("%s", body.data);
    else
        printf("%lld closed\n", ctl_num(v, "reset"));
    json_free(&v);
    buf_free(&body);
    return CTL_OK;
}
