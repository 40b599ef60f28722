#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "conf/conf.h"

struct unit {
    const char *name;
    uint64_t factor;
};
static const struct unit durations[] = {
    {"ms", 1}, {"s", 1000}, {"min", 60 * 1000}, {"h", 60 * 60 * 1000}, {"d", 24 * 60 * 60 * 1000}};
static const struct unit sizes[] = {{"B", 1}, {"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1024 * 1024 * 1024}};

static bool parse_unit(const char *s, const struct unit *units, size_t n, const char *what, uint64_t *out, char *err,
                       size_t errlen)
{
    size_t digits = strspn(s, "0123456789");
    if (digits == 0) {
        snprintf(err, errlen, "expected %s, found \"%s\"", what, s);
        return false;
    }
    if (s[digits] == '\0') {
        snprintf(err, errlen, "expected %s, found \"%s\" without a unit", what, s);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (strcmp(s + digits, units[i].name) != 0)
            continue;
        errno = 0;
        unsigned long long number = strtoull(s, NULL, 10);
        uint64_t value;
        /* Values go on as int64_t. */
        if (errno != 0 || __builtin_mul_overflow((uint64_t)number, units[i].factor, &value) || value > INT64_MAX) {
            snprintf(err, errlen, "expected %s, found \"%s\", which is too large", what, s);
            return false;
        }
        *out = value;
        return true;
    }
    snprintf(err, errlen, "expected %s, found \"%s\"", what, s);
    return false;
}

bool conf_parse_duration(const char *s, uint64_t *ms, char *err, size_t errlen)
{
    return parse_unit(s, durations, ARRAY_LEN(durations), "a duration with a unit (ms, s, min, h, d), as in 30s", ms,
                      err, errlen);
}

bool conf_parse_size(const char *s, uint64_t *bytes, char *err, size_t errlen)
{
    return parse_unit(s, sizes, ARRAY_LEN(sizes), "a size with a unit (B, KiB, MiB, GiB), as in 10MiB", bytes, err,
                      errlen);
}
