/* The option table with, for each line, where its value goes. Within core/conf only. */
#ifndef OMID_CONF_TABLE_H
#define OMID_CONF_TABLE_H

#include "conf/conf.h"

enum field_type { FIELD_NONE, FIELD_BOOL, FIELD_UINT, FIELD_U64, FIELD_DOUBLE, FIELD_STR, FIELD_LIST };

/* Same order as conf_table(). */
struct conf_field {
    size_t offset; /* in struct conf; for the sections below plugin in struct conf_lane */
    enum field_type type;
};
const struct conf_field *conf_fields(void);

bool conf_is_section(const char *path);
/* Sections of which there are many, each with a name of its own: "plugin", "app", "webhook". */
bool conf_is_block(const char *path);
bool conf_in_block(const char *path); /* the same for what lies in them, too: "plugin.breaker" */
/* The line of this key; a secret is found under KEY_file too. NULL: unknown. */
const struct conf_entry *conf_entry_find(const char *path, const char *key);
bool option_named(const struct omid_option *option, const char *key);

#endif
