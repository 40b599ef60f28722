#include "lane/http/cachecontrol.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

/* Digits of s[0..len), perhaps in quotes. -1: none. */
static int64_t seconds(const char *s, size_t len)
{
    int64_t n = 0;

    if (len >= 2 && s[0] == '"' && s[len - 1] == '"') {
        s++;
        len -= 2;
    }
    if (len == 0)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        n = n * 10 + (s[i] - '0');
        n = n < CACHE_MAX_S ? n : CACHE_MAX_S;
    }
    return n;
}

static bool named(const char *s, size_t len, const char *name)
{
    return strlen(name) == len && strncasecmp(s, name, len) == 0;
}

/* One directive, s[0..len) without blanks around it. */
static int64_t directive(const char *s, size_t len)
{
    const char *eq = memchr(s, '=', len);
    size_t name = eq != NULL ? (size_t)(eq - s) : len;

    if (named(s, name, "no-store") || named(s, name, "no-cache"))
        return 0;
    if (!named(s, name, "max-age"))
        return CACHE_UNSAID;
    int64_t n = eq != NULL ? seconds(eq + 1, len - name - 1) : -1;
    return n >= 0 ? n : 0;
}

int64_t cache_lesser(int64_t a, int64_t b)
{
    if (a == CACHE_UNSAID || b == CACHE_UNSAID)
        return a == CACHE_UNSAID ? b : a;
    return a < b ? a : b;
}

int64_t cache_max_age(const char *field)
{
    int64_t age = CACHE_UNSAID;

    while (*field != '\0') {
        size_t len = strcspn(field, ","), from = strspn(field, " \t"), to = len;
        while (to > from && (field[to - 1] == ' ' || field[to - 1] == '\t'))
            to--;
        if (to > from)
            age = cache_lesser(age, directive(field + from, to - from));
        field += len + (field[len] == ',');
    }
    return age;
}

int64_t cache_aged(int64_t max_age, const char *age)
{
    int64_t n = age != NULL ? seconds(age, strlen(age)) : 0;

    if (max_age == CACHE_UNSAID || n <= 0)
        return max_age;
    return n < max_age ? max_age - n : 0;
}
