#include "formats/multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool is_boundary_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("'()+_,-./:=? ", c) != NULL);
}

/* The value of a parameter of a header's value ("; name=value" or a quoted one), unescaped into out. false: absent, or
 * longer than fits: then out holds its begin. */
static bool parameter(const char *value, size_t len, const char *name, char *out, size_t outlen)
{
    out[0] = '\0';
    size_t name_len = strlen(name), at = 0;
    while (at < len) {
        /* To the next parameter; what is quoted has no separators. */
        for (bool quoted = false; at < len && (quoted || value[at] != ';'); at++) {
            if (value[at] == '"')
                quoted = !quoted;
            else if (quoted && value[at] == '\\' && at + 1 < len)
                at++;
        }
        at++;
        while (at < len && (value[at] == ' ' || value[at] == '\t'))
            at++;
        if (at >= len || len - at <= name_len || strncasecmp(value + at, name, name_len) != 0 ||
            value[at + name_len] != '=')
            continue;
        at += name_len + 1;
        bool quoted = at < len && value[at] == '"';
        size_t n = 0;
        for (at += quoted; at < len && (quoted ? value[at] != '"' : value[at] != ';' && value[at] != ' '); at++) {
            if (quoted && value[at] == '\\' && at + 1 < len)
                at++;
            if (n + 1 >= outlen) {
                out[n] = '\0';
                return false;
            }
            out[n++] = value[at];
        }
        out[n] = '\0';
        return true;
    }
    return false;
}

bool multipart_is(const char *content_type)
{
    static const char wanted[] = "multipart/form-data";
    return strncasecmp(content_type, wanted, sizeof(wanted) - 1) == 0;
}

bool multipart_boundary(const char *content_type, char out[MULTIPART_MAX_BOUNDARY + 1], char *err, size_t errlen)
{
    size_t len = strlen(content_type);
    if (!multipart_is(content_type)) {
        snprintf(err, errlen, "Content-Type: expected multipart/form-data, found \"%.64s\"", content_type);
        return false;
    }
    if (!parameter(content_type, len, "boundary", out, MULTIPART_MAX_BOUNDARY + 1) || out[0] == '\0') {
        snprintf(err, errlen, "Content-Type: expected a boundary of 1 to %d characters", MULTIPART_MAX_BOUNDARY);
        return false;
    }
    for (const char *p = out; *p != '\0'; p++) {
        if (!is_boundary_char((unsigned char)*p)) {
            snprintf(err, errlen, "Content-Type: the boundary has a character that it may not have");
            return false;
        }
    }
    return true;
}

/* What is behind the last separator of either kind, without control characters; "." and ".." are no names. */
static void base_name(char *name)
{
    const char *from = name;
    for (const char *p = name; *p != '\0'; p++) {
        if (*p == '/' || *p == '\\')
            from = p + 1;
    }
    size_t n = 0;
    for (; *from != '\0'; from++) {
        if ((unsigned char)*from >= ' ' && *from != 0x7f)
            name[n++] = *from;
    }
    name[n] = '\0';
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        name[0] = '\0';
}

static bool disposition(struct multipart_part *p, const char *value, size_t len, char *err, size_t errlen)
{
    static const char wanted[] = "form-data";
    if (len < sizeof(wanted) - 1 || strncasecmp(value, wanted, sizeof(wanted) - 1) != 0) {
        snprintf(err, errlen, "Content-Disposition: expected form-data");
        return false;
    }
    if (!parameter(value, len, "name", p->name, sizeof(p->name)))
        p->name[0] = '\0';
    if (!parameter(value, len, "filename", p->filename, sizeof(p->filename))) {
        char extended[2];
        if (p->filename[0] != '\0') {
            snprintf(err, errlen, "its file name is longer than %d bytes", MULTIPART_MAX_NAME);
            return false;
        }
        (void)parameter(value, len, "filename*", extended, sizeof(extended));
        if (extended[0] != '\0') { /* RFC 7578, 4.2; not silently a field without a file */
            snprintf(err, errlen, "expected filename, found filename*");
            return false;
        }
    }
    bool named = p->filename[0] != '\0';
    base_name(p->filename);
    if (named && p->filename[0] == '\0')
        strcpy(p->filename, "unnamed");
    return true;
}

static bool header_line(struct multipart_part *p, const char *line, size_t len, char *err, size_t errlen)
{
    const char *colon = memchr(line, ':', len);
    if (colon == NULL || colon == line) {
        snprintf(err, errlen, "expected header lines, found \"%.*s\"", (int)(len < 32 ? len : 32), line);
        return false;
    }
    size_t name = (size_t)(colon - line);
    const char *value = colon + 1;
    size_t value_len = len - name - 1;
    for (; value_len > 0 && (*value == ' ' || *value == '\t'); value++)
        value_len--;
    if (memchr(line, '\0', len) != NULL) {
        snprintf(err, errlen, "a header line has a NUL");
        return false;
    }
    if (name == 19 && strncasecmp(line, "Content-Disposition", name) == 0)
        return disposition(p, value, value_len, err, errlen);
    if (name == 12 && strncasecmp(line, "Content-Type", name) == 0)
        snprintf(p->type, sizeof(p->type), "%.*s", (int)(value_len < 127 ? value_len : 127), value);
    return true;
}

/* The header lines of a part and the empty line behind them; *at moves to its data. */
static bool part_head(struct multipart_part *p, const unsigned char *body, size_t len, size_t *at, char *err,
                      size_t errlen)
{
    size_t began = *at;
    for (;;) {
        const unsigned char *line = body + *at;
        const unsigned char *end = memmem(line, len - *at, "\r\n", 2);
        if (end == NULL || (size_t)(end - body) - began > MULTIPART_MAX_HEAD) {
            snprintf(err, errlen,
                     end == NULL ? "it ends within its header lines" : "its header lines are longer than 8 KiB");
            return false;
        }
        *at = (size_t)(end - body) + 2;
        if (end == line)
            return true;
        if (!header_line(p, (const char *)line, (size_t)(end - line), err, errlen))
            return false;
    }
}

bool multipart_begin(struct multipart *m, const char *boundary, const void *body, size_t len, size_t max, char *err,
                     size_t errlen)
{
    *m = (struct multipart){.body = body, .len = len, .max = max};
    m->mark_len = (size_t)snprintf(m->mark, sizeof(m->mark), "\r\n--%s", boundary);
    /* The first one may stand at the very begin, without the line's end before it. */
    if (len >= m->mark_len - 2 && memcmp(m->body, m->mark + 2, m->mark_len - 2) == 0) {
        m->at = m->mark_len - 2;
        return true;
    }
    const unsigned char *first = len > 0 ? memmem(m->body, len, m->mark, m->mark_len) : NULL;
    if (first == NULL) {
        snprintf(err, errlen, "the body has no part: its boundary is not in it");
        return false;
    }
    m->at = (size_t)(first - m->body) + m->mark_len;
    return true;
}

static int fault(const struct multipart *m, char *err, size_t errlen, const char *why)
{
    snprintf(err, errlen, "part %zu: %s", m->parts + 1, why);
    return -1;
}

int multipart_next(struct multipart *m, struct multipart_part *part, char *err, size_t errlen)
{
    const unsigned char *body = m->body;
    size_t len = m->len, at = m->at;
    char why[128];
    if (len - at >= 2 && memcmp(body + at, "--", 2) == 0)
        return 0;
    while (at < len && (body[at] == ' ' || body[at] == '\t'))
        at++;
    if (len - at < 2 || memcmp(body + at, "\r\n", 2) != 0)
        return fault(m, err, errlen, "it does not begin on a line of its own");
    at += 2;
    if (m->parts == m->max)
        return fault(m, err, errlen, "there are more parts than are taken");
    memset(part, 0, sizeof(*part));
    if (!part_head(part, body, len, &at, why, sizeof(why)))
        return fault(m, err, errlen, why);
    /* An empty part's delimiter begins with the line's end of its header. */
    const unsigned char *end = memmem(body + at - 2, len - at + 2, m->mark, m->mark_len);
    if (end == NULL)
        return fault(m, err, errlen, "it has no end");
    part->data = body + at;
    part->len = end < body + at ? 0 : (size_t)(end - (body + at));
    m->at = (size_t)(end - body) + m->mark_len;
    m->parts++;
    return 1;
}

bool multipart_parse(const char *boundary, const void *body, size_t len, struct multipart_part *parts, size_t max,
                     size_t *n, char *err, size_t errlen)
{
    struct multipart m;
    struct multipart_part none; /* beyond max: refused before it is filled in */
    int r;
    *n = 0;
    if (!multipart_begin(&m, boundary, body, len, max, err, errlen))
        return false;
    while ((r = multipart_next(&m, *n < max ? &parts[*n] : &none, err, errlen)) > 0)
        (*n)++;
    return r == 0;
}
