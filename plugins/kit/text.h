/* Text that grows. Errors stick: whoever appends looks at `failed` once, at the end. */
#ifndef OMID_PLUGINS_KIT_TEXT_H
#define OMID_PLUGINS_KIT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kit_text {
    char *data; /* NUL behind len; NULL while empty */
    size_t len, cap;
    size_t max;  /* bytes; 0: no bound */
    bool failed; /* no memory, or the bound: what was there is gone */
};

void kit_text_add(struct kit_text *t, const void *data, size_t len);
void kit_text_adds(struct kit_text *t, const char *s);
void kit_text_addf(struct kit_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* As JSON: in quotes, what must be escaped is. Bytes that are no UTF-8 become U+FFFD. */
void kit_text_add_json(struct kit_text *t, const char *s, size_t len);
/* A JSON number with the fewest digits that read back equal; null when it is not finite. */
void kit_text_add_number(struct kit_text *t, double d);
/* Room for `len` bytes behind what is there, which count as appended; NULL: failed. */
void *kit_text_grow(struct kit_text *t, size_t len);
void kit_text_free(struct kit_text *t);

#endif
