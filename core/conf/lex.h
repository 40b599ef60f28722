/* The tokens of a configuration file, cut exactly where libConfuse cuts them. */
#ifndef OMID_CONF_LEX_H
#define OMID_CONF_LEX_H

#include <stddef.h>

enum lex_type {
    LEX_END,
    LEX_WORD,   /* unquoted, or ${NAME} outside of quotes */
    LEX_STRING, /* quoted */
    LEX_OPEN,
    LEX_CLOSE,
    LEX_PAREN,
    LEX_UNPAREN,
    LEX_ASSIGN,
    LEX_APPEND,
    LEX_COMMA,
    LEX_BAD, /* lex.error says why */
};

struct lex_token {
    enum lex_type type;
    size_t begin, end; /* in text */
    int line;          /* where it begins */
};

struct lex {
    char *text; /* NUL-terminated, the caller's; whole comments are blanked as they are passed */
    size_t at;
    int line;
    char error[160];
};

void lex_init(struct lex *l, char *text);
struct lex_token lex_next(struct lex *l);
/* The token for people: `"abc"`, `{`, `the end of the file`; at most a line's worth. */
void lex_show(const struct lex *l, const struct lex_token *t, char *out, size_t len);

#endif
