/*
 * The outline of a configuration: which names stand where, and the text without comments and include().
 *
 * libConfuse stops at its first fault, names neither the key nor the line on which a string or a section began, and
 * counts a line with a comment three times. So the outline is made first: it finds every fault of structure in
 * one run and knows the line of each name. libConfuse then reads the values from text that can't make it stop.
 */
#ifndef OMID_CONF_OUTLINE_H
#define OMID_CONF_OUTLINE_H

#include "conf/conf.h"

#define OUTLINE_MAX_FILE (1024 * 1024) /* bytes of one file */
#define OUTLINE_MAX_TEXT (4 * 1024 * 1024)
#define OUTLINE_MAX_ITEMS 4096
#define OUTLINE_MAX_DEPTH 8    /* sections in sections */
#define OUTLINE_MAX_INCLUDES 8 /* files in files */

struct outline_item {
    bool section; /* else a key */
    bool list;    /* the value is written { ... } */
    bool append;  /* += */
    bool dropped; /* faulty and reported: blanked in the text, to be ignored */
    char *name;
    char *path;         /* the section it lies in, "" at the top, "plugin.breaker"; a section's own path */
    char *title;        /* of the plugin block it lies in, or is; NULL: none */
    char *target;       /* of the target block within that, likewise */
    const char *file;   /* the outline's */
    int line;           /* of the name */
    size_t begin, end;  /* in text */
    size_t last;        /* a section's: index behind its last inner item */
    const char **value; /* filled by values_read(): n_values of them; a section has none */
    size_t n_values;
};

struct outline {
    struct buf text;
    struct outline_item *item;
    size_t n, cap;
    char **file;
    size_t n_files;
};

/* Reads the file and what it includes. Faults are reported and their items dropped. NULL: nothing could be read. */
struct outline *outline_read(const char *path, struct conf_faults *faults);
struct outline *outline_read_text(const char *text, const char *name, struct conf_faults *faults);
void outline_free(struct outline **o);

/* Takes an item, with everything in it, out of the text. */
void outline_drop(struct outline *o, struct outline_item *item);
/* The key as faults name it: "ingress.tls.key", "plugin deepgram: breaker.open",
 * "plugin deepgram: target https://a.example/: breaker.open". */
void outline_key_name(char *out, size_t len, const char *path, const char *title, const char *target, const char *name);

/* Lets libConfuse read the text, and hands each key its values. false: a fault was reported, or no memory. */
bool values_read(struct outline *o, struct conf_faults *faults);

#endif
