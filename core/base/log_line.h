/* How a log line looks. Of log.c alone. */
#ifndef OMID_BASE_LOG_LINE_H
#define OMID_BASE_LOG_LINE_H

#include "base/buf.h"
#include "base/log.h"

#define LOG_LINE_MAX 8192 /* bytes; long values are clipped so that a line always fits and always is whole */
#define LOG_MAX_FIELDS 24 /* those beyond are left out */

struct log_line {
    enum log_level level;
    const char *module, *message;
    const struct log_field *fields; /* from [1] on */
    size_t n;                       /* counts [0]; at most LOG_MAX_FIELDS + 1 */
};

/* Each appends one line without its newline; false: no memory. What comes from outside can't break or forge it. */
bool log_line_text(struct buf *b, const struct log_line *l, bool stamped);
bool log_line_json(struct buf *b, const struct log_line *l);
/* The value alone, as text without quotes. Strings are clipped to `clip` bytes. */
void log_value_plain(struct buf *b, const struct log_field *f, size_t clip);
const char *log_level_name(enum log_level level);

#endif
