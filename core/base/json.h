/*
 * JSON on yajl: reading into a tree with bounds on depth and size (yajl's tree recurses), and writing into
 * a struct buf. Any thread; a tree or a writer is used by one thread at a time.
 */
#ifndef OMID_BASE_JSON_H
#define OMID_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <yajl/yajl_tree.h>

#include "base/buf.h"

#define JSON_MAX_DEPTH 64

/* NULL on a fault, with a reason in err ("" on success). Refuses: bad UTF-8, comments, trailing text, depth over
 * JSON_MAX_DEPTH, len over max (0: no bound), an empty text. Half of a surrogate pair reads as U+FFFD.
 * Free with json_free. */
yajl_val json_parse(const char *text, size_t len, size_t max, char *err, size_t errlen);
void json_free(yajl_val *v);

/* Members of an object; NULL, or the default, when v is no object, the member is absent or of another type. */
yajl_val json_get(yajl_val v, const char *key);
yajl_val json_object(yajl_val v, const char *key);
yajl_val json_array(yajl_val v, const char *key);
const char *json_str(yajl_val v, const char *key);          /* NULL when absent; embedded NULs end it early */
double json_num(yajl_val v, const char *key, double def);   /* finite, else def */
int64_t json_int(yajl_val v, const char *key, int64_t def); /* integers only, else def */
bool json_bool(yajl_val v, const char *key, bool def);
size_t json_len(yajl_val array); /* 0 when it is none */
yajl_val json_at(yajl_val array, size_t i);

/* Writer. Errors stick; json_w_end tells: the bound of the buffer, memory, what would be no JSON (a value without key,
 * a key without value, a wrong close). What was appended until then stays in out. */
struct json_w {
    struct buf *out;
    unsigned depth;
    bool failed;
    char kind[JSON_MAX_DEPTH];  /* '{' or '[' */
    bool comma[JSON_MAX_DEPTH]; /* the next value at this depth needs one */
    bool after_key;
};
void json_w_start(struct json_w *w, struct buf *out); /* appends to out */
bool json_w_end(struct json_w *w);                    /* false: failed, or not all closed */
void json_w_open(struct json_w *w, char kind);        /* '{' or '[' */
void json_w_close(struct json_w *w, char kind);       /* '}' or ']' */
void json_w_key(struct json_w *w, const char *key);
void json_w_str(struct json_w *w, const char *s); /* NULL writes null; bad UTF-8 bytes become U+FFFD */
void json_w_strn(struct json_w *w, const char *s, size_t len);
void json_w_int(struct json_w *w, int64_t i);
void json_w_num(struct json_w *w,
                double d); /* the fewest digits that read back equal, always a float (3.0); not finite: null */
void json_w_bool(struct json_w *w, bool b);
void json_w_null(struct json_w *w);
void json_w_raw(struct json_w *w, const char *json, size_t len); /* already JSON */
void json_w_tree(struct json_w *w, yajl_val v);                  /* a parsed value again */
/* key and value in one */
void json_w_kstr(struct json_w *w, const char *key, const char *s);
void json_w_kint(struct json_w *w, const char *key, int64_t i);
void json_w_knum(struct json_w *w, const char *key, double d);
void json_w_kbool(struct json_w *w, const char *key, bool b);

#endif
