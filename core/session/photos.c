#include "session/photos.h"

#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/list.h"
#include "base/magic.h"

#define PARTS_MAGIC UINT32_C(0x70686f74)

struct piece {
    char *data; /* NULL: not yet there */
    size_t len;
};

struct photo {
    struct list link;
    uint64_t began_ms;
    size_t total, there, bytes; /* bytes: of its pieces */
    char id[PHOTO_ID_MAX + 1];
    struct piece piece[];
};

struct photo_parts {
    uint32_t magic;
    struct list photo; /* oldest first */
    size_t n, bytes;
    uint64_t dropped;
};

struct photo_parts *photo_parts_new(void)
{
    struct photo_parts *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->magic = PARTS_MAGIC;
    list_init(&p->photo);
    return p;
}

/* What a photo costs before its first piece: an announced total must not be free of charge. */
static size_t photo_cost(size_t total)
{
    return sizeof(struct photo) + total * sizeof(struct piece);
}

static void photo_free(struct photo_parts *p, struct photo *ph)
{
    list_remove(&ph->link);
    p->n--;
    p->bytes -= photo_cost(ph->total) + ph->bytes;
    for (size_t i = 0; i < ph->total; i++)
        free(ph->piece[i].data);
    free(ph);
}

void photo_parts_free(struct photo_parts **pp)
{
    struct photo_parts *p = *pp;
    if (!p)
        return;
    CHECK_MAGIC(p, PARTS_MAGIC);
    while (!list_empty(&p->photo))
        photo_free(p, list_entry(p->photo.next, struct photo, link));
    omid_assert(p->n == 0 && p->bytes == 0);
    p->magic = OMID_MAGIC_DEAD;
    free(p);
    *pp = NULL;
}

static void drop_oldest(struct photo_parts *p)
{
    photo_free(p, list_entry(p->photo.next, struct photo, link));
    p->dropped++;
}

void photo_parts_expire(struct photo_parts *p, const struct photo_limits *l, uint64_t now_ms)
{
    CHECK_MAGIC(p, PARTS_MAGIC);
    while (!list_empty(&p->photo) && now_ms - list_entry(p->photo.next, struct photo, link)->began_ms >= l->time_ms)
        drop_oldest(p);
}

static struct photo *photo_find(struct photo_parts *p, const char *id)
{
    list_each (it, &p->photo) {
        struct photo *ph = list_entry(it, struct photo, link);
        if (strcmp(ph->id, id) == 0)
            return ph;
    }
    return NULL;
}

/* NULL when it is usable. */
static const char *piece_fault(const struct photo_limits *l, const struct photo_piece *in)
{
    if (!in->id || in->id[0] == 0 || strlen(in->id) > PHOTO_ID_MAX)
        return "id: a text of 1 to 128 bytes is expected";
    if (in->total < 1 || in->total > PHOTO_PIECES_MAX)
        return "total: a number from 1 to 10000 is expected";
    if (in->index < 0 || in->index >= in->total)
        return "index: a number from 0 to total - 1 is expected";
    if (!in->data)
        return "data: a text is expected";
    if (in->len > l->photo || photo_cost((size_t)in->total) + in->len > l->bytes)
        return "data: the photo is too big";
    return NULL;
}

static struct photo *photo_begin(struct photo_parts *p, const struct photo_piece *in, uint64_t now_ms)
{
    struct photo *ph = calloc(1, photo_cost((size_t)in->total));
    if (!ph)
        return NULL;
    ph->total = (size_t)in->total;
    ph->began_ms = now_ms;
    strcpy(ph->id, in->id);
    list_append(&p->photo, &ph->link);
    p->n++;
    p->bytes += photo_cost(ph->total);
    return ph;
}

/* All is there: decodes it. */
static enum photo_verdict photo_finish(struct photo_parts *p, struct photo *ph, unsigned char **data, size_t *len,
                                       const char **why)
{
    char *text = malloc(ph->bytes + 1);
    unsigned char *out = malloc(BASE64_DECODED_MAX(ph->bytes));
    size_t at = 0, bytes = ph->bytes;
    for (size_t i = 0; text && i < ph->total; i++) {
        memcpy(text + at, ph->piece[i].data, ph->piece[i].len);
        at += ph->piece[i].len;
    }
    photo_free(p, ph);
    bool ok = text && out && base64_decode(text, bytes, out, len) && *len > 0;
    *why = !text || !out ? "out of memory" : "data: it is no base64";
    free(text);
    if (!ok) {
        free(out);
        return PHOTO_BAD;
    }
    *data = out;
    return PHOTO_WHOLE;
}

enum photo_verdict photo_parts_add(struct photo_parts *p, const struct photo_limits *l, const struct photo_piece *in,
                                   uint64_t now_ms, unsigned char **data, size_t *len, const char **why)
{
    CHECK_MAGIC(p, PARTS_MAGIC);
    photo_parts_expire(p, l, now_ms);
    *why = piece_fault(l, in);
    if (*why)
        return PHOTO_BAD;
    struct photo *ph = photo_find(p, in->id);
    if (ph && ph->total != (size_t)in->total) {
        *why = "total: it is not what the photo's first piece said";
        return PHOTO_BAD;
    }
    if (ph && ph->piece[in->index].data)
        return PHOTO_REPEATED;
    if (ph && ph->bytes + in->len > l->photo) {
        photo_free(p, ph);
        p->dropped++;
        *why = "data: the photo is too big";
        return PHOTO_BAD;
    }
    while (!ph && p->n > 0 && p->n >= l->waiting)
        drop_oldest(p);
    if (!ph)
        ph = photo_begin(p, in, now_ms);
    struct piece *piece = ph ? &ph->piece[in->index] : NULL;
    if (piece)
        piece->data = malloc(in->len + 1);
    if (!piece || !piece->data) {
        *why = "out of memory";
        return PHOTO_BAD;
    }
    memcpy(piece->data, in->data, in->len);
    piece->len = in->len;
    ph->bytes += in->len;
    ph->there++;
    p->bytes += in->len;
    /* The oldest gives way, at last this one itself. */
    while (p->bytes > l->bytes) {
        bool own = p->photo.next == &ph->link;
        drop_oldest(p);
        if (own) {
            *why = "data: too much waits for its other pieces";
            return PHOTO_BAD;
        }
    }
    return ph->there == ph->total ? photo_finish(p, ph, data, len, why) : PHOTO_TAKEN;
}

size_t photo_parts_bytes(const struct photo_parts *p)
{
    CHECK_MAGIC(p, PARTS_MAGIC);
    return p->bytes;
}

size_t photo_parts_waiting(const struct photo_parts *p)
{
    CHECK_MAGIC(p, PARTS_MAGIC);
    return p->n;
}

uint64_t photo_parts_dropped(const struct photo_parts *p)
{
    CHECK_MAGIC(p, PARTS_MAGIC);
    return p->dropped;
}
