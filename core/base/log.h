/*
 * Structured logging: a level, a module, a message that never varies, and typed fields.
 *
 *     log_info("ingress", "listening", LS("address", addr), LI("threads", n));
 *
 * Lines go to stderr, syslog or journald, as text (key=value) or JSON. A line whose module and message
 * repeat within 10 s more than 10 times (from notice on: 200 times) is held back; the count is told when the 10 s are
 * over or at the next line. Never blocks longer than a write(2) to its target. Any thread. Secrets, tokens, uids (use
 * hash_uid_tag) and URL queries are never logged.
 */
#ifndef OMID_BASE_LOG_H
#define OMID_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_NOTICE, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };
enum log_target { LOG_TARGET_STDERR, LOG_TARGET_SYSLOG, LOG_TARGET_JOURNALD };

struct log_field {
    const char *key;
    enum { LOG_F_STR, LOG_F_INT, LOG_F_UINT, LOG_F_DOUBLE, LOG_F_BOOL } type;
    union {
        const char *s;
        int64_t i;
        uint64_t u;
        double d;
        bool b;
    } v;
};
#define LS(k, val) ((struct log_field){.key = (k), .type = LOG_F_STR, .v.s = (val)})
#define LI(k, val) ((struct log_field){.key = (k), .type = LOG_F_INT, .v.i = (int64_t)(val)})
#define LU(k, val) ((struct log_field){.key = (k), .type = LOG_F_UINT, .v.u = (uint64_t)(val)})
#define LD(k, val) ((struct log_field){.key = (k), .type = LOG_F_DOUBLE, .v.d = (val)})
#define LB(k, val) ((struct log_field){.key = (k), .type = LOG_F_BOOL, .v.b = (val)})

/* Takes effect at once for all threads. Before the first call: info, text, stderr. */
void log_setup(enum log_level level, enum log_format format, enum log_target target);
bool log_enabled(enum log_level level);

/* fields[0] is a placeholder, so that the macros below work without fields. n counts it. */
void log_emit(enum log_level level, const char *module, const char *message, const struct log_field *fields, size_t n);

#define LOG_AT(level, module, message, ...)                                                              \
    do {                                                                                                 \
        if (log_enabled(level)) {                                                                        \
            const struct log_field log_fields_[] = {{.key = NULL}, ##__VA_ARGS__};                       \
            log_emit(level, module, message, log_fields_, sizeof(log_fields_) / sizeof(log_fields_[0])); \
        }                                                                                                \
    } while (0)
#define log_error(module, message, ...) LOG_AT(LOG_LEVEL_ERROR, module, message, ##__VA_ARGS__)
#define log_warning(module, message, ...) LOG_AT(LOG_LEVEL_WARNING, module, message, ##__VA_ARGS__)
#define log_notice(module, message, ...) LOG_AT(LOG_LEVEL_NOTICE, module, message, ##__VA_ARGS__)
#define log_info(module, message, ...) LOG_AT(LOG_LEVEL_INFO, module, message, ##__VA_ARGS__)
#define log_debug(module, message, ...) LOG_AT(LOG_LEVEL_DEBUG, module, message, ##__VA_ARGS__)

/* Writes what is held back. At exit. */
void log_flush(void);

#endif
