/* A table of the daemon's: fetched and shown, once or again and again. */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define WATCH_MS 1000

long long ctl_num(yajl_val v, const char *key)
{
    return (long long)json_num(v, key, 0);
}

const char *ctl_str(yajl_val v, const char *key)
{
    const char *s = json_str(v, key);
    return s ? s : "-";
}

/* Once: fetched and shown. */
static int show(const struct ctl *ctl, const char *path, void (*print)(yajl_val v), bool clear)
{
    struct buf body;
    char err[128];
    if (!ctl_get(ctl, path, &body))
        return CTL_FAULT;
    yajl_val v = json_parse(body.data, body.len, 0, err, sizeof err);
    if (!v)
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
    else if (ctl->json)
        printf("%s%s", body.data, body.data[body.len - 1] == '\n' ? "" : "\n");
    else {
        if (clear)
            fputs("\033[H\033[2J", stdout);
        print(v);
    }
    int rc = v ? CTL_OK : CTL_FAULT;
    json_free(&v);
    buf_free(&body);
    return rc;
}

/* Again and again, until the reader or the daemon is gone. */
static int watch(const struct ctl *ctl, const char *path, void (*print)(yajl_val v))
{
    bool clear = isatty(STDOUT_FILENO);
    for (;;) {
        int rc = show(ctl, path, print, clear);
        if (rc != CTL_OK)
            return rc;
        if (!clear && !ctl->json)
            putchar('\n');
        if (fflush(stdout) != 0)
            return CTL_OK;
        nanosleep(&(struct timespec){.tv_sec = WATCH_MS / 1000, .tv_nsec = WATCH_MS % 1000 * 1000000L}, NULL);
    }
}

int ctl_show(const struct ctl *ctl, const char *path, void (*print)(yajl_val v), bool again)
{
    return again ? watch(ctl, path, print) : show(ctl, path, print, false);
}
