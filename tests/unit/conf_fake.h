/* A source of plugins for the tests of the configuration: tables without shared objects. */
#ifndef OMID_TESTS_CONF_FAKE_H
#define OMID_TESTS_CONF_FAKE_H

#include <stdio.h>
#include <string.h>

#include "conf/conf.h"

static const struct omid_option fake_options[] = {
    {.name = "url", .type = OMID_OPT_STRING, .def = "http://127.0.0.1/", .min = 1, .max = 200, .help = "u"},
    {.name = "word", .type = OMID_OPT_STRING, .flags = OMID_OPT_REQUIRED, .help = "w"},
    {.name = "key", .type = OMID_OPT_SECRET, .help = "k"},
    {.name = "words", .type = OMID_OPT_LIST, .def = "one, two", .min = 0, .max = 4, .help = "l"},
    {.name = "wait", .type = OMID_OPT_DURATION, .def = "5s", .min = 100, .max = 60000, .help = "d"},
    {.name = "share", .type = OMID_OPT_FLOAT, .def = "0.5", .min = 0, .max = 1, .help = "f"},
    {.name = "loud", .type = OMID_OPT_BOOL, .def = "no", .help = "b"},
    {.name = "mode", .type = OMID_OPT_ENUM, .def = "fast", .choices = "fast|slow", .help = "e"},
    {.name = "offset", .type = OMID_OPT_INT, .help = "i"},
    {.name = NULL},
};
static const struct omid_lane_defaults fake_lane = {
    .pool = 16, .idle = 4, .semaphore = 12, .connect_timeout_ms = 1000, .breaker_failures = 3};
static const struct omid_plugin fake_plugin = {OMID_PLUGIN_HEAD, .name = "fake", .options = fake_options,
                                               .lane = &fake_lane};

static const struct omid_option clash_options[] = {
    {.name = "semaphore", .type = OMID_OPT_INT, .help = "taken by the host"},
    {.name = NULL},
};
static const struct omid_plugin clash_plugin = {OMID_PLUGIN_HEAD, .name = "clash", .options = clash_options};
static const struct omid_plugin bare_plugin = {OMID_PLUGIN_HEAD, .name = "bare"};
static const struct omid_plugin hooks_plugin = {OMID_PLUGIN_HEAD, .name = "hooks", .flags = OMID_PLUGIN_USER_URLS};
static const struct omid_plugin other_plugin = {OMID_PLUGIN_HEAD, .name = "other-dash"};

static const struct omid_plugin *fake_describe(void *arg, const char *name, const char *path, char *err, size_t errlen)
{
    static const struct omid_plugin *const all[] = {&fake_plugin, &clash_plugin, &bare_plugin, &other_plugin,
                                                    &hooks_plugin};
    (void)arg;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    }
    snprintf(err, errlen, "%s: no such plugin here", path);
    return NULL;
}
static const struct conf_source fake_source = {.describe = fake_describe};

#endif
