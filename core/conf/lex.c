#include "conf/lex.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

void lex_init(struct lex *l, char *text)
{
    *l = (struct lex){.text = text, .line = 1};
}

static struct lex_token token(struct lex *l, enum lex_type type, size_t begin, int line)
{
    return (struct lex_token){.type = type, .begin = begin, .end = l->at, .line = line};
}

static struct lex_token bad(struct lex *l, size_t begin, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static struct lex_token bad(struct lex *l, size_t begin, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(l->error, sizeof(l->error), fmt, ap);
    va_end(ap);
    return token(l, LEX_BAD, begin, line);
}

static bool is_word(char c)
{
    return c != '\0' && strchr(" #\"'\t\n\r={}()+,*", c) == NULL;
}

static void skip_line(struct lex *l)
{
    l->at += strcspn(l->text + l->at, "\n");
}

/* false: the comment never ends; it is skipped, but left as it is: the reader may look at it again. */
static bool blank_comment(struct lex *l)
{
    char *end = strstr(l->text + l->at + 2, "*/");
    if (!end) {
        l->at += strlen(l->text + l->at);
        return false;
    }
    char *stop = end + 2;
    for (char *p = l->text + l->at; p < stop; p++) {
        if (*p == '\n')
            l->line++;
        else
            *p = ' ';
    }
    l->at = (size_t)(stop - l->text);
    return true;
}

/* Skips a string that can't be used up to the end of its line, so that the lines behind it are still read. */
static struct lex_token bad_string(struct lex *l, size_t begin, int line, const char *why)
{
    l->at = begin;
    l->line = line;
    skip_line(l);
    return bad(l, begin, line, "%s", why);
}

/* What libConfuse refuses, or would cut the value at. NULL: fine. */
static const char *escape_fault(const char *p, size_t *len)
{
    *len = 2;
    if (p[1] == 'x') {
        size_t n = strspn(p + 2, "0123456789abcdefABCDEF");
        n = n > 2 ? 2 : n;
        *len = 2 + n;
        if (n > 0 && strspn(p + 2, "0") >= n)
            return "a NUL character in a string";
        return NULL;
    }
    size_t digits = strspn(p + 1, "0123456789");
    if (digits == 0)
        return NULL;
    *len = 1 + digits;
    unsigned value = 0;
    for (size_t i = 1; i <= digits; i++) {
        if (p[i] > '7' || digits > 3)
            return "a bad escape sequence in a string (\\ and up to three octal digits)";
        value = value * 8 + (unsigned)(p[i] - '0');
    }
    if (value > 0xff)
        return "a bad escape sequence in a string (octal above \\377)";
    return value == 0 ? "a NUL character in a string" : NULL;
}

static struct lex_token double_quoted(struct lex *l, size_t begin, int line)
{
    const char *fault = NULL;
    for (l->at++;; l->at++) {
        const char *p = l->text + l->at;
        if (*p == '\0')
            return bad_string(l, begin, line, "a string that begins here is not closed with \"");
        if (*p == '"')
            break;
        if (*p == '\n')
            l->line++;
        if (p[0] == '$' && p[1] == '{') {
            size_t n = strcspn(p, "}\"\n");
            if (p[n] != '}')
                return bad_string(l, begin, line, "a \"${\" in a string is not closed with }");
            l->at += n;
        } else if (*p == '\\' && p[1] != '\0') {
            size_t n;
            const char *why = escape_fault(p, &n);
            fault = fault ? fault : why;
            if (p[1] == '\n')
                l->line++;
            l->at += n - 1;
        }
    }
    l->at++;
    if (fault)
        return bad(l, begin, line, "%s", fault);
    return token(l, LEX_STRING, begin, line);
}

static struct lex_token single_quoted(struct lex *l, size_t begin, int line)
{
    for (l->at++;; l->at++) {
        const char *p = l->text + l->at;
        if (*p == '\0')
            return bad_string(l, begin, line, "a string that begins here is not closed with '");
        if (*p == '\'')
            break;
        if (*p == '\n')
            l->line++;
        if (*p == '\\' && p[1] != '\0') {
            l->at++;
            if (p[1] == '\n')
                l->line++;
        }
    }
    l->at++;
    return token(l, LEX_STRING, begin, line);
}

static struct lex_token environment(struct lex *l, size_t begin, int line)
{
    size_t n = strcspn(l->text + begin, "}\n");
    if (l->text[begin + n] != '}') {
        skip_line(l);
        return bad(l, begin, line, "a ${ is not closed with }");
    }
    l->at = begin + n + 1;
    return token(l, LEX_WORD, begin, line);
}

static enum lex_type punctuation(const char *p)
{
    switch (*p) {
    case '{':
        return LEX_OPEN;
    case '}':
        return LEX_CLOSE;
    case '(':
        return LEX_PAREN;
    case ')':
        return LEX_UNPAREN;
    case '=':
        return LEX_ASSIGN;
    case ',':
        return LEX_COMMA;
    case '+':
        return p[1] == '=' ? LEX_APPEND : LEX_BAD;
    default:
        return LEX_BAD;
    }
}

struct lex_token lex_next(struct lex *l)
{
    for (;;) {
        char *p = l->text + l->at;
        size_t begin = l->at;
        int line = l->line;
        if (*p == '\0')
            return token(l, LEX_END, begin, line);
        if (*p == '\n')
            l->line++;
        if (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') {
            l->at++;
            continue;
        }
        if (*p == '#' || (p[0] == '/' && p[1] == '/')) {
            skip_line(l);
            memset(l->text + begin, ' ', l->at - begin);
            continue;
        }
        if (p[0] == '/' && p[1] == '*') {
            if (blank_comment(l))
                continue;
            return bad(l, begin, line, "a comment that begins here is not closed with */");
        }
        if (*p == '"')
            return double_quoted(l, begin, line);
        if (*p == '\'')
            return single_quoted(l, begin, line);
        if (p[0] == '$' && p[1] == '{')
            return environment(l, begin, line);
        enum lex_type type = punctuation(p);
        if (type != LEX_BAD) {
            l->at += type == LEX_APPEND ? 2 : 1;
            return token(l, type, begin, line);
        }
        if (is_word(*p)) {
            while (is_word(l->text[l->at]))
                l->at++;
            return token(l, LEX_WORD, begin, line);
        }
        l->at++;
        return bad(l, begin, line, "unexpected character '%c' (a value that holds it needs quotes)", *p);
    }
}

void lex_show(const struct lex *l, const struct lex_token *t, char *out, size_t len)
{
    if (t->type == LEX_END) {
        snprintf(out, len, "the end of the file");
        return;
    }
    size_t n = t->end - t->begin;
    const char *p = l->text + t->begin;
    size_t line = strcspn(p, "\n");
    n = n > line ? line : n;
    if (n > 40)
        snprintf(out, len, "%.40s...", p);
    else if (t->type == LEX_STRING || t->type == LEX_WORD)
        snprintf(out, len, "%.*s", (int)n, p);
    else
        snprintf(out, len, "'%.*s'", (int)n, p);
}
