/* core/base/multipart.c reads the same, for the daemon: plugins see no core header and the core none of theirs, and the
 * two differ in bounds and in how they tell a fault. What is mended here is looked at there. */
#include "parts.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The value of `key` in "text; a=b; key=\"value\"", without quotes. false: there is none, or it does not fit. */
static bool parameter(const char *s, const char *end, const char *key, char *out, size_t size)
{
    const size_t keylen = strlen(key);
    bool quoted = false;
    out[0] = '\0';
    for (; s < end; s++) {
        if (*s == '\\' && quoted && s + 1 < end) {
            s++;
            continue;
        }
        if (*s == '"')
            quoted = !quoted;
        if (*s != ';' || quoted)
            continue;
        do
            s++;
        while (s < end && (*s == ' ' || *s == '\t'));
        if ((size_t)(end - s) <= keylen || strncasecmp(s, key, keylen) != 0 || s[keylen] != '=') {
            s--;
            continue;
        }
        s += keylen + 1;
        const bool in_quotes = s < end && *s == '"';
        size_t n = 0;
        for (s += in_quotes; s < end && (in_quotes ? *s != '"' : *s != ';' && *s != ' ' && *s != '\t'); s++) {
            if (in_quotes && *s == '\\' && s + 1 < end)
                s++;
            if (n + 1 >= size)
                return false;
            out[n++] = *s;
        }
        out[n] = '\0';
        return true;
    }
    return false;
}

bool kit_parts_open(struct kit_parts *m, const char *content_type, const void *body, size_t len, struct kit_fault *f)
{
    memcpy(m->boundary, "\r\n--", 4);
    if (!kit_parts_is(content_type) || !parameter(content_type, content_type + strlen(content_type), "boundary",
                                                  m->boundary + 4, sizeof(m->boundary) - 4)) {
        kit_fault_set(f, "Content-Type: expected multipart/form-data with a boundary");
        return false;
    }
    m->boundary_len = strlen(m->boundary);
    m->parts = 0;
    m->at = body;
    m->end = m->at + len;
    if (m->boundary_len == 4 || m->boundary_len > 4 + 70) {
        kit_fault_set(f, "Content-Type: a boundary has 1 to 70 characters");
        return false;
    }
    /* The first boundary may be the body's first line, without a line end before it. */
    if (len >= m->boundary_len - 2 && memcmp(m->at, m->boundary + 2, m->boundary_len - 2) == 0) {
        m->at += m->boundary_len - 2;
        return true;
    }
    const char *first = len > 0 ? memmem(body, len, m->boundary, m->boundary_len) : NULL;
    if (first == NULL) {
        kit_fault_set(f, "multipart: its boundary is nowhere in the body");
        return false;
    }
    m->at = first + m->boundary_len;
    return true;
}

static void header_read(const char *line, const char *end, struct kit_part *part)
{
    static const char disposition[] = "content-disposition:", type[] = "content-type:";
    const size_t len = (size_t)(end - line);
    if (len > sizeof(disposition) - 1 && strncasecmp(line, disposition, sizeof(disposition) - 1) == 0) {
        (void)parameter(line, end, "name", part->name, sizeof(part->name));
        (void)parameter(line, end, "filename", part->file_name, sizeof(part->file_name));
    } else if (len > sizeof(type) - 1 && strncasecmp(line, type, sizeof(type) - 1) == 0) {
        for (line += sizeof(type) - 1; line < end && *line == ' ';)
            line++;
        snprintf(part->content_type, sizeof(part->content_type), "%.*s", (int)(end - line), line);
    }
}

int kit_parts_next(struct kit_parts *m, struct kit_part *part, struct kit_fault *f)
{
    *part = (struct kit_part){.data = ""};
    const char *at = m->at;
    if (m->end - at >= 2 && memcmp(at, "--", 2) == 0)
        return 0;
    if (++m->parts > KIT_PARTS_MAX) {
        kit_fault_set(f, "multipart: more than %d parts", KIT_PARTS_MAX);
        return -1;
    }
    while (at < m->end && (*at == ' ' || *at == '\t')) /* may follow a boundary */
        at++;
    for (bool first = true;; first = false) {
        const char *eol = memmem(at, (size_t)(m->end - at), "\r\n", 2);
        if (eol == NULL || (size_t)(eol - at) > 4096 || (first && eol != at)) {
            kit_fault_set(f, "multipart: part %u has no end of its header", m->parts);
            return -1;
        }
        if (!first && eol == at) {
            at += 2;
            break;
        }
        header_read(at, eol, part);
        at = eol + 2;
    }
    /* Of an empty part the line end of its boundary is the one before. */
    const char *from = at - 2;
    const char *next = memmem(from, (size_t)(m->end - from), m->boundary, m->boundary_len);
    if (next == NULL) {
        kit_fault_set(f, "multipart: part %u never ends", m->parts);
        return -1;
    }
    if (part->name[0] == '\0') {
        kit_fault_set(f, "multipart: part %u has no name", m->parts);
        return -1;
    }
    part->data = at;
    part->len = next > at ? (size_t)(next - at) : 0;
    m->at = next + m->boundary_len;
    return 1;
}
