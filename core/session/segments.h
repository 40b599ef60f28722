/*
 * Segments of a transcript, and how new ones combine with what is there. Pure: no clock, no I/O.
 */
#ifndef OMID_SESSION_SEGMENTS_H
#define OMID_SESSION_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "store/store.h"

/* Who has not yet seen the newest state of a segment. */
enum segment_seen {
    SEGMENT_CLIENT = 1u << 0,
    SEGMENT_CONSUMERS = 1u << 1,
    SEGMENT_STORE = 1u << 2,
    SEGMENT_ALL = 7u,
};

struct segment {
    char id[37];
    char *text;
    int speaker_id;
    bool is_user;
    char *person_id;   /* or NULL */
    double start, end; /* seconds from the conversation's start */
    char provider[32];
    uint64_t heard_by; /* number of the session whose audio it is of; 0: of several, or of one before a restart */
    char session[37];  /* and its id; "": of several, or not known */
    unsigned unseen;   /* enum segment_seen */
};

/* Owns its segments. */
struct segment_list {
    struct segment **item;
    size_t n, cap;
};

/* A new segment with an id of its own. text is copied, trimmed and tidied. NULL: no memory. */
struct segment *segment_new(const char *text, int speaker_id, bool is_user, double start, double end,
                            const char *provider);
void segment_free(struct segment **s);
bool segment_list_push(struct segment_list *l,
                       struct segment *s); /* takes s; false: no memory, s is still the caller's */
void segment_list_free(struct segment_list *l);
struct segment *segment_list_find(const struct segment_list *l, const char *id);

/* Ids of deleted segments. */
struct id_list {
    char (*id)[37];
    size_t n, cap;
};
bool id_list_push(struct id_list *l, const char *id);
void id_list_clear(struct id_list *l);
void id_list_drop_first(struct id_list *l, size_t n);
void id_list_free(struct id_list *l);

/*
 * Takes every segment of `batch` (empty afterwards) into `stored`, which stays sorted by start: sorted, combined among
 * themselves, then with the stored tail only, unless they begin before it. Changed and new ones are marked unseen by
 * all; a stored one that was emptied is removed and its id appended to `deleted`. false: no memory (what was not taken
 * stays in batch).
 */
bool segments_merge(struct segment_list *stored, struct segment_list *batch, struct id_list *deleted);

/* Trims, makes runs of spaces one, removes spaces before , . ? - in place. */
void segment_text_tidy(char *text);

/* One segment, as clients, webhooks and the store know it. */
void segment_json(struct json_w *w, const struct segment *s);
/* "SPEAKER_00" */
void segment_speaker_name(int speaker_id, char out[16]);

#endif
