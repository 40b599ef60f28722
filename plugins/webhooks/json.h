/* What little JSON the webhooks need. Nothing here recurses; a span is text within somebody else's text. */
#ifndef WEBHOOKS_JSON_H
#define WEBHOOKS_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_MAX_DEPTH 64

/* A growing text. A failure sticks; data is NULL then. */
struct text {
    char *data;
    size_t len, cap;
    bool failed;
};
/* Room for `more` bytes at once. */
void text_reserve(struct text *t, size_t more);
void text_add(struct text *t, const char *data, size_t len);
void text_adds(struct text *t, const char *s);
void text_add_quoted(struct text *t, const char *s); /* as a JSON string */
void text_add_quoted_n(struct text *t, const char *s, size_t len);

struct json_span {
    const char *data;
    size_t len;
};

/* NULL: it is one JSON value in sound UTF-8, of no more than JSON_MAX_DEPTH levels. Else what is wrong; static. */
const char *json_fault(const char *json, size_t len);

/*
 * The rest walks over text that is sound, or at least was written by the daemon: garbage leads to wrong answers, never
 * out of the text.
 */

/* Walks over the values of an array. `at` begins as 0. False at the end, or when it is no array. */
bool json_array_next(const char *json, size_t len, size_t *at, struct json_span *value);
/* Walks over the members of an object. key: its text with the quotes. */
bool json_object_next(const char *json, size_t len, size_t *at, struct json_span *key, struct json_span *value);
/* The value of an object's member; of several with this key the last. */
bool json_find(const char *json, size_t len, const char *key, struct json_span *value);
/* The text of the string member `key` of an object, still escaped, without its quotes. */
bool json_member(const char *json, size_t len, const char *key, struct json_span *value);

bool json_is_string(const struct json_span *v);
/* Is it the string `text`? */
bool json_equals(const struct json_span *v, const char *text, size_t len);
/* The string decoded. False: it is none, or does not fit. */
bool json_decode(const struct json_span *v, char *out, size_t size);
/* The same in memory of its own; NULL: it is none, holds a NUL, or no memory. The caller frees. */
char *json_string(const struct json_span *v);

/* Characters of UTF-8, not bytes. */
size_t utf8_length(const char *s);

#endif
