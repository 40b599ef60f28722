#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/load.h"

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

struct fault_line {
    const char *text;
    size_t len, file, number; /* number: in the order of reporting */
    long line;
};

static int fault_compare(const void *a, const void *b)
{
    const struct fault_line *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    return x->number < y->number ? -1 : 1;
}

/* "FILE:12: ..."; a file without a line, and what names none of the files, come first. */
static void fault_place(struct fault_line *l, char *const *file, size_t n_files)
{
    for (size_t i = 0; i < n_files; i++) {
        size_t n = strlen(file[i]);
        if (n < l->len && strncmp(l->text, file[i], n) == 0 && l->text[n] == ':') {
            l->file = i + 1;
            l->line = strtol(l->text + n + 1, NULL, 10);
            return;
        }
    }
}

void faults_sort(struct conf_faults *f, size_t from, char *const *file, size_t n_files)
{
    size_t n = 0, len = f->text.len - from;
    if (len == 0)
        return;
    char *copy = text_copy(f->text.data + from);
    for (size_t i = 0; i < len; i++)
        n += copy[i] == '\n';
    struct fault_line *line = calloc(n, sizeof(*line));
    omid_assert(line != NULL);
    const char *p = copy;
    for (size_t i = 0; i < n; i++) {
        line[i] = (struct fault_line){.text = p, .len = strcspn(p, "\n") + 1, .number = i};
        fault_place(&line[i], file, n_files);
        p += line[i].len;
    }
    qsort(line, n, sizeof(*line), fault_compare);
    char *to = f->text.data + from;
    for (size_t i = 0; i < n; i++) {
        memcpy(to, line[i].text, line[i].len);
        to += line[i].len;
    }
    free(line);
    free(copy);
}
