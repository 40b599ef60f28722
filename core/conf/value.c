/* Where a value comes from: the file, a file of its own, the environment, the default. */
#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"
#include "conf/load.h"

#define SECRET_MAX (64 * 1024) /* bytes of a secret's file */

/* OMID_AUTH_ADMIN_KEY, OMID_DEEPGRAM_KEY */
static void environment_name(char *out, size_t len, const char *path, const char *title, const char *key)
{
    snprintf(out, len, "OMID_%s_%s", title ? title : path, key);
    for (char *p = out; *p; p++)
        *p = isalnum((unsigned char)*p) ? (char)toupper((unsigned char)*p) : '_';
}

char *load_beside(const struct outline_item *it, const char *path)
{
    const char *slash = strrchr(it->file, '/');
    char *full = NULL;
    if (path[0] == '/' || !slash)
        return text_copy(path);
    omid_assert(asprintf(&full, "%.*s%s", (int)(slash - it->file) + 1, it->file, path) >= 0);
    return full;
}

/* The content without trailing newlines; NULL: err. *open_to_all: others than owner and group can read it. */
static char *secret_read(const char *path, bool *open_to_all, char *err, size_t errlen)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0) {
        snprintf(err, errlen, "%s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    char *text = malloc(SECRET_MAX + 1);
    omid_assert(text != NULL);
    size_t len = 0;
    ssize_t n = 0;
    while (len <= SECRET_MAX && (n = read(fd, text + len, SECRET_MAX + 1 - len)) > 0)
        len += (size_t)n;
    int reason = errno;
    close(fd);
    const char *why = NULL;
    if (n < 0)
        why = strerror(reason);
    else if (len > SECRET_MAX)
        why = "is larger than 64KiB";
    else if (memchr(text, '\0', len))
        why = "holds a NUL byte";
    while (!why && len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    if (!why && len == 0)
        why = "is empty";
    if (why) {
        snprintf(err, errlen, "%s", why);
        explicit_bzero(text, SECRET_MAX + 1);
        free(text);
        return NULL;
    }
    text[len] = '\0';
    *open_to_all = S_ISREG(st.st_mode) && (st.st_mode & S_IROTH) != 0;
    return text;
}

static char *secret_from_file(struct load *l, const char *path, const char *title, const struct outline_item *it)
{
    char err[160];
    bool open_to_all = false;
    if (it->n_values != 1)
        return NULL;
    char *full = load_beside(it, it->value[0]);
    char *text = secret_read(full, &open_to_all, err, sizeof(err));
    if (!text)
        load_fault(l, false, path, title, it->name, "expected a file that holds the secret; %s: %s", full, err);
    else if (open_to_all)
        load_fault(l, true, path, title, it->name, "every user of this machine can read %s", full);
    free(full);
    return text;
}

static bool load_secret(struct load *l, const char *path, const char *title, const struct omid_option *option,
                        struct conf_value *v)
{
    char variable[128], file_key[64], err[256];
    snprintf(file_key, sizeof(file_key), "%s_file", option->name);
    environment_name(variable, sizeof(variable), path, title, option->name);
    const struct outline_item *direct = load_find(l, path, title, option->name);
    const struct outline_item *in_file = load_find(l, path, title, file_key);
    const char *env = l->target ? NULL : getenv(variable); /* it names a plugin, not a target */
    if (l->embedded && env)
        direct = in_file = NULL;
    const struct outline_item *it = in_file ? in_file : direct;
    if (direct && in_file) {
        load_fault(l, false, path, title, file_key, "expected one of %s and %s, found both", option->name, file_key);
        return false;
    }
    if (it && env) {
        load_fault(l, false, path, title, it->name, "expected one of this and the environment's %s, found both",
                   variable);
        return false;
    }
    if (!it && !env)
        return value_default(option, v, err, sizeof(err));
    v->set = true;
    char *owned = in_file ? secret_from_file(l, path, title, in_file) : NULL;
    const char *text = in_file ? owned : direct ? direct->value[0] : env;
    bool ok = text != NULL;
    if (ok && !value_parse(option, &text, 1, v, err, sizeof(err))) {
        load_fault(l, false, path, title, it ? it->name : option->name, "%s%s%s", err,
                   it ? "" : " in the environment's ", it ? "" : variable);
        ok = false;
    }
    if (ok && v->v.s[0] == '\0') {
        load_fault(l, false, path, title, it ? it->name : option->name, "expected a secret, found an empty text");
        value_clear(v);
        ok = false;
    }
    if (owned)
        explicit_bzero(owned, strlen(owned));
    free(owned);
    return ok;
}

/* exec.blocking: see spec and the table's help. */
static void load_blocking(struct load *l, const struct omid_option *option, const char *text, struct conf_value *v)
{
    char *end;
    errno = 0;
    long long i = strtoll(text, &end, 10);
    bool readable = end != text && *end == '\0';
    int64_t clamped = (double)i < option->min ? (int64_t)option->min : (int64_t)option->max;
    if (readable) {
        v->v.i = clamped;
        load_fault(l, true, "exec", NULL, option->name,
                   "expected a whole number from %.0f to %.0f, found \"%.40s\": %d is used", option->min, option->max,
                   text, (int)clamped);
    } else {
        char err[64];
        value_default(option, v, err, sizeof(err));
        load_fault(l, true, "exec", NULL, option->name,
                   "expected a whole number from %.0f to %.0f, found \"%.40s\": the default %s is used", option->min,
                   option->max, text, option->def);
    }
}

bool load_value(struct load *l, const char *path, const char *title, const struct omid_option *option,
                struct conf_value *v)
{
    char err[512];
    *v = (struct conf_value){.option = option, .type = option->type};
    const struct outline_item *it = load_find(l, path, title, option->name);
    if (it) {
        v->file = it->file;
        v->line = it->line;
        v->set = true;
    }
    bool ok;
    if (option->type == OMID_OPT_SECRET) {
        ok = load_secret(l, path, title, option, v);
        if (!ok)
            v->v.s = NULL;
    } else if (it) {
        ok = value_parse(option, it->value, it->n_values, v, err, sizeof(err));
        if (!ok && strcmp(path, "exec") == 0 && strcmp(option->name, "blocking") == 0) {
            load_blocking(l, option, it->value[0], v);
            ok = true;
        }
        if (!ok)
            load_fault(l, false, path, title, option->name, "%s", err);
    } else {
        ok = value_default(option, v, err, sizeof(err));
        if (!ok)
            load_fault(l, false, path, title, option->name, "the default in the table: %s", err);
    }
    if (ok && !v->set && (option->flags & OMID_OPT_REQUIRED)) {
        load_fault(l, false, path, title, option->name, "expected a value: this setting is required");
        ok = false;
    }
    if (!ok)
        v->option = NULL;
    return ok;
}
