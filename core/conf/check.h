/* Checking one value against its option. Within core/conf only. */
#ifndef OMID_CONF_CHECK_H
#define OMID_CONF_CHECK_H

#include "conf/conf.h"

/* Reads n texts as the option's type into v->v, which then owns strings and lists. false: err says what was expected
 * and what was found (never a secret), v->v is unchanged. */
bool value_parse(const struct omid_option *option, const char *const *text, size_t n, struct conf_value *v, char *err,
                 size_t errlen);
/* The option's default; false: err says what is wrong with the table. An absent default leaves v->v zero. */
bool value_default(const struct omid_option *option, struct conf_value *v, char *err, size_t errlen);
void value_clear(struct conf_value *v);
void list_free(struct conf_list *l);
/* The configuration is read at start and at reload on the main thread: out of memory there is the end. */
char *text_copy(const char *s);
void list_copy(struct conf_list *l, const char *const *text, size_t n);

/* "a number from 1 to 64", "a duration from 2s to 4h", ... */
void option_expects(const struct omid_option *option, char *out, size_t len);

#endif
