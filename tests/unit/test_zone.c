/* Time zones: against the C library's own reading of the same files, and odd files. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/zone.h"
#include "unit.h"

static const char *const names[] = {"Europe/Berlin", "America/New_York",    "Asia/Kolkata",  "Asia/Tehran",
                                    "Africa/Cairo",  "Australia/Lord_Howe", "Europe/Dublin", "America/Sao_Paulo",
                                    "Pacific/Apia",  "Africa/Casablanca",   "UTC",           "Asia/Kathmandu",
                                    "Etc/GMT+5",     "America/Nuuk"};

/* From 1902 to 2200, every 41 hours: offsets as localtime_r() has them. */
static void test_against_libc(void)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char err[200] = "";
        struct zone *z = zone_load(names[i], err, sizeof(err));
        if (!z)
            fprintf(stderr, "%s: %s\n", names[i], err);
        CU_ASSERT_PTR_NOT_NULL_FATAL(z);
        setenv("TZ", names[i], 1);
        tzset();
        unsigned wrong = 0;
        for (int64_t t = -2145916800; t < INT64_C(7258118400); t += 41 * 3600) {
            struct tm tm;
            time_t when = (time_t)t;
            localtime_r(&when, &tm);
            if (zone_offset(z, t) != tm.tm_gmtoff && wrong++ == 0)
                fprintf(stderr, "%s at %lld: %d, libc %ld\n", names[i], (long long)t, zone_offset(z, t), tm.tm_gmtoff);
            if (tm.tm_year >= 70) { /* and back */
                int64_t back = zone_moment(z, t + tm.tm_gmtoff);
                if (back != t && zone_offset(z, back) == tm.tm_gmtoff && wrong++ == 0)
                    fprintf(stderr, "%s at %lld: back %lld\n", names[i], (long long)t, (long long)back);
            }
        }
        CU_ASSERT_EQUAL(wrong, 0);
        zone_free(&z);
        CU_ASSERT_PTR_NULL(z);
    }
    unsetenv("TZ");
    tzset();
}

static void test_gap_and_fold(void)
{
    char err[200];
    struct zone *z = zone_load("Europe/Berlin", err, sizeof(err));
    CU_ASSERT_PTR_NOT_NULL_FATAL(z);
    int64_t day;
    CU_ASSERT_TRUE(zone_date_parse("2026-03-29", &day));
    /* 02:30 is not: one hour in from the former offset. */
    CU_ASSERT_EQUAL(zone_moment(z, day * 86400 + 9000), day * 86400 + 9000 - 3600);
    CU_ASSERT_TRUE(zone_date_parse("2026-10-25", &day));
    /* 02:30 is twice: the first. */
    CU_ASSERT_EQUAL(zone_moment(z, day * 86400 + 9000), day * 86400 + 9000 - 7200);
    CU_ASSERT_EQUAL(zone_moment(z, day * 86400), day * 86400 - 7200);
    CU_ASSERT_EQUAL(zone_moment(z, day * 86400 + 86400), day * 86400 + 86400 - 3600);
    /* Far behind any table. */
    CU_ASSERT_TRUE(zone_date_parse("2400-07-01", &day));
    CU_ASSERT_EQUAL(zone_offset(z, day * 86400), 7200);
    CU_ASSERT_EQUAL(zone_day(z, day * 86400 + 79199), day);
    CU_ASSERT_EQUAL(zone_day(z, day * 86400 + 79200), day + 1);
    zone_free(&z);
}

static void test_dates(void)
{
    static const char *const bad[] = {"",           "2026-1-01",   "2026-02-29", "2026-13-01",
                                      "2026-00-10", "2026-01-32",  "1969-12-31", "2026-01-1x",
                                      "20260101",   "2026-01-011", "x026-01-01"};
    for (int64_t day = 0; day < 300 * 365; day++) {
        char text[ZONE_DATE_SIZE];
        int64_t back = -1;
        zone_date_format(day, text);
        if (!zone_date_parse(text, &back) || back != day) {
            CU_FAIL("a date does not come back");
            break;
        }
    }
    int64_t day;
    CU_ASSERT_TRUE(zone_date_parse("2024-02-29", &day));
    CU_ASSERT_EQUAL(day, 19782);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CU_ASSERT_FALSE(zone_date_parse(bad[i], &day));
}

static void test_names(void)
{
    static const char *const bad[] = {"",          "../passwd",      "/etc/passwd",    "Europe/../UTC",
                                      "Europe/",   "Europe//Berlin", "Europe/Nowhere", "Europe",
                                      "tzdata.zi", "Europe/Berlin ", "zone.tab"};
    char err[200], huge[200];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        err[0] = '\0';
        struct zone *z = zone_load(bad[i], err, sizeof(err));
        CU_ASSERT_PTR_NULL(z);
        CU_ASSERT_PTR_NOT_NULL(strstr(err, "time zone \""));
    }
    memset(huge, 'a', sizeof(huge));
    huge[sizeof(huge) - 1] = '\0';
    CU_ASSERT_FALSE(zone_name_ok(huge));
}

/* A file without tables, as a slim one may be: its last line alone counts. */
static size_t slim(unsigned char *out, const char *rule)
{
    static const unsigned char type[6] = {0};
    memset(out, 0, 200);
    for (int block = 0; block < 2; block++) {
        unsigned char *p = out + block * 51;
        memcpy(p, "TZif2", 5);
        p[39] = 1; /* types */
        p[43] = 1; /* characters */
        memcpy(p + 44, type, 6);
    }
    return 102 + (size_t)sprintf((char *)out + 102, "\n%s\n", rule);
}

static void test_rules(void)
{
    static const struct {
        const char *rule;
        int32_t january, july;
    } good[] = {{"CET-1CEST,M3.5.0,M10.5.0/3", 3600, 7200},
                {"EST5EDT,M3.2.0,M11.1.0", -18000, -14400},
                {"<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", 39600, 37800},
                {"<-02>2<-01>,M3.5.0/-1,M10.5.0/0", -7200, -3600},
                {"IST-1GMT0,M10.5.0,M3.5.0/1", 0, 3600},
                {"XXX3YYY,J60/0,J300", -10800, -7200},
                {"XXX3YYY,59/0,299", -10800, -7200},
                {"UTC0", 0, 0}};
    static const char *const bad[] = {"CET",
                                      "CET-1CEST",
                                      "CET-1CEST,M3.5.0",
                                      "CET-1CEST,M13.5.0,M10.5.0",
                                      "CET-1CEST,M3.6.0,M10.5.0",
                                      "CET-1CEST,M3.5.0,M10.5.0/200",
                                      "CET-25",
                                      "<CET-1",
                                      "AB3",
                                      "CET-1CEST,M3.5.0,M10.5.0x",
                                      "CET-99999999999"};
    unsigned char file[400];
    char err[200];
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct zone *z = zone_parse(file, slim(file, good[i].rule), err, sizeof(err));
        CU_ASSERT_PTR_NOT_NULL_FATAL(z);
        CU_ASSERT_EQUAL(zone_offset(z, INT64_C(1768435200)), good[i].january);
        CU_ASSERT_EQUAL(zone_offset(z, INT64_C(1784073600)), good[i].july);
        zone_free(&z);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CU_ASSERT_PTR_NULL(zone_parse(file, slim(file, bad[i]), err, sizeof(err)));
}

/* Cut anywhere, or with any byte changed: an answer, never a fault of memory. */
static void test_broken(void)
{
    FILE *f = fopen("/usr/share/zoneinfo/Europe/Berlin", "rb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    static unsigned char whole[65536];
    size_t len = fread(whole, 1, sizeof(whole), f);
    fclose(f);
    char err[200];
    for (size_t cut = 0; cut < len; cut++) {
        unsigned char *copy = malloc(cut + 1);
        memcpy(copy, whole, cut);
        struct zone *z = zone_parse(copy, cut, err, sizeof(err));
        CU_ASSERT_PTR_NULL(z);
        zone_free(&z);
        free(copy);
    }
    for (size_t i = 0; i < len; i++) {
        unsigned char was = whole[i];
        whole[i] ^= 0xff;
        struct zone *z = zone_parse(whole, len, err, sizeof(err));
        if (z)
            zone_moment(z, INT64_C(1768435200));
        zone_free(&z);
        whole[i] = was;
    }
}

int main(void)
{
    CU_TestInfo tests[] = {{"as the C library", test_against_libc},
                           {"gap and fold", test_gap_and_fold},
                           {"dates", test_dates},
                           {"names", test_names},
                           {"rules", test_rules},
                           {"broken files", test_broken},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{.pName = "time zones", .pTests = tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
