#include "base/zone.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"

#define ZONE_MAGIC UINT32_C(0x7a6f6e65)
#define MAX_FILE ((size_t)256 << 10)
#define MAX_OFFSET (26 * 3600) /* beyond it no zone is */
#define DAY_S INT64_C(86400)

/* When a rule changes the clock: a day of the year and seconds of local time, which may lie days away from it. */
struct change {
    enum { MONTH_WEEK_DAY, JULIAN, DAY_OF_YEAR } kind;
    int month, week, day; /* day: of the week for MONTH_WEEK_DAY, else of the year */
    int32_t at;
};

/* What holds behind the last transition: POSIX's TZ. */
struct rule {
    int32_t standard, summer; /* offsets */
    bool has_summer;
    struct change begins, ends;
};

struct zone {
    uint32_t magic;
    size_t n;
    int64_t *when;   /* ascending */
    int32_t *offset; /* from when[i] on */
    int32_t before;  /* in front of the first */
    bool has_rule;
    struct rule rule;
};

/* ------------------------------------------------------------------- the calendar */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar: years begin in March, so that the leap day is their last.
 */
static int64_t day_of(int64_t year, int month, int day)
{
    year -= month <= 2;
    int64_t era = floor_div(year, 400), of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void date_of(int64_t number, int64_t *year, int *month, int *day)
{
    number += 719468;
    int64_t era = floor_div(number, 146097), of_era = number - era * 146097;
    int64_t y = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * y + y / 4 - y / 100);
    int64_t m = (5 * of_year + 2) / 153;
    *day = (int)(of_year - (153 * m + 2) / 5 + 1);
    *month = (int)(m < 10 ? m + 3 : m - 9);
    *year = y + era * 400 + (*month <= 2);
}

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static int month_days(int64_t year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month - 1] + (month == 2 && is_leap(year));
}

void zone_date_format(int64_t number, char out[ZONE_DATE_SIZE])
{
    int64_t year;
    int month, day;
    date_of(number, &year, &month, &day);
    omid_assert(year >= 0 && year <= 9999);
    snprintf(out, ZONE_DATE_SIZE, "%04u-%02u-%02u", (unsigned)year % 10000, (unsigned)month % 100, (unsigned)day % 100);
}

bool zone_date_parse(const char *text, int64_t *number)
{
    static const char form[] = "0000-00-00";
    for (size_t i = 0; i < sizeof(form); i++) {
        if (form[i] == '0' ? !isdigit((unsigned char)text[i]) : text[i] != form[i])
            return false;
    }
    int year = atoi(text), month = atoi(text + 5), day = atoi(text + 8);
    if (year < 1970 || month < 1 || month > 12 || day < 1 || day > month_days(year, month))
        return false;
    *number = day_of(year, month, day);
    return true;
}

/* ------------------------------------------------------------------- rules behind the table */

static bool rule_number(const char **p, int min, int max, int *out)
{
    if (!isdigit((unsigned char)**p))
        return false;
    int n = 0;
    for (; isdigit((unsigned char)**p); (*p)++) {
        n = n * 10 + (**p - '0');
        if (n > max)
            return false;
    }
    *out = n;
    return n >= min;
}

/* [+-]hh[:mm[:ss]] */
static bool rule_time(const char **p, int max_hours, int32_t *out)
{
    int sign = **p == '-' ? -1 : 1, h = 0, m = 0, s = 0;
    *p += **p == '-' || **p == '+';
    if (!rule_number(p, 0, max_hours, &h))
        return false;
    if (**p == ':' && ((*p)++, !rule_number(p, 0, 59, &m)))
        return false;
    if (**p == ':' && ((*p)++, !rule_number(p, 0, 59, &s)))
        return false;
    *out = sign * (h * 3600 + m * 60 + s);
    return true;
}

static bool rule_name(const char **p)
{
    const char *from = *p;
    if (*from == '<') {
        const char *end = strchr(from, '>');
        *p = end ? end + 1 : from;
        return end != NULL;
    }
    while (isalpha((unsigned char)**p))
        (*p)++;
    return *p - from >= 3;
}

static bool rule_change(const char **p, struct change *c)
{
    if (**p == 'M') {
        (*p)++;
        c->kind = MONTH_WEEK_DAY;
        if (!rule_number(p, 1, 12, &c->month) || *(*p)++ != '.' || !rule_number(p, 1, 5, &c->week) || *(*p)++ != '.' ||
            !rule_number(p, 0, 6, &c->day))
            return false;
    } else if (**p == 'J') {
        (*p)++;
        c->kind = JULIAN;
        if (!rule_number(p, 1, 365, &c->day))
            return false;
    } else {
        c->kind = DAY_OF_YEAR;
        if (!rule_number(p, 0, 365, &c->day))
            return false;
    }
    c->at = 2 * 3600;
    return **p != '/' || ((*p)++, rule_time(p, 167, &c->at));
}

/* "CET-1CEST,M3.5.0,M10.5.0/3" */
static bool rule_parse(const char *p, struct rule *r)
{
    int32_t west = 0;
    if (!rule_name(&p) || !rule_time(&p, 24, &west))
        return false;
    r->standard = -west;
    r->has_summer = *p != '\0';
    if (!r->has_summer)
        return true;
    if (!rule_name(&p))
        return false;
    r->summer = r->standard + 3600;
    if (*p != ',') {
        if (!rule_time(&p, 24, &west))
            return false;
        r->summer = -west;
    }
    return *p++ == ',' && rule_change(&p, &r->begins) && *p++ == ',' && rule_change(&p, &r->ends) && *p == '\0';
}

/* The moment of a change in this year; offset: what holds until then. */
static int64_t change_moment(const struct change *c, int64_t year, int32_t offset)
{
    int64_t day = day_of(year, 1, 1);
    if (c->kind == DAY_OF_YEAR) {
        day += c->day;
    } else if (c->kind == JULIAN) {
        day += c->day - 1 + (is_leap(year) && c->day > 59); /* the leap day is never counted */
    } else {
        int64_t first = day_of(year, c->month, 1);
        int weekday = (int)((((first + 4) % 7) + 7) % 7); /* 1970-01-01 was a Thursday */
        int of_month = (c->day - weekday + 7) % 7 + (c->week - 1) * 7;
        while (of_month >= month_days(year, c->month))
            of_month -= 7;
        day = first + of_month;
    }
    return day * DAY_S + c->at - offset;
}

static int32_t rule_offset(const struct rule *r, int64_t unix_s)
{
    if (!r->has_summer)
        return r->standard;
    int64_t year;
    int month, day;
    date_of(floor_div(unix_s + r->standard, DAY_S), &year, &month, &day);
    int64_t begins = change_moment(&r->begins, year, r->standard), ends = change_moment(&r->ends, year, r->summer);
    bool summer = begins < ends ? unix_s >= begins && unix_s < ends : unix_s >= begins || unix_s < ends;
    return summer ? r->summer : r->standard;
}

/* ------------------------------------------------------------------- the file */

struct counts {
    uint32_t isut, isstd, leap, time, type, chars;
};

static int64_t read_be(const unsigned char *p, size_t bytes)
{
    uint64_t v = (p[0] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = 0; i < bytes; i++)
        v = v << 8 | p[i];
    return (int64_t)v;
}

#define HEADER 44

static bool header_read(const unsigned char *p, size_t len, struct counts *c)
{
    if (len < HEADER || memcmp(p, "TZif", 4) != 0)
        return false;
    uint32_t *const field[] = {&c->isut, &c->isstd, &c->leap, &c->time, &c->type, &c->chars};
    for (size_t i = 0; i < ARRAY_LEN(field); i++) {
        *field[i] = (uint32_t)read_be(p + 20 + 4 * i, 4);
        if (*field[i] > MAX_FILE)
            return false;
    }
    return c->type >= 1;
}

static size_t block_size(const struct counts *c, size_t time_size)
{
    return c->time * (time_size + 1) + c->type * 6 + c->chars + c->leap * (time_size + 4) + c->isstd + c->isut;
}

/* The tables of a block; NULL: fine, else what is wrong. */
static const char *block_read(struct zone *z, const unsigned char *p, const struct counts *c, size_t time_size)
{
    const unsigned char *type = p + c->time * time_size, *info = type + c->time;
    z->when = calloc(c->time + 1, sizeof(*z->when));
    z->offset = calloc(c->time + 1, sizeof(*z->offset));
    if (!z->when || !z->offset)
        return "no memory";
    z->n = c->time;
    bool before = false;
    for (size_t i = 0; i < c->type; i++) {
        int64_t offset = read_be(info + 6 * i, 4);
        if (offset < -MAX_OFFSET || offset > MAX_OFFSET || info[6 * i + 4] > 1)
            return "an offset is out of bounds";
        if (!before && (i == 0 || info[6 * i + 4] == 0)) {
            z->before = (int32_t)offset; /* the first, or the first that is no summer time */
            before = info[6 * i + 4] == 0;
        }
    }
    for (size_t i = 0; i < c->time; i++) {
        z->when[i] = read_be(p + i * time_size, time_size);
        if (type[i] >= c->type || (i > 0 && z->when[i] <= z->when[i - 1]))
            return "its transitions are not in order";
        z->offset[i] = (int32_t)read_be(info + 6 * (size_t)type[i], 4);
    }
    return NULL;
}

static const char *file_read(struct zone *z, const unsigned char *p, size_t len)
{
    struct counts c;
    size_t time_size = 4;
    if (!header_read(p, len, &c))
        return "it is no TZif file";
    if (p[4] >= '2') { /* a second block, with 64 bits, follows the first */
        size_t first = HEADER + block_size(&c, 4);
        if (first > len || !header_read(p + first, len - first, &c))
            return "it is cut off";
        p += first;
        len -= first;
        time_size = 8;
    }
    size_t size = HEADER + block_size(&c, time_size);
    if (size > len)
        return "it is cut off";
    const char *fault = block_read(z, p + HEADER, &c, time_size);
    if (fault || time_size == 4)
        return fault;
    const unsigned char *foot = p + size, *end = memchr(foot + 1, '\n', len > size + 1 ? len - size - 1 : 0);
    if (len == size || foot[0] != '\n' || !end)
        return "its last line is missing";
    char text[256];
    size_t n = (size_t)(end - foot - 1);
    if (n == 0)
        return NULL;
    if (n >= sizeof(text))
        return "its last line is too long";
    memcpy(text, foot + 1, n);
    text[n] = '\0';
    z->has_rule = rule_parse(text, &z->rule);
    return z->has_rule ? NULL : "its last line can't be read";
}

struct zone *zone_parse(const void *data, size_t len, char *err, size_t errlen)
{
    struct zone *z = calloc(1, sizeof(*z));
    if (!z) {
        snprintf(err, errlen, "no memory");
        return NULL;
    }
    z->magic = ZONE_MAGIC;
    const char *fault = file_read(z, data, len);
    if (fault) {
        snprintf(err, errlen, "%s", fault);
        zone_free(&z);
    }
    return z;
}

void zone_free(struct zone **zp)
{
    struct zone *z = *zp;
    *zp = NULL;
    if (!z)
        return;
    CHECK_MAGIC(z, ZONE_MAGIC);
    z->magic = OMID_MAGIC_DEAD;
    free(z->when);
    free(z->offset);
    free(z);
}

bool zone_name_ok(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > ZONE_MAX_NAME || !isalpha((unsigned char)name[0]) || name[len - 1] == '/')
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)name[i]) && !strchr("+-_/", name[i]))
            return false;
        if (name[i] == '/' && !isalnum((unsigned char)name[i + 1]))
            return false;
    }
    return true;
}

static struct zone *zone_utc(void)
{
    struct zone *z = calloc(1, sizeof(*z));
    if (z)
        z->magic = ZONE_MAGIC;
    return z;
}

/* The whole file; *len 0 with a reason. */
static unsigned char *file_load(const char *path, size_t *len, const char **why)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    unsigned char *data = NULL;
    *len = 0;
    *why = fd < 0 && (errno == ENOENT || errno == ENOTDIR) ? "there is no such time zone" : "its file can't be read";
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && (size_t)st.st_size <= MAX_FILE) {
        data = malloc((size_t)st.st_size);
        ssize_t n = data ? read(fd, data, (size_t)st.st_size) : -1;
        *len = n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    return data;
}

struct zone *zone_load(const char *name, char *err, size_t errlen)
{
    char path[512], why[160] = "no memory";
    const char *dir = getenv("TZDIR"), *fault = "expected a name like Europe/Berlin";
    size_t len = 0;
    struct zone *z = NULL;
    unsigned char *data = NULL;
    if (zone_name_ok(name)) {
        if (strcmp(name, "UTC") == 0) {
            z = zone_utc();
            if (!z)
                snprintf(err, errlen, "no memory");
            return z;
        }
        snprintf(path, sizeof(path), "%s/%s", dir && dir[0] == '/' ? dir : "/usr/share/zoneinfo", name);
        data = file_load(path, &len, &fault);
    }
    if (data && len > 0) {
        z = zone_parse(data, len, why, sizeof(why));
        fault = why;
    }
    free(data);
    if (!z)
        snprintf(err, errlen, "time zone \"%.64s\": %s", name, fault);
    return z;
}

/* ------------------------------------------------------------------- asking */

int32_t zone_offset(const struct zone *z, int64_t unix_s)
{
    CHECK_MAGIC(z, ZONE_MAGIC);
    if (z->n == 0 || unix_s < z->when[0])
        return z->n == 0 && z->has_rule ? rule_offset(&z->rule, unix_s) : z->before;
    size_t low = 0, high = z->n; /* when[low] <= unix_s < when[high] */
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (z->when[mid] <= unix_s)
            low = mid;
        else
            high = mid;
    }
    return low + 1 == z->n && z->has_rule ? rule_offset(&z->rule, unix_s) : z->offset[low];
}

int64_t zone_moment(const struct zone *z, int64_t local_s)
{
    /* The offsets a day before and a day after are the candidates: no zone changes its clock twice within it. */
    int32_t before = zone_offset(z, local_s - MAX_OFFSET), after = zone_offset(z, local_s + MAX_OFFSET);
    int64_t early = local_s - before, late = local_s - after;
    if (before == after || zone_offset(z, early) == before)
        return early;
    return zone_offset(z, late) == after ? late : early;
}

int64_t zone_day(const struct zone *z, int64_t unix_s)
{
    return floor_div(unix_s + zone_offset(z, unix_s), DAY_S);
}
