/* omictl sessions, session: who speaks, and how well it goes. */
#include <stdlib.h>
#include <string.h>

#include "base/query.h"
#include "ctl/ctl.h"

static void sessions_print(yajl_val v)
{
    yajl_val list = json_array(v, "sessions"), states = json_object(v, "states");
    printf("%-36s %-15s %-8s %-10s %-19s %8s %7s %8s %6s  %s\n", "SESSION", "UID", "STATE", "CODEC", "PROVIDER",
           "SECONDS", "KB/S", "LAG MS", "IDLE", "TASKS");
    for (size_t i = 0; i < json_len(list); i++) {
        yajl_val s = json_at(list, i);
        printf("%-36s %-15s %-8s %-10.10s %-19.19s %8.0f %7.1f %8lld %5.0fs  %s\n", ctl_str(s, "id"), ctl_str(s, "uid"),
               ctl_str(s, "state"), ctl_str(s, "codec"), ctl_str(s, "provider"), json_num(s, "seconds", 0),
               json_num(s, "bytes_per_second", 0) / 1000, ctl_num(s, "lag_ms"), json_num(s, "idle_seconds", 0),
               ctl_str(s, "tasks"));
    }
    if (ctl_num(v, "matching") > ctl_num(v, "shown"))
        printf("%lld of %lld sessions; those that are not live or lag behind come first\n", ctl_num(v, "shown"),
               ctl_num(v, "matching"));
    printf("%lld sessions: %lld starting, %lld live, %lld closing, %lld leaving\n", ctl_num(v, "total"),
           ctl_num(states, "starting"), ctl_num(states, "live"), ctl_num(states, "closing"),
           ctl_num(states, "leaving"));
}

int ctl_sessions(const struct ctl *ctl, int argc, char **argv)
{
    struct buf path = BUF_INIT(0);
    bool again = false, ok = buf_puts(&path, "/v1/admin/sessions");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--watch") == 0) {
            again = true;
        } else if (strcmp(argv[i], "--uid") == 0 && i + 1 < argc) {
            ok = query_append(&path, "uid", argv[++i]) && ok;
        } else if (strcmp(argv[i], "--state") == 0 && i + 1 < argc) {
            ok = query_append(&path, "state", argv[++i]) && ok;
        } else {
            buf_free(&path);
            return ctl_usage("sessions", "unexpected argument \"%s\"", argv[i]);
        }
    }
    int rc = ok ? ctl_show(ctl, path.data, sessions_print, again) : CTL_FAULT;
    buf_free(&path);
    return rc;
}

int ctl_session(const struct ctl *ctl, int argc, char **argv)
{
    const char *id = NULL, *code = NULL, *reason = NULL;
    if (argc < 2 || strcmp(argv[1], "kill") != 0)
        return ctl_usage("session", "expected: kill ID");
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--code") == 0 && i + 1 < argc)
            code = argv[++i];
        else if (strcmp(argv[i], "--reason") == 0 && i + 1 < argc)
            reason = argv[++i];
        else if (argv[i][0] != '-' && !id)
            id = argv[i];
        else
            return ctl_usage("session", "unexpected argument \"%s\"", argv[i]);
    }
    if (!id)
        return ctl_usage("session", "expected: kill ID");
    if (code && strcmp(code, "1001") != 0 && strcmp(code, "1008") != 0)
        return ctl_usage("session", "--code: expected 1001 or 1008, found \"%s\"", code);
    struct buf path = BUF_INIT(0), body;
    bool ok = buf_puts(&path, "/v1/admin/sessions/kill") && query_append(&path, "id", id) &&
              (!code || query_append(&path, "code", code)) && (!reason || query_append(&path, "reason", reason)) &&
              ctl_post(ctl, path.data, &body);
    buf_free(&path);
    if (!ok)
        return CTL_FAULT;
    if (ctl->json)
        printf("%s", body.data);
    else
        printf("%s is told to end\n", id);
    buf_free(&body);
    return CTL_OK;
}
