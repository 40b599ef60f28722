/* What the commands of omictl share. One thread. */
#ifndef OMID_CTL_CTL_H
#define OMID_CTL_CTL_H

#include <stdbool.h>
#include <stdio.h>

#include "base/json.h"

/* Exit statuses; in omictl(1). */
enum ctl_exit {
    CTL_OK = 0,
    CTL_FAULT = 1, /* the daemon does not answer, a stream ended early, a check found errors */
    CTL_USAGE = 2,
    CTL_TIMEOUT = 3, /* what was waited for did not come */
};

struct ctl {
    const char *socket; /* the daemon's control socket */
    bool json;
};

/* One command: argv[0] is its name. Returns an exit status. */
struct ctl_command {
    const char *name;
    int (*run)(const struct ctl *ctl, int argc, char **argv);
    const char *args, *summary;
    const char *help; /* printed by `omictl NAME --help` */
};
extern const struct ctl_command ctl_commands[]; /* ends with a NULL name */

int ctl_status(const struct ctl *ctl, int argc, char **argv);
int ctl_plugins(const struct ctl *ctl, int argc, char **argv);
int ctl_lanes(const struct ctl *ctl, int argc, char **argv);
int ctl_breakers(const struct ctl *ctl, int argc, char **argv);
int ctl_breaker(const struct ctl *ctl, int argc, char **argv);
int ctl_sessions(const struct ctl *ctl, int argc, char **argv);
int ctl_session(const struct ctl *ctl, int argc, char **argv);
int ctl_apps(const struct ctl *ctl, int argc, char **argv);
int ctl_webhooks(const struct ctl *ctl, int argc, char **argv);
int ctl_conf(const struct ctl *ctl, int argc, char **argv);
int ctl_lint(const struct ctl *ctl, int argc, char **argv);
int ctl_reload(const struct ctl *ctl, int argc, char **argv);
int ctl_listen(const struct ctl *ctl, int argc, char **argv);
int ctl_dead(const struct ctl *ctl, int argc, char **argv);
int ctl_deliveries(const struct ctl *ctl, int argc, char **argv);
int ctl_receive(const struct ctl *ctl, int argc, char **argv);

/* "omictl NAME: message", to stderr; returns CTL_USAGE. */
int ctl_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Parses a number, or a whole one, within min..max; false, having told why. */
bool ctl_number(const char *command, const char *option, const char *text, double min, double max, double *out);
bool ctl_whole(const char *command, const char *option, const char *text, double min, double max, double *out);
/* Is it --help or -h? Then prints the command's help. */
bool ctl_help_asked(const char *command, int argc, char **argv);

/* GET path from the control socket. The body (NUL-terminated, caller frees by buf_free), or false having told why. */
bool ctl_get(const struct ctl *ctl, const char *path, struct buf *body);
/* Any method; json: the request's body, or NULL. After 204 the answer is empty. */
bool ctl_request(const struct ctl *ctl, const char *method, const char *path, const char *json, struct buf *body);
/* The same with POST and without a body of ours. */
bool ctl_post(const struct ctl *ctl, const char *path, struct buf *body);

/* A number, or 0; a string, or "-". */
long long ctl_num(yajl_val v, const char *key);
const char *ctl_str(yajl_val v, const char *key);
/* GET path, and print() what comes, or with --json as it is. again: every second, until the reader or the daemon is
 * gone; on a terminal in place. Returns an exit status. */
int ctl_show(const struct ctl *ctl, const char *path, void (*print)(yajl_val v), bool again);

#endif
