#include "multipart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where `more` bytes go, which then count; NULL: no memory. */
static unsigned char *grown(struct kit_multipart *m, size_t more)
{
    if (m->failed)
        return NULL;
    if (more > m->cap - m->len) {
        size_t cap = m->len + more + 256; /* the lines around the next part, too */
        unsigned char *data = cap > more ? realloc(m->data, cap) : NULL;
        if (data == NULL) {
            m->failed = true;
            return NULL;
        }
        m->data = data;
        m->cap = cap;
    }
    unsigned char *at = m->data + m->len;
    m->len += more;
    return at;
}

static void put(struct kit_multipart *m, const char *text)
{
    size_t n = strlen(text);
    unsigned char *at = grown(m, n);
    if (at != NULL)
        memcpy(at, text, n);
}

static void part_begin(struct kit_multipart *m, const char *name)
{
    put(m, m->len > 0 ? "\r\n--" : "--");
    put(m, m->boundary);
    put(m, "\r\nContent-Disposition: form-data; name=\"");
    put(m, name);
    put(m, "\"");
}

void kit_multipart_begin(struct kit_multipart *m, const char *unique)
{
    *m = (struct kit_multipart){.data = NULL};
    snprintf(m->boundary, sizeof(m->boundary), "----omid-%.40s", unique);
}

void kit_multipart_field(struct kit_multipart *m, const char *name, const char *value)
{
    part_begin(m, name);
    put(m, "\r\n\r\n");
    put(m, value);
}

unsigned char *kit_multipart_file(struct kit_multipart *m, const char *name, const char *filename, const char *type,
                                  size_t size)
{
    part_begin(m, name);
    put(m, "; filename=\"");
    put(m, filename);
    put(m, "\"\r\nContent-Type: ");
    put(m, type);
    put(m, "\r\n\r\n");
    return grown(m, size);
}

bool kit_multipart_end(struct kit_multipart *m)
{
    put(m, "\r\n--");
    put(m, m->boundary);
    put(m, "--\r\n");
    return !m->failed;
}

void kit_multipart_header(const struct kit_multipart *m, char *out, size_t size)
{
    snprintf(out, size, "Content-Type: multipart/form-data; boundary=%s", m->boundary);
}

void kit_multipart_free(struct kit_multipart *m)
{
    free(m->data);
    m->data = NULL;
    m->len = m->cap = 0;
}
