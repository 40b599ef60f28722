#include <config.h>

#include "conf/outline.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"
#include "base/urlkey.h"
#include "base/utf8.h"
#include "conf/check.h"
#include "conf/lex.h"
#include "conf/table.h"

/* One file under way. */
struct reader {
    struct outline *o;
    struct conf_faults *faults;
    struct lex lex;
    const char *file;       /* the outline's */
    size_t flushed;         /* the text up to here is in o->text */
    size_t first;           /* items from here on have offsets in this file's text still */
    struct reader *outside; /* the file that includes this one */
    unsigned depth;         /* of sections */
    const char *target;     /* of the target block under way; NULL: none */
};

static bool read_items(struct reader *r, const char *path, const char *title, int opened);

void outline_key_name(char *out, size_t len, const char *path, const char *title, const char *target, const char *name)
{
    const char *inner = title ? strchr(path, '.') : *path ? path : NULL;
    char shown[256] = "";
    if (target)
        url_show(target, shown, sizeof(shown));
    if (title && inner)
        inner++;
    if (title && target && inner)
        inner = strchr(inner, '.') ? strchr(inner, '.') + 1 : NULL;
    int block = title ? (int)strcspn(path, ".") : 0;
    snprintf(out, len, "%.*s%s%s%s%s%s%s%s%s", block, path, title ? " " : "", title ? title : "",
             title && target ? ": target " : "", title && target ? shown : "", title && (inner || name) ? ": " : "",
             inner ? inner : "", inner && name ? "." : "", name ? name : "");
}

static void outline_fault(struct reader *r, int line, const char *path, const char *title, const char *name,
                          const char *text)
{
    char key[256];
    outline_key_name(key, sizeof(key), path, title, r->target, name);
    conf_fault(r->faults, false, r->file, line, key, "%s", text);
}

static void expected(struct reader *r, const struct lex_token *t, const char *path, const char *title, const char *name,
                     const char *what)
{
    char found[64], text[512];
    if (t->type == LEX_BAD)
        snprintf(text, sizeof(text), "%s", r->lex.error);
    else {
        lex_show(&r->lex, t, found, sizeof(found));
        snprintf(text, sizeof(text), "expected %s, found %s", what, found);
    }
    outline_fault(r, t->line, path, title, name, text);
}

static void blank(char *text, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        if (text[i] != '\n')
            text[i] = ' ';
    }
}

static void rewind_to(struct reader *r, const struct lex_token *t)
{
    r->lex.at = t->begin;
    r->lex.line = t->line;
}

/* The rest of the line is not looked at: one fault per line is enough where the structure is lost. But the brace that
 * closes the section around it counts. */
static void skip_line(struct reader *r, size_t from)
{
    unsigned open = 0;
    int line = r->lex.line;
    for (;;) {
        struct lex_token t = lex_next(&r->lex);
        if (t.type == LEX_END || t.line != line || (t.type == LEX_CLOSE && open == 0)) {
            rewind_to(r, &t);
            break;
        }
        open += t.type == LEX_OPEN;
        open -= t.type == LEX_CLOSE;
    }
    blank(r->lex.text, from, r->lex.at);
}

static char *word_of(const struct reader *r, const struct lex_token *t)
{
    bool quoted = t->type == LEX_STRING;
    char *word = strndup(r->lex.text + t->begin + quoted, t->end - t->begin - (quoted ? 2 : 0));
    omid_assert(word != NULL);
    return word;
}

/* The index of the new item; SIZE_MAX after a fault. Takes nothing. */
static size_t item_add(struct reader *r, const struct lex_token *name, const char *path, const char *title)
{
    struct outline *o = r->o;
    if (o->n == OUTLINE_MAX_ITEMS) {
        outline_fault(r, name->line, path, title, NULL, "too many settings");
        return SIZE_MAX;
    }
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 64;
        struct outline_item *grown = realloc(o->item, cap * sizeof(*grown));
        omid_assert(grown != NULL);
        o->item = grown;
        o->cap = cap;
    }
    struct outline_item *it = &o->item[o->n];
    *it = (struct outline_item){.file = r->file, .line = name->line, .begin = name->begin, .end = name->end};
    it->name = word_of(r, name);
    it->path = text_copy(path);
    it->title = title ? text_copy(title) : NULL;
    it->target = r->target ? text_copy(r->target) : NULL;
    it->last = ++o->n;
    return o->n - 1;
}

/* The elements of a list, behind its brace. false: given up; what follows was left to be read. */
static bool read_list(struct reader *r, const char *path, const char *title, const char *name, int opened)
{
    char text[128];
    bool want_value = true;
    for (;;) {
        struct lex_token t = lex_next(&r->lex);
        if (t.type == LEX_CLOSE)
            return true;
        bool is_value = t.type == LEX_WORD || t.type == LEX_STRING;
        if (want_value && is_value) {
            struct lex_token next = lex_next(&r->lex);
            if (next.type == LEX_ASSIGN || next.type == LEX_APPEND || next.type == LEX_OPEN) {
                snprintf(text, sizeof(text), "the list that begins in line %d is not closed with }", opened);
                outline_fault(r, t.line, path, title, name, text);
                rewind_to(r, &t);
                return false;
            }
            rewind_to(r, &next);
            want_value = false;
            continue;
        }
        if (!want_value && t.type == LEX_COMMA) {
            want_value = true;
            continue;
        }
        expected(r, &t, path, title, name, want_value ? "a value of the list" : "',' or '}' in the list");
        if (t.type == LEX_END || (is_value && t.line != opened)) {
            rewind_to(r, &t);
            return false;
        }
        struct lex_token skipped;
        do
            skipped = lex_next(&r->lex);
        while (skipped.type != LEX_CLOSE && skipped.type != LEX_END && skipped.line == t.line);
        if (skipped.type == LEX_CLOSE)
            return false;
        rewind_to(r, &skipped);
        return false;
    }
}

/* Behind a value another setting may follow on the same line, but nothing else: `30 s`, `a*b`, `1, 2`. */
static bool read_no_more(struct reader *r, const struct outline_item *it, const char *path, const char *title)
{
    char found[64], text[160];
    struct lex_token t = lex_next(&r->lex);
    bool fine = t.type == LEX_END || t.type == LEX_CLOSE || t.line != it->line;
    if (!fine && t.type == LEX_WORD) {
        struct lex_token behind = lex_next(&r->lex);
        if ((behind.type == LEX_WORD || behind.type == LEX_STRING) && behind.line == t.line) {
            behind = lex_next(&r->lex);
            fine = behind.type == LEX_OPEN;
        } else {
            fine = behind.type == LEX_ASSIGN || behind.type == LEX_APPEND || behind.type == LEX_OPEN;
        }
    }
    if (!fine && t.type == LEX_BAD) {
        outline_fault(r, it->line, path, title, it->name, r->lex.error);
    } else if (!fine) {
        /* A secret of two words must not be told by its second; which of a plugin's own settings are, is not known. */
        const struct conf_entry *e = conf_entry_find(path, it->name);
        if (e && e->option.type != OMID_OPT_SECRET)
            lex_show(&r->lex, &t, found, sizeof(found));
        else
            snprintf(found, sizeof(found), "more");
        snprintf(text, sizeof(text), "expected one value, found %s behind it (more than one word needs quotes)", found);
        outline_fault(r, it->line, path, title, it->name, text);
    }
    rewind_to(r, &t);
    if (!fine)
        skip_line(r, t.begin);
    return fine;
}

static void read_value(struct reader *r, size_t index, const char *path, const char *title)
{
    struct outline_item *it = &r->o->item[index];
    struct lex_token t = lex_next(&r->lex);
    bool whole = true;
    if (t.type == LEX_OPEN) {
        it->list = true;
        whole = read_list(r, path, title, it->name, t.line);
    } else if (t.type != LEX_WORD && t.type != LEX_STRING) {
        expected(r, &t, path, title, it->name, "a value after '='");
        if (t.type != LEX_BAD)
            rewind_to(r, &t);
        whole = false;
    } else if (t.line != it->line) {
        /* `a =` and on the next line `b = 1`: b is not the value of a */
        struct lex_token next = lex_next(&r->lex);
        if (next.type == LEX_ASSIGN || next.type == LEX_APPEND || next.type == LEX_OPEN) {
            outline_fault(r, it->line, path, title, it->name, "expected a value after '=', found the end of the line");
            rewind_to(r, &t);
            whole = false;
        } else {
            rewind_to(r, &next);
        }
    }
    it->end = r->lex.at;
    if (whole && !it->list)
        whole = read_no_more(r, it, path, title);
    if (!whole) {
        it->dropped = true;
        blank(r->lex.text, it->begin, it->end);
    }
}

/* Up to the brace that closes the section under way. */
static void skip_section(struct reader *r)
{
    struct lex_token t;
    unsigned open = 1;
    do {
        t = lex_next(&r->lex);
        open += t.type == LEX_OPEN;
        open -= t.type == LEX_CLOSE;
    } while (open > 0 && t.type != LEX_END);
}

static bool is_target_path(const char *path)
{
    return strcmp(path, "plugin.target") == 0;
}

/* A section whose path is `inner`, with the name behind it, if any. false: that is a fault, told. */
static bool section_named(struct reader *r, struct outline_item *it, const char *inner, const char *own,
                          const char *path, const char *title)
{
    const bool is_block = conf_is_block(inner), is_target = is_target_path(inner);
    char text[160];

    if ((is_block || is_target) == (own != NULL)) {
        char **to = is_block ? &it->title : &it->target;
        if (own) {
            free(*to);
            *to = text_copy(own);
        }
        return true;
    }
    if (own)
        snprintf(text, sizeof(text), "expected '{' after the section's name, found %.60s", own);
    else
        snprintf(text, sizeof(text),
                 is_block ? "expected a name: %s NAME { ... }"
                          : "expected the beginning of a URL: %s \"https://api.example.com/\" { ... }",
                 it->name);
    outline_fault(r, it->line, path, title, it->name, text);
    return false;
}

static void read_section(struct reader *r, const struct lex_token *name, const struct lex_token *label,
                         const char *path, const char *title)
{
    char inner[128];
    size_t index = item_add(r, name, path, title);
    if (index == SIZE_MAX) {
        r->lex.at = strlen(r->lex.text);
        return;
    }
    struct outline_item *it = &r->o->item[index];
    it->section = true;
    int n = snprintf(inner, sizeof(inner), "%s%s%s", path, *path ? "." : "", it->name);
    const char *outer = r->target;
    char *own = label ? word_of(r, label) : NULL;
    if (n >= (int)sizeof(inner) || ++r->depth > OUTLINE_MAX_DEPTH) {
        outline_fault(r, it->line, path, title, NULL, "sections nested too deeply");
        skip_section(r);
        it->dropped = true;
    } else {
        if (!section_named(r, it, inner, own, path, title))
            it->dropped = true;
        free(it->path);
        it->path = text_copy(inner);
        if (is_target_path(inner))
            r->target = own;
        bool closed = read_items(r, inner, conf_is_block(inner) ? own : title, name->line);
        r->target = outer;
        it = &r->o->item[index]; /* the array may have moved */
        it->dropped = it->dropped || !closed;
    }
    r->depth--;
    it->end = r->lex.at;
    it->last = r->o->n;
    if (it->dropped) {
        blank(r->lex.text, it->begin, it->end);
        for (size_t i = index; i < it->last; i++)
            r->o->item[i].dropped = true;
    }
    free(own);
}

static bool outline_file(struct outline *o, const char *path, const char *shown, struct reader *outside, int line,
                         struct conf_faults *faults);

/* What lies between r->flushed and `upto` goes into the outline's text, and the items' offsets with it. */
static bool flush_text(struct reader *r, size_t upto)
{
    struct outline *o = r->o;
    size_t base = o->text.len;
    if (!buf_append(&o->text, r->lex.text + r->flushed, upto - r->flushed) || !buf_puts(&o->text, "\n")) {
        conf_fault(r->faults, false, r->file, r->lex.line, "", "the configuration is larger than %d bytes",
                   OUTLINE_MAX_TEXT);
        for (size_t i = r->first; i < o->n; i++) {
            o->item[i].dropped = true;
            o->item[i].begin = o->item[i].end = 0;
        }
        r->first = o->n;
        return false;
    }
    for (size_t i = r->first; i < o->n; i++) {
        o->item[i].begin += base - r->flushed;
        o->item[i].end += base - r->flushed;
    }
    r->first = o->n;
    r->flushed = upto;
    return true;
}

/* A path in include() is relative to the file that it stands in. */
static char *included_path(const struct reader *r, const char *path)
{
    const char *slash = strrchr(r->file, '/');
    char *full = NULL;
    if (path[0] == '/' || !slash)
        return text_copy(path);
    omid_assert(asprintf(&full, "%.*s%s", (int)(slash - r->file) + 1, r->file, path) >= 0);
    return full;
}

static void read_include(struct reader *r, const struct lex_token *name, const char *path, const char *title)
{
    struct lex_token t = lex_next(&r->lex);
    if (t.type != LEX_STRING && t.type != LEX_WORD) {
        expected(r, &t, path, title, "include", "the name of a file");
        skip_line(r, name->begin);
        return;
    }
    struct lex behind = r->lex;
    struct lex_token closing = lex_next(&r->lex);
    if (closing.type != LEX_UNPAREN) {
        closing.line = name->line;
        expected(r, &closing, path, title, "include", "')'");
        r->lex = behind;
        skip_line(r, name->begin);
        return;
    }
    char *given = word_of(r, &t);
    blank(r->lex.text, name->begin, r->lex.at);
    if (*path) {
        outline_fault(r, name->line, path, title, "include", "include() stands outside of sections only");
        free(given);
        return;
    }
    unsigned depth = 0;
    for (struct reader *up = r; up; up = up->outside)
        depth++;
    char *full = included_path(r, given);
    if (depth > OUTLINE_MAX_INCLUDES)
        outline_fault(r, name->line, "", NULL, "include", "files include each other too deeply (a loop?)");
    else if (flush_text(r, r->lex.at)) {
        outline_file(r->o, full, full, r, name->line, r->faults);
        r->first = r->o->n;
    }
    free(full);
    free(given);
}

static bool name_is_valid(const char *name)
{
    size_t n = strlen(name);
    return n <= 48 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

/* A name was read, which is `word`: a key, a section or include(). */
static void read_named(struct reader *r, const struct lex_token *name, const char *word, const char *path,
                       const char *title)
{
    struct lex_token t = lex_next(&r->lex);
    if (!name_is_valid(word)) {
        rewind_to(r, name);
        expected(r, name, path, title, NULL, "the name of a setting or a section");
        skip_line(r, name->begin);
        return;
    }
    if (t.type == LEX_ASSIGN || t.type == LEX_APPEND) {
        size_t index = item_add(r, name, path, title);
        if (index == SIZE_MAX) {
            r->lex.at = strlen(r->lex.text);
        } else {
            r->o->item[index].append = t.type == LEX_APPEND;
            read_value(r, index, path, title);
        }
        return;
    }
    if (t.type == LEX_OPEN) {
        read_section(r, name, NULL, path, title);
        return;
    }
    if (t.type == LEX_PAREN && strcmp(word, "include") == 0) {
        read_include(r, name, path, title);
        return;
    }
    if (t.type == LEX_WORD || t.type == LEX_STRING) {
        struct lex_token brace = lex_next(&r->lex);
        if (brace.type == LEX_OPEN && t.line == name->line) {
            read_section(r, name, &t, path, title);
            return;
        }
    }
    rewind_to(r, &t);
    if (t.line != name->line || t.type == LEX_END || t.type == LEX_CLOSE) {
        outline_fault(r, name->line, path, title, word, "expected '=' and a value, or '{', found the end of the line");
        blank(r->lex.text, name->begin, name->end);
    } else {
        expected(r, &t, path, title, word, "'=' and a value, or '{'");
        skip_line(r, name->begin);
    }
}

static void read_item(struct reader *r, const struct lex_token *name, const char *path, const char *title)
{
    char *word = word_of(r, name);
    read_named(r, name, word, path, title);
    free(word);
}

/* Items up to the section's closing brace, or to the end of the file. opened: the section's line; 0: the file.
 * false: the closing brace is missing. */
static bool read_items(struct reader *r, const char *path, const char *title, int opened)
{
    for (;;) {
        struct lex_token t = lex_next(&r->lex);
        switch (t.type) {
        case LEX_END:
            if (opened)
                outline_fault(r, opened, path, title, NULL,
                              "expected '}' before the end of the file: the section that begins here is not closed");
            return opened == 0;
        case LEX_CLOSE:
            if (opened)
                return true;
            outline_fault(r, t.line, path, title, NULL, "unexpected '}': no section is open here");
            blank(r->lex.text, t.begin, t.end);
            break;
        case LEX_WORD:
            read_item(r, &t, path, title);
            break;
        default:
            expected(r, &t, path, title, NULL, "the name of a setting or a section");
            skip_line(r, t.begin);
            break;
        }
    }
}

/* Text that no tool shows as it is read would make every message about it a riddle. */
static bool text_is_clean(const char *text, size_t len, const char *shown, struct conf_faults *faults)
{
    int line = 1;
    size_t begin = 0;
    for (size_t i = 0; i <= len; i++) {
        if (i < len && text[i] != '\n' && text[i] != '\0')
            continue;
        if (i < len && text[i] == '\0') {
            conf_fault(faults, false, shown, line, "", "a NUL byte: not a text file");
            return false;
        }
        if (!utf8_valid(text + begin, i - begin)) {
            conf_fault(faults, false, shown, line, "", "bytes that are not UTF-8");
            return false;
        }
        begin = i + 1;
        line++;
    }
    return true;
}

static const char *outline_name(struct outline *o, const char *name)
{
    char **grown = realloc(o->file, (o->n_files + 1) * sizeof(*grown));
    omid_assert(grown != NULL);
    o->file = grown;
    o->file[o->n_files] = text_copy(name);
    return o->file[o->n_files++];
}

static bool outline_text(struct outline *o, char *text, size_t len, const char *shown, struct reader *outside,
                         struct conf_faults *faults)
{
    if (!text_is_clean(text, len, shown, faults))
        return false;
    struct reader r = {.o = o, .faults = faults, .outside = outside, .first = o->n};
    r.file = outline_name(o, shown);
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        memset(text, ' ', 3);
    lex_init(&r.lex, text);
    read_items(&r, "", NULL, 0);
    for (size_t i = r.first; i < o->n; i++) {
        if (o->item[i].dropped)
            blank(text, o->item[i].begin, o->item[i].end);
    }
    return flush_text(&r, strlen(text));
}

/* The whole file as the caller's own string, NULL with a reason. */
static char *file_read(const char *path, size_t *len, char *err, size_t errlen)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char *text = NULL;
    if (fd < 0 || fstat(fd, &st) < 0) {
        snprintf(err, errlen, "%s", strerror(errno));
    } else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode)) {
        snprintf(err, errlen, S_ISDIR(st.st_mode) ? "is a directory" : "is not a file");
    } else {
        struct buf b = BUF_INIT(OUTLINE_MAX_FILE);
        char chunk[16384];
        ssize_t n;
        bool fits = buf_puts(&b, "");
        fcntl(fd, F_SETFL, 0);
        while (fits && (n = read(fd, chunk, sizeof(chunk))) > 0)
            fits = buf_append(&b, chunk, (size_t)n);
        if (!fits)
            snprintf(err, errlen, "is larger than %d bytes", OUTLINE_MAX_FILE);
        else if (n < 0)
            snprintf(err, errlen, "%s", strerror(errno));
        else {
            text = buf_steal(&b, len);
            if (!text)
                text = text_copy("");
        }
        buf_free(&b);
    }
    if (fd >= 0)
        close(fd);
    return text;
}

static bool outline_file(struct outline *o, const char *path, const char *shown, struct reader *outside, int line,
                         struct conf_faults *faults)
{
    char err[256];
    size_t len = 0;
    char *text = file_read(path, &len, err, sizeof(err));
    if (!text) {
        if (outside)
            conf_fault(faults, false, outside->file, line, "include", "cannot read %s: %s", path, err);
        else
            conf_fault(faults, false, shown, 0, "", "cannot read the file: %s", err);
        return false;
    }
    bool ok = outline_text(o, text, len, shown, outside, faults);
    free(text);
    return ok;
}

static struct outline *outline_new(void)
{
    struct outline *o = calloc(1, sizeof(*o));
    omid_assert(o != NULL);
    o->text = BUF_INIT(OUTLINE_MAX_TEXT);
    return o;
}

struct outline *outline_read(const char *path, struct conf_faults *faults)
{
    struct outline *o = outline_new();
    if (!outline_file(o, path, path, NULL, 0, faults))
        outline_free(&o);
    return o;
}

struct outline *outline_read_text(const char *text, const char *name, struct conf_faults *faults)
{
    struct outline *o = outline_new();
    char *copy = text_copy(text);
    if (!outline_text(o, copy, strlen(copy), name, NULL, faults))
        outline_free(&o);
    free(copy);
    return o;
}

void outline_drop(struct outline *o, struct outline_item *item)
{
    size_t index = (size_t)(item - o->item);
    size_t last = item->section ? item->last : index + 1;
    blank(o->text.data, item->begin, item->end);
    for (size_t i = index; i < last; i++)
        o->item[i].dropped = true;
}

void outline_free(struct outline **o)
{
    if (!*o)
        return;
    for (size_t i = 0; i < (*o)->n; i++) {
        struct outline_item *it = &(*o)->item[i];
        for (size_t k = 0; k < it->n_values; k++)
            free((char *)(uintptr_t)it->value[k]);
        free(it->value);
        free(it->name);
        free(it->path);
        free(it->title);
        free(it->target);
    }
    for (size_t i = 0; i < (*o)->n_files; i++)
        free((*o)->file[i]);
    free((*o)->file);
    free((*o)->item);
    buf_free(&(*o)->text);
    free(*o);
    *o = NULL;
}
