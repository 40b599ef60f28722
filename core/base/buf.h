/* A growable byte buffer with a bound. Always NUL-terminated behind its content once it holds memory. */
#ifndef OMID_BASE_BUF_H
#define OMID_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *data; /* NULL before the first append */
    size_t len, cap;
    size_t max;  /* content bytes; 0: no bound */
    bool failed; /* something did not fit since the last clear: for those who append much and ask once */
};

#define BUF_INIT(maximum) ((struct buf){.max = (maximum)})

/* false, with the content unchanged, when max would be passed or memory is out. `data` must not lie in the buffer. */
bool buf_append(struct buf *b, const void *data, size_t len);
bool buf_puts(struct buf *b, const char *s);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for len more bytes; returns where they go (add to b->len afterwards; the NUL behind all len is there), or NULL.
 */
char *buf_reserve(struct buf *b, size_t len);
/* Drops the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
/* Content gone, memory kept. */
void buf_clear(struct buf *b);
/* Memory gone; max stays. */
void buf_free(struct buf *b);
/* The content as the caller's own malloc()ed string; the buffer is empty afterwards. NULL: no memory. */
char *buf_steal(struct buf *b, size_t *len);

#endif
