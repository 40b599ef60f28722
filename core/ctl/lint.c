/* omictl lint: what the daemon's loader would say of a plugin's file, without running anything in it. */
#include "host/lint.h"
#include "ctl/ctl.h"

static void show_json(const char *file, const struct lint *l, const char *reason, bool ok)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "file", file);
    json_w_kbool(&w, "ok", ok);
    json_w_kstr(&w, "reason", reason);
    json_w_kbool(&w, "blocks_on_executors", l->on_executors);
    json_w_key(&w, "blocking");
    json_w_open(&w, '[');
    for (unsigned i = 0; i < l->n; i++) {
        json_w_open(&w, '{');
        json_w_kstr(&w, "symbol", l->finding[i].symbol);
        json_w_kstr(&w, "why", l->finding[i].why);
        json_w_close(&w, '}');
    }
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    if (json_w_end(&w))
        puts(b.data);
    buf_free(&b);
}

static void show_text(const char *file, const struct lint *l)
{
    for (unsigned i = 0; i < l->n; i++)
        printf("%s: %s: %s%s\n", file, l->finding[i].symbol, l->finding[i].why,
               l->on_executors ? " (allowed: on executors only, it says)" : "");
    if (l->n == 0)
        printf("%s: no blocking call\n", file);
}

int ctl_lint(const struct ctl *ctl, int argc, char **argv)
{
    struct lint l;
    char err[256] = "";
    if (argc != 2)
        return ctl_usage("lint", "expected: FILE.so");
    bool plugin = lint_file(argv[1], &l, err, sizeof(err));
    bool ok = plugin && (l.n == 0 || l.on_executors);
    if (ctl->json)
        show_json(argv[1], &l, plugin ? (ok ? "" : "blocking calls") : err, ok);
    else if (plugin)
        show_text(argv[1], &l);
    else
        fprintf(stderr, "omictl lint: %s: %s\n", argv[1], err);
    return ok ? CTL_OK : CTL_FAULT;
}
