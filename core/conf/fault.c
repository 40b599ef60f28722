#include <stdarg.h>
#include <stdio.h>

#include "conf/conf.h"

#define FAULT_MAX_TEXT (256 * 1024) /* bytes of all lines; the count goes on beyond it */

void conf_fault(struct conf_faults *f, bool warning, const char *file, int line, const char *key, const char *fmt, ...)
{
    char text[1024], where[32] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (line > 0)
        snprintf(where, sizeof(where), ":%d", line);
    /* One fault is one line, whatever a value holds. */
    for (char *p = text; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
    }
    if (f->text.max == 0)
        f->text.max = FAULT_MAX_TEXT;
    bool keyed = key && *key;
    buf_printf(&f->text, "%s%s: %s%s%s%s\n", file ? file : "", where, warning ? "warning: " : "", keyed ? key : "",
               keyed ? ": " : "", text);
    if (warning)
        f->warnings++;
    else
        f->errors++;
}

void conf_faults_free(struct conf_faults *f)
{
    buf_free(&f->text);
    f->errors = f->warnings = 0;
}
