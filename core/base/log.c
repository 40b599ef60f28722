#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

/* Every line would name this file as its origin. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log_line.h"
#include "base/magic.h"
#include "base/metrics.h"

#define REPEAT_FREE 10       /* faults of one kind within the window */
#define REPEAT_FREE_INFO 200 /* what is no fault differs in its fields: held back only as a flood */
#define REPEAT_WINDOW_MS 10000
#define REPEAT_SLOTS 128 /* kinds watched at a time; one more takes the place of the oldest */
#define TOLD_MAX 8
#define JOURNAL_PRE 4 /* MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, OMID_MODULE */

static atomic_int level_now = LOG_LEVEL_INFO;
static atomic_int format_now = LOG_FORMAT_TEXT;
static atomic_int target_now = LOG_TARGET_STDERR;

static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_NOTICE, LOG_INFO, LOG_DEBUG};

/* Lines of one kind: same module and message. */
struct repeat {
    uint64_t kind; /* 0: free */
    uint64_t since_ms;
    unsigned seen, held;
    enum log_level level;
    char module[24], message[96];
};
/* Of those whose windows are over, told after the lock is left. */
struct told {
    struct repeat of[TOLD_MAX];
    size_t n;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the table */
static struct repeat repeats[REPEAT_SLOTS];

static pthread_once_t counters_once = PTHREAD_ONCE_INIT;
static struct metric *lines_lost, *lines_held;

static void counters_make(void)
{
    lines_lost = metric_counter("omid_log_lines_lost_total", "Log lines that their target did not take.");
    lines_held = metric_counter("omid_log_lines_held_total", "Log lines held back because they repeated.");
}

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

/* ----------------------------------------------------------------------- targets */

/* One write, so that lines of threads don't mix; the rest of a short one follows. */
static bool write_stderr(struct buf *b)
{
    b->max = 0; /* the newline fits always */
    if (!buf_puts(b, "\n"))
        return false;
    for (size_t at = 0; at < b->len;) {
        ssize_t n = write(STDERR_FILENO, b->data + at, b->len - at);
        if (n > 0)
            at += (size_t)n;
        else if (n == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static void journal_name(struct buf *b, const char *key)
{
    buf_puts(b, "OMID_");
    for (size_t i = 0; key && key[i] && i < 50; i++) { /* the journal takes names of up to 64 */
        char c = isalnum((unsigned char)key[i]) ? (char)toupper((unsigned char)key[i]) : '_';
        buf_append(b, &c, 1);
    }
    buf_puts(b, "=");
}

/* The journal gets every field by a name of its own; newlines in a value are its own business. */
static bool write_journal(const struct buf *text, const struct log_line *l)
{
    struct buf b = BUF_INIT(0);
    size_t end[LOG_MAX_FIELDS + JOURNAL_PRE], n = 0, at = 0;
    struct iovec iov[LOG_MAX_FIELDS + JOURNAL_PRE];
    buf_printf(&b, "MESSAGE=%s", text->data);
    end[n++] = b.len;
    buf_printf(&b, "PRIORITY=%d", priorities[l->level]);
    end[n++] = b.len;
    buf_puts(&b, "SYSLOG_IDENTIFIER=omid");
    end[n++] = b.len;
    buf_printf(&b, "OMID_MODULE=%s", l->module);
    end[n++] = b.len;
    for (size_t i = 1; i < l->n; i++) {
        journal_name(&b, l->fields[i].key);
        log_value_plain(&b, &l->fields[i], LOG_LINE_MAX);
        end[n++] = b.len;
    }
    for (size_t i = 0; i < n; at = end[i++])
        iov[i] = (struct iovec){.iov_base = b.data + at, .iov_len = end[i] - at};
    bool ok = !b.failed && sd_journal_sendv(iov, (int)n) == 0;
    buf_free(&b);
    return ok;
}

static void line_write(const struct log_line *l)
{
    struct buf b = BUF_INIT(LOG_LINE_MAX);
    enum log_target target = (enum log_target)atomic_load(&target_now);
    bool json = atomic_load(&format_now) == LOG_FORMAT_JSON && target != LOG_TARGET_JOURNALD, ok;
    ok = json ? log_line_json(&b, l) : log_line_text(&b, l, target == LOG_TARGET_STDERR);
    if (ok && target == LOG_TARGET_STDERR)
        ok = write_stderr(&b);
    else if (ok && target == LOG_TARGET_SYSLOG)
        syslog(priorities[l->level], "%s", b.data);
    else if (ok)
        ok = write_journal(&b, l);
    if (!ok)
        metric_add(lines_lost, 1);
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

/* Empties a slot; what it held back is told of. */
static void slot_close(struct repeat *r, struct told *told)
{
    if (r->held)
        told->of[told->n++] = *r;
    *r = (struct repeat){0};
}

/* The slot of this kind, new or not; closes those whose windows are over. Lock held. */
static struct repeat *slot_find(uint64_t kind, uint64_t now, struct told *told)
{
    struct repeat *mine = NULL, *vacant = NULL, *oldest = &repeats[0];
    for (struct repeat *r = repeats; r < repeats + REPEAT_SLOTS; r++) {
        if (r->kind && now - r->since_ms >= REPEAT_WINDOW_MS && told->n < TOLD_MAX - 1)
            slot_close(r, told);
        if (r->kind == kind)
            mine = r;
        else if (!r->kind)
            vacant = r;
        else if (r->since_ms < oldest->since_ms)
            oldest = r;
    }
    if (mine)
        return mine;
    if (!vacant)
        slot_close(vacant = oldest, told);
    return vacant;
}

static bool repeat_allows(enum log_level level, const char *module, const char *message, struct told *told)
{
    uint64_t kind = kind_of(module, message), now = clock_mono_ms();
    pthread_mutex_lock(&lock);
    struct repeat *r = slot_find(kind, now, told);
    if (!r->kind) {
        *r = (struct repeat){.kind = kind, .since_ms = now, .level = level};
        snprintf(r->module, sizeof r->module, "%s", module);
        snprintf(r->message, sizeof r->message, "%s", message);
    }
    bool allowed = ++r->seen <= (level <= LOG_LEVEL_WARNING ? REPEAT_FREE : REPEAT_FREE_INFO);
    if (!allowed)
        r->held++;
    pthread_mutex_unlock(&lock);
    return allowed;
}

static void held_tell(const struct repeat *r)
{
    const struct log_field fields[] = {{.key = NULL}, LS("line", r->message), LU("times", r->held)};
    line_write(&(struct log_line){.level = r->level,
                                  .module = r->module,
                                  .message = "repeated lines were held back",
                                  .fields = fields,
                                  .n = ARRAY_LEN(fields)});
}

void log_emit(enum log_level level, const char *module, const char *message, const struct log_field *fields, size_t n)
{
    struct told told = {.n = 0};
    pthread_once(&counters_once, counters_make);
    bool allowed = repeat_allows(level, module, message, &told);
    for (size_t i = 0; i < told.n; i++)
        held_tell(&told.of[i]);
    if (!allowed) {
        metric_add(lines_held, 1);
        return;
    }
    line_write(&(struct log_line){.level = level,
                                  .module = module,
                                  .message = message,
                                  .fields = fields,
                                  .n = n > LOG_MAX_FIELDS + 1 ? LOG_MAX_FIELDS + 1 : n});
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
