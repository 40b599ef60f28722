/* omictl conf check: the daemon checks, so that both say the same. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define MAX_OUTPUT (4u << 20)

/* Runs `omid -t -f FILE`; its messages to *out. Its exit status, or -1. */
static int check_run(const char *file, struct buf *out)
{
    int fd[2], status;
    if (pipe(fd) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], STDERR_FILENO);
        close(fd[0]);
        close(fd[1]);
        const char *omid = getenv("OMID_DAEMON");
        execl(omid ? omid : OMID_SBINDIR "/omid", "omid", "-t", "-f", file, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    char chunk[4096];
    ssize_t n;
    while (pid > 0 && ((n = read(fd[0], chunk, sizeof chunk)) > 0 || (n < 0 && errno == EINTR))) {
        if (n > 0)
            buf_append(out, chunk, (size_t)n); /* what is over the bound is not shown */
    }
    close(fd[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static void faults_json(const struct buf *text, bool ok)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kbool(&w, "ok", ok);
    json_w_key(&w, "messages");
    json_w_open(&w, '[');
    for (const char *p = text->data; p && *p;) {
        size_t n = strcspn(p, "\n");
        if (n)
            json_w_strn(&w, p, n);
        p += n + (p[n] == '\n');
    }
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    if (json_w_end(&w))
        puts(b.data);
    buf_free(&b);
}

int ctl_conf(const struct ctl *ctl, int argc, char **argv)
{
    struct buf out = BUF_INIT(MAX_OUTPUT);
    if (argc != 3 || strcmp(argv[1], "check") != 0)
        return ctl_usage("conf", "expected: check FILE");
    int status = check_run(argv[2], &out);
    if (status < 0 || status == 127) {
        fprintf(stderr, "omictl: can't run %s ($OMID_DAEMON names another)\n", OMID_SBINDIR "/omid");
        buf_free(&out);
        return CTL_FAULT;
    }
    if (ctl->json)
        faults_json(&out, status == 0);
    else if (out.len)
        fputs(out.data, status == 0 ? stdout : stderr);
    buf_free(&out);
    return status == 0 ? CTL_OK : CTL_FAULT;
}
