/* Days on the schedule: which one is due, its date, its moments; on days that are shorter or longer too. */
#include <CUnit/Basic.h>
#include <stdio.h>
#include <string.h>

#include "session/days_int.h"
#include "unit.h"

#define HOUR INT64_C(3600000)

static int64_t utc(const char *text)
{
    char date[ZONE_DATE_SIZE];
    int64_t day = 0;
    int hour, minute;
    CU_ASSERT_FATAL(sscanf(text, "%10sT%d:%d", date, &hour, &minute) == 3 && zone_date_parse(date, &day));
    return (day * 1440 + hour * 60 + minute) * 60000;
}

static struct day zone_of(const char *zone, int at, int64_t now_ms)
{
    struct day d = {.scheduled = true, .timezone = (char *)zone, .at = at, .now_ms = now_ms};
    day_zone_run(&d);
    CU_ASSERT(d.ok);
    return d;
}

static const struct {
    const char *zone;
    int at; /* minutes */
    const char *now, *date, *until, *next;
} cases[] = {
    {"UTC", 22 * 60, "2026-05-05T21:59", "2026-05-04", "2026-05-04T22:00", "2026-05-05T22:00"},
    {"UTC", 22 * 60, "2026-05-05T22:00", "2026-05-05", "2026-05-05T22:00", "2026-05-06T22:00"},
    {"UTC", 7 * 60, "2026-05-05T07:30", "2026-05-05", "2026-05-05T07:00", "2026-05-06T07:00"},
    /* at midnight: of the day that is over */
    {"UTC", 0, "2026-05-05T00:00", "2026-05-04", "2026-05-05T00:00", "2026-05-06T00:00"},
    {"UTC", 0, "2026-05-05T23:59", "2026-05-04", "2026-05-05T00:00", "2026-05-06T00:00"},
    {"Pacific/Kiritimati", 0, "2026-05-05T10:00", "2026-05-05", "2026-05-05T10:00", "2026-05-06T10:00"},
    /* 23 hours: the clock goes from 02:00 to 03:00 on the 29th of March, and 02:30 is 03:30 then */
    {"Europe/Berlin", 22 * 60, "2026-03-28T21:30", "2026-03-28", "2026-03-28T21:00", "2026-03-29T20:00"},
    {"Europe/Berlin", 150, "2026-03-28T12:00", "2026-03-28", "2026-03-28T01:30", "2026-03-29T01:30"},
    {"Europe/Berlin", 150, "2026-03-29T01:30", "2026-03-29", "2026-03-29T01:30", "2026-03-30T00:30"},
    /* 25 hours: 02:30 comes twice on the 25th of October, and is the first one */
    {"Europe/Berlin", 150, "2026-10-25T00:29", "2026-10-24", "2026-10-24T00:30", "2026-10-25T00:30"},
    {"Europe/Berlin", 150, "2026-10-25T00:30", "2026-10-25", "2026-10-25T00:30", "2026-10-26T01:30"},
    {"Europe/Berlin", 150, "2026-10-25T01:30", "2026-10-25", "2026-10-25T00:30", "2026-10-26T01:30"},
    /* no midnight: the clock went from 00:00 to 01:00 on the 4th of November 2018 */
    {"America/Sao_Paulo", 0, "2018-11-04T02:59", "2018-11-02", "2018-11-03T03:00", "2018-11-04T03:00"},
    {"America/Sao_Paulo", 0, "2018-11-04T03:00", "2018-11-03", "2018-11-04T03:00", "2018-11-05T02:00"},
};

static void test_moments(void)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct day d = zone_of(cases[i].zone, cases[i].at, utc(cases[i].now));
        if (strcmp(d.date, cases[i].date) != 0 || d.until_ms != utc(cases[i].until) ||
            d.next_ms != utc(cases[i].next)) {
            printf("case %zu: %s until %lld next %lld\n", i, d.date, (long long)d.until_ms, (long long)d.next_ms);
            CU_FAIL("another day");
        }
        /* A later attempt, of a date that is fixed, has the same moments. */
        struct day again = d;
        again.date_given = true;
        again.now_ms += 100 * 24 * HOUR;
        again.until_ms = again.next_ms = 0;
        day_zone_run(&again);
        CU_ASSERT(again.until_ms == d.until_ms && again.next_ms == d.next_ms && strcmp(again.date, d.date) == 0);
    }
}

/* Whatever the hour: from one day to the next the moments rise, no date comes twice, none is left out. */
static void test_a_year(void)
{
    static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"};
    for (size_t z = 0; z < ARRAY_LEN(zones); z++) {
        for (int at = 0; at < 1440; at += 30) {
            struct day d = zone_of(zones[z], at, utc("2026-01-10T12:00"));
            for (int n = 0; n < 400; n++) {
                struct day next = zone_of(zones[z], at, d.next_ms);
                int64_t a = 0, b = 0;
                CU_ASSERT(zone_date_parse(d.date, &a) && zone_date_parse(next.date, &b));
                if (b != a + 1 || next.until_ms != d.next_ms ||
                    zone_of(zones[z], at, d.next_ms - 1).until_ms != d.until_ms) {
                    printf("%s at %d, after %s comes %s\n", zones[z], at, d.date, next.date);
                    CU_FAIL_FATAL("days overlap, or one is left out");
                }
                d = next;
            }
        }
    }
}

/* One that is asked for is a calendar day, whatever the plan says. */
static void test_calendar_day(void)
{
    struct day d = {.timezone = (char *)"Europe/Berlin", .at = 0, .now_ms = utc("2026-03-29T12:00")};
    day_zone_run(&d);
    CU_ASSERT(d.ok && d.until_ms == 0);
    CU_ASSERT_STRING_EQUAL(d.date, "2026-03-29");
    CU_ASSERT_EQUAL(d.from_ms, utc("2026-03-28T23:00"));
    CU_ASSERT_EQUAL(d.to_ms, d.from_ms + 23 * HOUR);
    d.timezone = (char *)"Europe/Nowhere";
    day_zone_run(&d);
    CU_ASSERT(!d.ok && strstr(d.err, "Europe/Nowhere"));
}

int main(void)
{
    CU_TestInfo tests[] = {{"the moments of days", test_moments},
                           {"a year, in each half hour", test_a_year},
                           {"a day that is asked for", test_calendar_day},
                           CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{.pName = "days", .pTests = tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
