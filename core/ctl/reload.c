/* omictl reload: asks for it, waits for the result, tells the faults. */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "ctl/ctl.h"

#define POLL_MS 20

/* The daemon's answer as a tree; NULL, having told why. */
static yajl_val ask(const struct ctl *ctl, bool post)
{
    struct buf body;
    char err[128];
    if (!(post ? ctl_post(ctl, "/v1/admin/reload", &body) : ctl_get(ctl, "/v1/admin/reload", &body)))
        return NULL;
    yajl_val v = json_parse(body.data, body.len, 0, err, sizeof err);
    if (!v)
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
    buf_free(&body);
    return v;
}

static void print_json(yajl_val v)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    yajl_val faults = json_array(v, "faults");
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_kbool(&w, "ok", json_bool(v, "ok", false));
    json_w_kstr(&w, "summary", json_str(v, "summary"));
    json_w_key(&w, "faults");
    json_w_open(&w, '[');
    for (size_t i = 0; i < json_len(faults); i++)
        json_w_str(&w, YAJL_GET_STRING(json_at(faults, i)));
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    if (json_w_end(&w))
        puts(b.data);
    buf_free(&b);
}

static int print(const struct ctl *ctl, yajl_val v)
{
    bool ok = json_bool(v, "ok", false);
    yajl_val faults = json_array(v, "faults");
    if (ctl->json) {
        print_json(v);
        return ok ? CTL_OK : CTL_FAULT;
    }
    for (size_t i = 0; i < json_len(faults); i++)
        fprintf(stderr, "%s\n", YAJL_GET_STRING(json_at(faults, i)));
    const char *summary = json_str(v, "summary");
    fprintf(ok ? stdout : stderr, "%s\n", summary ? summary : "");
    return ok ? CTL_OK : CTL_FAULT;
}

int ctl_reload(const struct ctl *ctl, int argc, char **argv)
{
    double wait_s = 60;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--wait") != 0 || i + 1 == argc)
            return ctl_usage("reload", "unexpected argument \"%s\"", argv[i]);
        if (!ctl_number("reload", "--wait", argv[++i], 0, 3600, &wait_s))
            return CTL_USAGE;
    }
    yajl_val v = ask(ctl, true);
    if (!v)
        return CTL_FAULT;
    double number = json_num(v, "number", 0);
    json_free(&v);
    uint64_t until = clock_mono_ms() + (uint64_t)(wait_s * 1000);
    for (;;) {
        v = ask(ctl, false);
        if (!v)
            return CTL_FAULT;
        if (json_num(v, "done", 0) >= number) {
            int rc = print(ctl, v);
            json_free(&v);
            return rc;
        }
        json_free(&v);
        if (clock_mono_ms() >= until) {
            fprintf(stderr, "omictl reload: no result within %g s; the daemon goes on with it\n", wait_s);
            return CTL_TIMEOUT;
        }
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
}
