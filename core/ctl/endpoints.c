/* omictl apps, webhooks: what is registered, and changing it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/query.h"
#include "ctl/ctl.h"

#define SECRET_BYTES 256

struct given {
    const struct ctl *ctl;
    const char *command; /* "apps", "webhooks" */
    bool apps;
    const char *action, *id;
    const char *uid, *url, *name, *setup_url, *new_id, *filter, *secret_file;
    const char *triggers[16], *events[72], *capabilities[4];
    size_t n_triggers, n_events, n_capabilities;
    double audio, rate;
    bool has_audio, has_rate, ordered, unordered, disabled;
};

/* ---------------------------------------------------------------- the command line */

enum action_flags { TAKES_ID = 1, TAKES_FIELDS = 2, TAKES_UID = 4, TAKES_SECRET = 8, TAKES_LIST = 16, MAKES = 32 };
static const struct {
    const char *name;
    unsigned flags;
} actions[] = {
    {"list", TAKES_UID | TAKES_LIST},
    {"add", TAKES_FIELDS | TAKES_UID | TAKES_SECRET | MAKES},
    {"set", TAKES_ID | TAKES_FIELDS | TAKES_UID},
    {"show", TAKES_ID},
    {"rm", TAKES_ID},
    {"enable", TAKES_ID | TAKES_UID},
    {"disable", TAKES_ID | TAKES_UID},
    {"test", TAKES_ID | TAKES_UID},
    {"secret", TAKES_ID | TAKES_SECRET},
};

static int action_flags(const char *name)
{
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(actions[i].name, name) == 0)
            return (int)actions[i].flags;
    }
    return -1;
}

/* Of those that take a text. NULL: none of this name for this action. */
static const char **text_option(struct given *g, unsigned flags, const char *option)
{
    const struct {
        const char *option;
        unsigned of;
        bool apps_only;
        const char **to;
    } texts[] = {
        {"--uid", TAKES_UID, false, &g->uid},
        {"--url", TAKES_FIELDS, false, &g->url},
        {"--id", MAKES, false, &g->new_id},
        {"--name", TAKES_FIELDS, true, &g->name},
        {"--setup-url", TAKES_FIELDS, true, &g->setup_url},
        {"--filter", TAKES_FIELDS, false, &g->filter},
        {"--secret-file", TAKES_SECRET, false, &g->secret_file},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (strcmp(texts[i].option, option) == 0 && (flags & texts[i].of) != 0 && (g->apps || !texts[i].apps_only))
            return texts[i].to;
    }
    return NULL;
}

/* 1: taken; 0: it is none of these; -1: told. */
static int list_option(struct given *g, const char *option, const char *value)
{
    const struct {
        const char *option;
        const char **to;
        size_t *n, max;
    } lists[] = {
        {"--trigger", g->triggers, &g->n_triggers, 16},
        {"--event", g->events, &g->n_events, 72},
        {"--capability", g->apps ? g->capabilities : NULL, &g->n_capabilities, 4},
    };
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (strcmp(lists[i].option, option) != 0 || !lists[i].to)
            continue;
        if (*lists[i].n == lists[i].max) {
            ctl_usage(g->command, "%s: given too often", option);
            return -1;
        }
        lists[i].to[(*lists[i].n)++] = value;
        return 1;
    }
    return 0;
}

static int number_option(struct given *g, const char *option, const char *value)
{
    bool audio = strcmp(option, "--audio") == 0;
    if (!audio && strcmp(option, "--rate") != 0)
        return 0;
    *(audio ? &g->has_audio : &g->has_rate) = true;
    return ctl_whole(g->command, option, value, audio ? 1 : 0, audio ? 60 : 1000000, audio ? &g->audio : &g->rate) ? 1
                                                                                                                   : -1;
}

static bool flag_option(struct given *g, unsigned flags, const char *option)
{
    if (strcmp(option, "--disabled") == 0 && (flags & (TAKES_LIST | MAKES)) != 0)
        return g->disabled = true;
    if (strcmp(option, "--ordered") == 0 && (flags & TAKES_FIELDS) != 0)
        return g->ordered = true;
    if (strcmp(option, "--unordered") == 0 && (flags & TAKES_FIELDS) != 0)
        return g->unordered = true;
    return false;
}

/* CTL_OK, or CTL_USAGE having told why. */
static int parse(struct given *g, int argc, char **argv)
{
    int flags = argc > 1 ? action_flags(argv[1]) : -1;
    if (flags < 0)
        return ctl_usage(g->command, "expected list, add, show, set, rm, enable, disable, test or secret%s%s",
                         argc > 1 ? ", found " : "", argc > 1 ? argv[1] : "");
    g->action = argv[1];
    for (int i = 2; i < argc; i++) {
        const char *a = argv[i];
        if (a[0] != '-' && (flags & TAKES_ID) != 0 && !g->id) {
            g->id = a;
            continue;
        }
        if (flag_option(g, (unsigned)flags, a))
            continue;
        const char **text = text_option(g, (unsigned)flags, a);
        int taken = text ? 1 : 0;
        if (i + 1 < argc && text)
            *text = argv[i + 1];
        else if (i + 1 < argc && (flags & TAKES_FIELDS) != 0) {
            taken = list_option(g, a, argv[i + 1]);
            taken = taken == 0 ? number_option(g, a, argv[i + 1]) : taken;
        }
        if (taken < 0)
            return CTL_USAGE;
        if (taken == 0 || i + 1 == argc)
            return ctl_usage(g->command, text ? "%s: expected a value behind it" : "unexpected argument \"%s\"", a);
        i++;
    }
    if ((flags & TAKES_ID) != 0 && !g->id)
        return ctl_usage(g->command, "%s: expected an id", g->action);
    if (g->ordered && g->unordered)
        return ctl_usage(g->command, "expected one of --ordered and --unordered");
    if ((flags & MAKES) != 0 && !g->url)
        return ctl_usage(g->command, "add: expected --url");
    return CTL_OK;
}

/* ---------------------------------------------------------------- what is sent */

static void write_list(struct json_w *w, const char *key, const char *const *list, size_t n)
{
    if (n == 0)
        return;
    json_w_key(w, key);
    json_w_open(w, '[');
    for (size_t i = 0; i < n; i++) {
        if (*list[i]) /* --event "" leaves none */
            json_w_str(w, list[i]);
    }
    json_w_close(w, ']');
}

static void write_text(struct json_w *w, const char *key, const char *text)
{
    if (text)
        json_w_kstr(w, key, text);
}

/* The secret's line; false: told. */
static bool secret_read(const struct given *g, char out[SECRET_BYTES])
{
    FILE *f = strcmp(g->secret_file, "-") == 0 ? stdin : fopen(g->secret_file, "re");
    bool ok = f && fgets(out, SECRET_BYTES, f);
    if (!ok)
        fprintf(stderr, "omictl: %s: %s\n", g->secret_file, f ? "is empty" : strerror(errno));
    if (f && f != stdin)
        fclose(f);
    if (ok)
        out[strcspn(out, "\r\n")] = '\0';
    return ok;
}

/* false: told. */
static bool write_filter(const struct given *g, struct json_w *w)
{
    char err[128];
    if (!g->filter)
        return true;
    json_w_key(w, "filter");
    if (!*g->filter) {
        json_w_null(w);
        return true;
    }
    yajl_val v = json_parse(g->filter, strlen(g->filter), 0, err, sizeof err);
    if (v)
        json_w_tree(w, v);
    else
        ctl_usage(g->command, "--filter: expected a JSON object: %s", err);
    bool ok = v != NULL;
    json_free(&v);
    return ok;
}

/* The body as the caller's own string. NULL: *rc says why, and it was told. */
static char *body_make(const struct given *g, int *rc)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char secret[SECRET_BYTES] = "";
    bool fields = (action_flags(g->action) & TAKES_FIELDS) != 0;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    write_text(&w, "id", g->new_id);
    write_text(&w, "uid", g->uid);
    write_text(&w, "url", g->url);
    write_text(&w, "name", g->name);
    write_text(&w, "setup_completed_url", g->setup_url);
    write_list(&w, "triggers", g->triggers, g->n_triggers);
    write_list(&w, "events", g->events, g->n_events);
    write_list(&w, "capabilities", g->capabilities, g->n_capabilities);
    if (g->has_audio)
        json_w_kint(&w, "audio_seconds", (int64_t)g->audio);
    if (g->has_rate)
        json_w_kint(&w, "rate_per_min", (int64_t)g->rate);
    if (g->ordered || g->unordered)
        json_w_kbool(&w, "ordered", g->ordered);
    if (fields && g->disabled)
        json_w_kbool(&w, "enabled", false);
    *rc = write_filter(g, &w) ? CTL_OK : CTL_USAGE;
    if (*rc == CTL_OK && g->secret_file) {
        if (!secret_read(g, secret))
            *rc = CTL_FAULT;
        json_w_kstr(&w, "secret", secret);
    }
    json_w_close(&w, '}');
    explicit_bzero(secret, sizeof secret);
    char *text = json_w_end(&w) && *rc == CTL_OK ? buf_steal(&b, NULL) : NULL;
    buf_free(&b);
    if (!text && *rc == CTL_OK)
        *rc = CTL_FAULT;
    return text;
}

/* ---------------------------------------------------------------- what is shown */

static void names(yajl_val e, const char *key, const char **comma)
{
    yajl_val list = json_array(e, key);
    for (size_t i = 0; i < json_len(list); i++) {
        printf("%s%s", *comma, YAJL_IS_STRING(json_at(list, i)) ? YAJL_GET_STRING(json_at(list, i)) : "?");
        *comma = ",";
    }
}

static void line_print(yajl_val e)
{
    const char *comma = "";
    printf("%-36s %-24.24s %-8s %8lld  ", ctl_str(e, "id"), ctl_str(e, "uid"),
           json_bool(e, "enabled", false) ? "enabled" : "disabled", ctl_num(e, "failures"));
    names(e, "triggers", &comma);
    names(e, "events", &comma);
    printf("  %s\n", ctl_str(e, "url"));
}

static void one_print(yajl_val e)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    for (size_t i = 0; YAJL_IS_OBJECT(e) && i < e->u.object.len; i++) {
        yajl_val v = e->u.object.values[i];
        const char *key = e->u.object.keys[i];
        buf_clear(&b);
        json_w_start(&w, &b);
        json_w_tree(&w, v);
        if (YAJL_IS_STRING(v))
            printf("%-20s %s\n", key, YAJL_GET_STRING(v));
        else if (!YAJL_IS_NULL(v) && json_w_end(&w))
            printf("%-20s %s\n", key, b.data);
    }
    buf_free(&b);
}

static int answer_print(const struct given *g, const struct buf *answer)
{
    char err[128];
    yajl_val v = json_parse(answer->data, answer->len, 0, err, sizeof err);
    if (!v)
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
    else if (g->ctl->json)
        printf("%s%s", answer->data, answer->data[answer->len - 1] == '\n' ? "" : "\n");
    else
        one_print(v);
    int rc = v ? CTL_OK : CTL_FAULT;
    json_free(&v);
    return rc;
}

/* One page; `next` is where the one behind it begins, "" at the end. CTL_OK, or told. */
static int page_print(const struct given *g, char next[80], struct json_w *all)
{
    struct buf path = BUF_INIT(0), answer;
    char err[128];
    bool first = !*next;
    bool ok = buf_printf(&path, "/v1/admin/%s", g->command) && (!g->uid || query_append(&path, "uid", g->uid)) &&
              (!g->disabled || query_append(&path, "disabled", "true")) &&
              (!*next || query_append(&path, "after", next)) && ctl_get(g->ctl, path.data, &answer);
    buf_free(&path);
    if (!ok)
        return CTL_FAULT;
    yajl_val v = json_parse(answer.data, answer.len, 0, err, sizeof err), list = json_array(v, g->command);
    if (v && first && !g->ctl->json)
        printf("%-36s %-24s %-8s %8s  %s\n", "ID", "UID", "STATE", "FAILURES", "TRIGGERS  URL");
    for (size_t i = 0; i < json_len(list); i++) {
        if (g->ctl->json)
            json_w_tree(all, json_at(list, i));
        else
            line_print(json_at(list, i));
    }
    const char *more = json_str(v, "next");
    snprintf(next, 80, "%s", more ? more : "");
    if (!v)
        fprintf(stderr, "omictl: the daemon's answer is not JSON: %s\n", err);
    int rc = v ? CTL_OK : CTL_FAULT;
    json_free(&v);
    buf_free(&answer);
    return rc;
}

static int list(const struct given *g)
{
    struct buf b = BUF_INIT(0);
    struct json_w w;
    char next[80] = "";
    int rc;
    json_w_start(&w, &b);
    json_w_open(&w, '{');
    json_w_key(&w, g->command);
    json_w_open(&w, '[');
    do
        rc = page_print(g, next, &w);
    while (rc == CTL_OK && *next);
    json_w_close(&w, ']');
    json_w_close(&w, '}');
    if (rc == CTL_OK && g->ctl->json && json_w_end(&w))
        puts(b.data);
    buf_free(&b);
    return rc;
}

/* ---------------------------------------------------------------- the actions */

static int act(const struct given *g)
{
    static const struct {
        const char *action, *method, *under;
        bool body;
    } requests[] = {
        {"add", "POST", "", true},       {"set", "PATCH", "", true},          {"show", "GET", "", false},
        {"rm", "DELETE", "", false},     {"enable", "POST", "/enable", true}, {"disable", "POST", "/disable", true},
        {"test", "POST", "/test", true}, {"secret", "POST", "/secret", true},
    };
    size_t i = 0;
    while (strcmp(requests[i].action, g->action) != 0)
        i++;
    int rc = CTL_OK;
    char *body = requests[i].body ? body_make(g, &rc) : NULL;
    if (rc != CTL_OK)
        return rc;
    struct buf path = BUF_INIT(0), answer, id = BUF_INIT(0);
    /* An id that is none is the daemon's to refuse; it must not change the path. */
    bool ok = query_append(&id, "", g->id ? g->id : "") &&
              buf_printf(&path, "/v1/admin/%s%s%s%s", g->command, g->id ? "/" : "", id.data + 2, requests[i].under) &&
              ctl_request(g->ctl, requests[i].method, path.data, body, &answer);
    if (body)
        explicit_bzero(body, strlen(body));
    free(body);
    buf_free(&path);
    buf_free(&id);
    if (!ok)
        return CTL_FAULT;
    if (answer.len > 0)
        rc = answer_print(g, &answer);
    else if (!g->ctl->json)
        printf("%s is removed\n", g->id);
    if (answer.data)
        explicit_bzero(answer.data, answer.len);
    buf_free(&answer);
    return rc;
}

static int run(const struct ctl *ctl, const char *command, bool apps, int argc, char **argv)
{
    struct given g = {.ctl = ctl, .command = command, .apps = apps};
    int rc = parse(&g, argc, argv);
    if (rc != CTL_OK || !g.action)
        return rc;
    return strcmp(g.action, "list") == 0 ? list(&g) : act(&g);
}

int ctl_apps(const struct ctl *ctl, int argc, char **argv)
{
    return run(ctl, "apps", true, argc, argv);
}

int ctl_webhooks(const struct ctl *ctl, int argc, char **argv)
{
    return run(ctl, "webhooks", false, argc, argv);
}
