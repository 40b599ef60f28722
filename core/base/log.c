#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/magic.h"

#define LINE_MAX_BYTES 8192
#define REPEAT_FREE 10       /* faults of one kind within the window */
#define REPEAT_FREE_INFO 200 /* what is no fault differs in its fields: held back only as a flood */
#define REPEAT_WINDOW_MS 10000
#define REPEAT_SLOTS 128
#define MAX_FIELDS 24

static atomic_int level_now = LOG_LEVEL_INFO;
static atomic_int format_now = LOG_FORMAT_TEXT;
static atomic_int target_now = LOG_TARGET_STDERR;

static const char *const level_names[] = {"error", "warning", "notice", "info", "debug"};
static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};

/* Lines of one kind: same module and message. */
struct repeat {
    uint64_t kind; /* 0: free */
    uint64_t since_ms;
    unsigned seen, held;
    enum log_level level;
    char module[24], message[96];
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the table */
static struct repeat repeats[REPEAT_SLOTS];

void log_setup(enum log_level level, enum log_format format, enum log_target target)
{
    if (target == LOG_TARGET_SYSLOG)
        openlog("omid", LOG_PID, LOG_DAEMON);
    atomic_store(&level_now, (int)level);
    atomic_store(&format_now, (int)format);
    atomic_store(&target_now, (int)target);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

/* -------------------------------------------------------------------- formatting */

/* A value of the text form: bare when it can be, else quoted with JSON's escapes. */
static void text_value(struct buf *b, const char *s)
{
    bool bare = s[0] != 0;
    for (const char *p = s; *p && bare; p++)
        bare = (unsigned char)*p > ' ' && (unsigned char)*p < 0x7f && !strchr("\"\\=", *p);
    if (bare) {
        buf_puts(b, s);
        return;
    }
    struct json_w w;
    json_w_start(&w, b);
    json_w_str(&w, s);
}

static void field_text(struct buf *b, const struct log_field *f)
{
    switch (f->type) {
    case LOG_F_STR:
        text_value(b, f->v.s ? f->v.s : "");
        break;
    case LOG_F_INT:
        buf_printf(b, "%lld", (long long)f->v.i);
        break;
    case LOG_F_UINT:
        buf_printf(b, "%llu", (unsigned long long)f->v.u);
        break;
    case LOG_F_DOUBLE:
        buf_printf(b, "%.6g", f->v.d);
        break;
    case LOG_F_BOOL:
        buf_puts(b, f->v.b ? "true" : "false");
        break;
    }
}

static void line_text(struct buf *b, bool stamped, enum log_level level, const char *module, const char *message,
                      const struct log_field *fields, size_t n)
{
    if (stamped) {
        char when[32];
        clock_format_utc(clock_wall_ms(), when);
        buf_printf(b, "%s %s ", when, level_names[level]);
    }
    buf_printf(b, "%s: ", module);
    for (const char *p = message; *p; p++) /* a message never breaks its line */
        buf_append(b, (unsigned char)*p < ' ' ? " " : p, 1);
    for (size_t i = 1; i < n; i++) {
        buf_printf(b, " %s=", fields[i].key);
        field_text(b, &fields[i]);
    }
}

static void line_json(struct buf *b, enum log_level level, const char *module, const char *message,
                      const struct log_field *fields, size_t n)
{
    char when[32];
    struct json_w w;
    clock_format_utc(clock_wall_ms(), when);
    json_w_start(&w, b);
    json_w_open(&w, '{');
    json_w_kstr(&w, "time", when);
    json_w_kstr(&w, "level", level_names[level]);
    json_w_kstr(&w, "module", module);
    json_w_kstr(&w, "message", message);
    for (size_t i = 1; i < n; i++) {
        const struct log_field *f = &fields[i];
        json_w_key(&w, f->key);
        switch (f->type) {
        case LOG_F_STR:
            json_w_str(&w, f->v.s);
            break;
        case LOG_F_INT:
            json_w_int(&w, f->v.i);
            break;
        case LOG_F_UINT:
            json_w_int(&w, (int64_t)f->v.u);
            break;
        case LOG_F_DOUBLE:
            json_w_num(&w, f->v.d);
            break;
        case LOG_F_BOOL:
            json_w_bool(&w, f->v.b);
            break;
        }
    }
    json_w_close(&w, '}');
}

/* ----------------------------------------------------------------------- writing */

static void write_stderr(struct buf *b)
{
    buf_puts(b, "\n");
    /* One write: lines of threads don't mix. What stderr does not take is lost; there is nowhere to say so. */
    ssize_t ignored = write(STDERR_FILENO, b->data, b->len);
    (void)ignored;
}

/* The journal gets every field by its own name. */
static void write_journal(struct buf *text, enum log_level level, const char *module, const struct log_field *fields,
                          size_t n)
{
    struct buf part[MAX_FIELDS + 3];
    struct iovec iov[MAX_FIELDS + 3];
    size_t count = 0;
    if (n > MAX_FIELDS)
        n = MAX_FIELDS;
    for (size_t i = 0; i < n + 2; i++)
        part[i] = BUF_INIT(LINE_MAX_BYTES);
    buf_printf(&part[count++], "MESSAGE=%s", text->data);
    buf_printf(&part[count++], "PRIORITY=%d", priorities[level]);
    buf_printf(&part[count++], "OMID_MODULE=%s", module);
    for (size_t i = 1; i < n; i++) {
        struct buf *b = &part[count++];
        buf_puts(b, "OMID_");
        for (const char *p = fields[i].key; *p; p++) {
            char c = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : (*p >= '0' && *p <= '9') ? *p : '_';
            buf_append(b, &c, 1);
        }
        buf_puts(b, "=");
        if (fields[i].type == LOG_F_STR)
            buf_puts(b, fields[i].v.s ? fields[i].v.s : "");
        else
            field_text(b, &fields[i]);
    }
    for (size_t i = 0; i < count; i++)
        iov[i] = (struct iovec){.iov_base = part[i].data, .iov_len = part[i].len};
    sd_journal_sendv(iov, (int)count);
    for (size_t i = 0; i < count; i++)
        buf_free(&part[i]);
}

static void line_write(enum log_level level, const char *module, const char *message, const struct log_field *fields,
                       size_t n)
{
    struct buf b = BUF_INIT(LINE_MAX_BYTES);
    enum log_target target = (enum log_target)atomic_load(&target_now);
    bool json = atomic_load(&format_now) == LOG_FORMAT_JSON;
    if (json && target != LOG_TARGET_JOURNALD)
        line_json(&b, level, module, message, fields, n);
    else
        line_text(&b, target == LOG_TARGET_STDERR, level, module, message, fields, n);
    if (!b.data)
        return; /* no memory for a line */
    if (target == LOG_TARGET_STDERR)
        write_stderr(&b);
    else if (target == LOG_TARGET_SYSLOG)
        syslog(priorities[level], "%s", b.data);
    else
        write_journal(&b, level, module, fields, n);
    buf_free(&b);
}

/* -------------------------------------------------------------------- repetition */

static uint64_t kind_of(const char *module, const char *message)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a: these strings are our own */
    for (int part = 0; part < 2; part++) {
        for (const char *p = part ? message : module; *p; p++)
            h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
        h = (h ^ '/') * UINT64_C(0x100000001b3);
    }
    return h ? h : 1;
}

static void held_tell(const struct repeat *r)
{
    const struct log_field fields[] = {{.key = NULL}, LS("line", r->message), LU("times", r->held)};
    line_write(r->level, r->module, "repeated lines were held back", fields, ARRAY_LEN(fields));
}

/* May this line be written? *told gets what was held back of a kind whose window is over. */
static bool repeat_allows(enum log_level level, const char *module, const char *message, struct repeat *told)
{
    uint64_t kind = kind_of(module, message), now = clock_mono_ms();
    bool allowed;
    told->held = 0;
    pthread_mutex_lock(&lock);
    struct repeat *r = &repeats[kind % REPEAT_SLOTS];
    if (r->kind != kind || now - r->since_ms >= REPEAT_WINDOW_MS) {
        *told = *r; /* another kind in this slot gives way, and is told of */
        *r = (struct repeat){.kind = kind, .since_ms = now, .level = level};
        snprintf(r->module, sizeof r->module, "%s", module);
        snprintf(r->message, sizeof r->message, "%s", message);
    }
    allowed = ++r->seen <= (level <= LOG_LEVEL_WARNING ? REPEAT_FREE : REPEAT_FREE_INFO);
    if (!allowed)
        r->held++;
    pthread_mutex_unlock(&lock);
    return allowed;
}

/* Windows that are over are told of by whoever logs next, not only by a line of the same kind. */
static bool expired_take(struct repeat *told)
{
    uint64_t now = clock_mono_ms();
    bool found = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < REPEAT_SLOTS && !found; i++) {
        struct repeat *r = &repeats[i];
        if (r->kind && r->held && now - r->since_ms >= REPEAT_WINDOW_MS) {
            *told = *r;
            *r = (struct repeat){0};
            found = true;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void log_emit(enum log_level level, const char *module, const char *message, const struct log_field *fields, size_t n)
{
    struct repeat told;
    bool allowed = repeat_allows(level, module, message, &told);
    if (told.held)
        held_tell(&told);
    if (!allowed)
        return;
    while (expired_take(&told))
        held_tell(&told);
    line_write(level, module, message, fields, n);
}

void log_flush(void)
{
    for (size_t i = 0; i < REPEAT_SLOTS; i++) {
        pthread_mutex_lock(&lock);
        struct repeat r = repeats[i];
        repeats[i] = (struct repeat){0};
        pthread_mutex_unlock(&lock);
        if (r.held)
            held_tell(&r);
    }
}
