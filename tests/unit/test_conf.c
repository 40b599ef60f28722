/* What a good configuration becomes: defaults, types, quoting, includes, secrets, lanes. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf_fake.h"
#include "unit.h"

static struct conf_faults faults;

static struct conf *load(const char *text)
{
    conf_faults_free(&faults);
    return conf_load_text(text, "test.conf", &fake_source, &faults);
}

static struct conf *load_fatal(const char *text)
{
    struct conf *c = load(text);
    if (!c)
        fprintf(stderr, "%s", faults.text.data);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    return c;
}

/* false, and what was said, when the only fault is not this line. */
static bool refused_as(const char *text, const char *line)
{
    struct conf *c = load(text);
    bool ok = !c && faults.errors == 1 && strcmp(faults.text.data, line) == 0;
    if (!ok)
        fprintf(stderr, "%s", faults.text.data ? faults.text.data : "no fault\n");
    conf_free(&c);
    return ok;
}

/* The numbers of the protocol and the resilience rules, written down here a second time on purpose. */
static void test_defaults(void)
{
    struct conf *c = load_fatal("");
    CU_ASSERT_EQUAL(faults.warnings, 0);
    CU_ASSERT_STRING_EQUAL(c->log.level, "info");
    CU_ASSERT_EQUAL(c->memory.sessions, UINT64_C(2) << 30);
    CU_ASSERT_EQUAL(c->daemon.reactors, 1);
    CU_ASSERT_STRING_EQUAL(c->daemon.plugin_dir, OMID_PLUGINDIR);
    CU_ASSERT_EQUAL(c->ingress.address.n, 1);
    CU_ASSERT_EQUAL(c->ingress.receive_timeout_ms, 300000);
    CU_ASSERT_EQUAL(c->ingress.origins.n, 0);
    CU_ASSERT_PTR_NULL(c->ingress.tls_certificate);
    CU_ASSERT_FALSE(c->listen.pcm8_u8);
    CU_ASSERT_EQUAL(c->listen.conversation_timeout_ms, 120000);
    CU_ASSERT_EQUAL(c->listen.conversation_timeout_floor_ms, 120000);
    CU_ASSERT_EQUAL(c->listen.inactivity_ms, 90000);
    CU_ASSERT_EQUAL(c->listen.ping_ms, 10000);
    CU_ASSERT_EQUAL(c->listen.transcript_flush_ms, 600);
    CU_ASSERT_EQUAL(c->listen.consumer_flush_ms, 1000);
    CU_ASSERT_EQUAL(c->listen.lifecycle_check_ms, 5000);
    CU_ASSERT_EQUAL(c->listen.drain_ms, 30000);
    CU_ASSERT_EQUAL(c->listen.drain_bound_ms, 5000);
    CU_ASSERT_EQUAL(c->listen.up_stall_ms, 10000);
    CU_ASSERT_EQUAL(c->listen.down_stall_ms, 30000);
    CU_ASSERT_EQUAL(c->listen.audio_buffer, 10u << 20);
    CU_ASSERT_EQUAL(c->listen.max_segments, 1000);
    CU_ASSERT_EQUAL(c->listen.auth_timeout_ms, 5000);
    CU_ASSERT_PTR_NULL(c->auth.admin_key);
    CU_ASSERT_EQUAL(c->stt.models.n, 1);
    CU_ASSERT_STRING_EQUAL(c->stt.models.item[0], "dg-nova-3");
    CU_ASSERT_PTR_NULL(c->stt.models.item[1]);
    CU_ASSERT_EQUAL(c->stt.replay_ms, 30000);
    CU_ASSERT_EQUAL(c->stt.catch_up, 4);
    CU_ASSERT_EQUAL(c->store.flush_ms, 1000);
    static const uint32_t retry[] = {5000, 300000, 1800000, 7200000, 18000000, 36000000, 36000000};
    CU_ASSERT_EQUAL(c->queue.retry.n, 7);
    CU_ASSERT_EQUAL(memcmp(c->queue.retry_ms, retry, sizeof(retry)), 0);
    CU_ASSERT_EQUAL(c->queue.jitter, 0.2);
    CU_ASSERT_EQUAL(c->exec.critical, 8);
    CU_ASSERT_EQUAL(c->exec.storage, 4);
    CU_ASSERT_EQUAL(c->exec.blocking, 64);
    CU_ASSERT_EQUAL(c->n_plugins, 0);
    CU_ASSERT_STRING_EQUAL(c->file, "test.conf");
    conf_free(&c);
    CU_ASSERT_PTR_NULL(c);
}

static void test_types(void)
{
    struct conf *c = load_fatal("log{level=debug}ingress{max_body=4096B max_header=64KiB max_message=2MiB\n"
                                "ping_interval = 0s tls { } origins = \"https://a.example\" }\n"
                                "listen { pcm8 = u8 conversation_timeout = 4h transcript_flush = 10ms }\n"
                                "memory { sessions = 3GiB } queue { jitter = .5 max_jobs = 1000000000 retry = 1s }\n"
                                "plugin fake { word = w wait = 1min share = 1e-1 loud = on mode = slow offset = -7\n"
                                "              words = { } }\n"
                                "plugin bare { path = /opt/x/bare-2.so required = yes }\n"
                                "plugin other-dash { path = other.so }\n");
    CU_ASSERT_STRING_EQUAL(c->log.level, "debug");
    CU_ASSERT_EQUAL(c->ingress.max_body, 4096);
    CU_ASSERT_EQUAL(c->ingress.max_header, 65536);
    CU_ASSERT_EQUAL(c->ingress.max_message, 2097152);
    CU_ASSERT_EQUAL(c->ingress.ping_interval_ms, 0);
    CU_ASSERT_EQUAL(c->ingress.origins.n, 1);
    CU_ASSERT_TRUE(c->listen.pcm8_u8);
    CU_ASSERT_EQUAL(c->listen.conversation_timeout_ms, 14400000);
    CU_ASSERT_EQUAL(c->listen.transcript_flush_ms, 10);
    CU_ASSERT_EQUAL(c->memory.sessions, UINT64_C(3) << 30);
    CU_ASSERT_EQUAL(c->queue.jitter, 0.5);
    CU_ASSERT_EQUAL(c->queue.max_jobs, 1000000000);
    CU_ASSERT_EQUAL(c->queue.retry_ms[0], 1000);
    const struct conf_plugin *p = conf_plugin_find(c, "fake");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_EQUAL(conf_value_find(p, "wait")->v.i, 60000);
    CU_ASSERT_EQUAL(conf_value_find(p, "share")->v.d, 0.1);
    CU_ASSERT_TRUE(conf_value_find(p, "loud")->v.b);
    CU_ASSERT_STRING_EQUAL(conf_value_find(p, "mode")->v.s, "slow");
    CU_ASSERT_EQUAL(conf_value_find(p, "offset")->v.i, -7);
    CU_ASSERT_EQUAL(conf_value_find(p, "words")->v.list.n, 0);
    CU_ASSERT_TRUE(conf_value_find(p, "words")->set);
    CU_ASSERT_STRING_EQUAL(conf_value_find(p, "url")->v.s, "http://127.0.0.1/");
    CU_ASSERT_FALSE(conf_value_find(p, "url")->set);
    CU_ASSERT_EQUAL(conf_value_find(p, "url")->line, 0);
    CU_ASSERT_PTR_NULL(conf_value_find(p, "key")->v.s);
    CU_ASSERT_PTR_NULL(conf_value_find(p, "semaphore"));
    CU_ASSERT_STRING_EQUAL(p->path, OMID_PLUGINDIR "/fake.so");
    CU_ASSERT_FALSE(p->required);
    CU_ASSERT_STRING_EQUAL(conf_plugin_find(c, "bare")->path, "/opt/x/bare-2.so");
    CU_ASSERT_TRUE(conf_plugin_find(c, "bare")->required);
    CU_ASSERT_STRING_EQUAL(conf_plugin_find(c, "other-dash")->path, OMID_PLUGINDIR "/other.so");
    CU_ASSERT_PTR_NULL(conf_plugin_find(c, "absent"));
    conf_free(&c);
}

/* A comment must not move the lines behind it; places outlive the loading. */
static void test_places(void)
{
    struct conf *c = load_fatal("# one\n/* two\n three */\n// four\nplugin fake {\n # six\n word = \"a\nb\"\n\n"
                                " words = {\n one,\n two }\n}\n");
    const struct conf_plugin *p = conf_plugin_find(c, "fake");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_EQUAL(p->line, 5);
    CU_ASSERT_STRING_EQUAL(p->file, "test.conf");
    CU_ASSERT_EQUAL(conf_value_find(p, "word")->line, 7);
    CU_ASSERT_EQUAL(conf_value_find(p, "words")->line, 10);
    CU_ASSERT_STRING_EQUAL(conf_value_find(p, "words")->file, "test.conf");
    conf_free(&c);
}

static const char *word_of(struct conf *c)
{
    return conf_value_find(conf_plugin_find(c, "fake"), "word")->v.s;
}

static void test_quoting(void)
{
    static const struct {
        const char *text, *value;
    } cases[] = {
        {"word = plain", "plain"},
        {"word = http://a.example/b?c#d", "http://a.example/b?c"},
        {"word = \"a # b // c /* d */\"", "a # b // c /* d */"},
        {"word = 'a \"b\" \\'c\\' \\n'", "a \"b\" 'c' \\n"},
        {"word = \"\\t\\x41\\101\\\"\\\\\"", "\tAA\"\\"},
        {"word = \"a\\\nb\"", "ab"},
        {"word = \"${OMID_T_SET}-${OMID_T_UNSET:-other}-${OMID_T_UNSET}.\"", "set-other-."},
        {"word = \"${OMID_T_SET:-other}\"", "set"},
        {"word = '${OMID_T_SET}'", "${OMID_T_SET}"},
        {"word = ${OMID_T_SET}", "set"},
        {"word = \"$OMID_T_SET $\"", "$OMID_T_SET $"},
        {"word = \"\xc3\xa9\"", "\xc3\xa9"},
        {"word = -3 # x", "-3"},
        {"word\r\n=\r\na\r\n", "a"},
    };
    setenv("OMID_T_SET", "set", 1);
    unsetenv("OMID_T_UNSET");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[256];
        snprintf(text, sizeof(text), "plugin fake { %s\n}\n", cases[i].text);
        struct conf *c = load_fatal(text);
        CU_ASSERT_STRING_EQUAL(word_of(c), cases[i].value);
        conf_free(&c);
    }
    struct conf *c = load_fatal("\xef\xbb\xbfplugin \"fake\" { word = w words += { x } words += { y, z, } }");
    const struct conf_list *l = &conf_value_find(conf_plugin_find(c, "fake"), "words")->v.list;
    CU_ASSERT_EQUAL(l->n, 3);
    CU_ASSERT_STRING_EQUAL(l->item[2], "z");
    conf_free(&c);
}

static char dir[] = "/tmp/omid-conf-XXXXXX";

static const char *put(const char *name, const char *text, mode_t mode)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
    FILE *f = fopen(path, "w");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
    return path;
}

static struct conf *load_main(const char *text)
{
    conf_faults_free(&faults);
    struct conf *c = conf_load(put("omi.conf", text, 0600), &fake_source, &faults);
    return c;
}

static void test_include(void)
{
    put("one.conf", "store { commit = 9ms }\ninclude('two.conf') store { sweep = 9s }", 0600);
    put("two.conf", "plugin fake {\n word = w }", 0600);
    struct conf *c =
        load_main("store { flush = 2s }\ninclude(\"one.conf\") queue { commit = 8ms }\nstt { catch_up = 2 }");
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(c->store.flush_ms, 2000);
    CU_ASSERT_EQUAL(c->store.commit_ms, 9);
    CU_ASSERT_EQUAL(c->store.sweep_ms, 9000);
    CU_ASSERT_EQUAL(c->queue.commit_ms, 8);
    CU_ASSERT_EQUAL(c->stt.catch_up, 2);
    const struct conf_value *v = conf_value_find(conf_plugin_find(c, "fake"), "word");
    CU_ASSERT_EQUAL(v->line, 2);
    CU_ASSERT_STRING_EQUAL(strrchr(v->file, '/'), "/two.conf");
    conf_free(&c);
    /* Faults come in the order of the files and lines, each with its own file. */
    put("one.conf", "store {\n commit = 0ms }", 0600);
    c = load_main("include(\"one.conf\")\nstore { flush = 1 }");
    CU_ASSERT_PTR_NULL(c);
    CU_ASSERT_EQUAL(faults.errors, 2);
    const char *first = strstr(faults.text.data, "/omi.conf:2: store.flush: ");
    const char *second = strstr(faults.text.data, "/one.conf:2: store.commit: ");
    CU_ASSERT(first && second && first < second);
}

static void test_secrets(void)
{
    char text[512];
    unsetenv("OMID_AUTH_ADMIN_KEY");
    put("key", "from-a-file\r\n\n", 0600);
    struct conf *c = load_main("auth { admin_key_file = \"key\" }");
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_STRING_EQUAL(c->auth.admin_key, "from-a-file");
    CU_ASSERT_EQUAL(faults.warnings, 0);
    conf_free(&c);

    put("key", "open to all ", 0644);
    snprintf(text, sizeof(text), "\nplugin fake { word = w\n key_file = \"%s/key\" }", dir);
    c = load_main(text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_STRING_EQUAL(conf_value_find(conf_plugin_find(c, "fake"), "key")->v.s, "open to all ");
    CU_ASSERT_EQUAL(faults.warnings, 1);
    CU_ASSERT(strstr(faults.text.data, "omi.conf:3: warning: plugin fake: key_file: ") != NULL);
    conf_free(&c);

    setenv("OMID_FAKE_KEY", "from-the-environment", 1);
    c = load_main("plugin fake { word = w }");
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    const struct conf_value *v = conf_value_find(conf_plugin_find(c, "fake"), "key");
    CU_ASSERT_STRING_EQUAL(v->v.s, "from-the-environment");
    CU_ASSERT(v->set && v->line == 0);
    conf_free(&c);
    CU_ASSERT(refused_as("plugin fake { word = w\n key = k }",
                         "test.conf:2: plugin fake: key: expected one of this and the environment's OMID_FAKE_KEY, "
                         "found both\n"));
    setenv("OMID_FAKE_KEY", "", 1);
    CU_ASSERT(refused_as("\nplugin fake { word = w }",
                         "test.conf:2: plugin fake: key: expected a secret, found an empty text\n"));
    unsetenv("OMID_FAKE_KEY");

    setenv("OMID_AUTH_ADMIN_KEY", "abc", 1);
    CU_ASSERT(refused_as("", "test.conf: auth.admin_key: expected a text of 4 to 256 bytes, found 3 bytes in the "
                             "environment's OMID_AUTH_ADMIN_KEY\n"));
    setenv("OMID_AUTH_ADMIN_KEY", "abcd", 1);
    c = load_fatal("");
    CU_ASSERT_STRING_EQUAL(c->auth.admin_key, "abcd");
    conf_free(&c);
    unsetenv("OMID_AUTH_ADMIN_KEY");

    put("key", "\n", 0600);
    CU_ASSERT_PTR_NULL(load_main("auth { admin_key_file = key }"));
    CU_ASSERT(strstr(faults.text.data, "omi.conf:1: auth.admin_key_file: ") && strstr(faults.text.data, "is empty"));
    CU_ASSERT_PTR_NULL(load_main("auth { admin_key_file = \"/\" }"));
    CU_ASSERT(strstr(faults.text.data, "auth.admin_key_file: ") && strstr(faults.text.data, strerror(EISDIR)));
    CU_ASSERT_PTR_NULL(load_main("auth { admin_key_file = \"/dev/zero\" }"));
    CU_ASSERT(strstr(faults.text.data, "auth.admin_key_file: ") != NULL);
}

static void test_lanes(void)
{
    struct conf *c = load_fatal("plugin bare { }");
    const struct conf_lane *l = &c->plugin[0].lane;
    CU_ASSERT(l->pool == 100 && l->idle == 20 && l->semaphore == 100 && l->streams == 4096);
    CU_ASSERT(l->connect_timeout_ms == 2000 && l->timeout_ms == 15000 && l->queue_timeout_ms == 30000);
    CU_ASSERT(l->breaker_failures == 5 && l->breaker_open_ms == 30000 && l->breaker_open_max_ms == 600000);
    CU_ASSERT(l->breaker_error_rate == 0.5 && l->breaker_min_attempts == 20 && l->breaker_slow_ms == 0);
    conf_free(&c);

    c = load_fatal("plugin bare { breaker { error_rate = 0.25 min_attempts = 7 slow = 1500ms } }");
    l = &c->plugin[0].lane;
    CU_ASSERT(l->breaker_error_rate == 0.25 && l->breaker_min_attempts == 7 && l->breaker_slow_ms == 1500);
    CU_ASSERT(l->breaker_failures == 5 && l->breaker_open_ms == 30000);
    conf_free(&c);
    static const char *const bad[] = {"error_rate = 0",   "error_rate = 1.5", "error_rate = x",
                                      "min_attempts = 0", "slow = 5",         "slow = 2h"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[128], key[64];
        snprintf(text, sizeof text, "plugin bare { breaker { %s } }", bad[i]);
        snprintf(key, sizeof key, "breaker.%.*s: ", (int)strcspn(bad[i], " "), bad[i]);
        CU_ASSERT_PTR_NULL(load_main(text));
        CU_ASSERT_PTR_NOT_NULL(strstr(faults.text.data, key));
    }

    c = load_fatal("plugin fake { word = w timeout = 20s breaker { open = 1s } }");
    l = &c->plugin[0].lane;
    CU_ASSERT(l->pool == 16 && l->idle == 4 && l->semaphore == 12 && l->streams == 4096);
    CU_ASSERT(l->connect_timeout_ms == 1000 && l->timeout_ms == 20000);
    CU_ASSERT(l->breaker_failures == 3 && l->breaker_open_ms == 1000);
    conf_free(&c);

    /* What is not written gives way to what is. */
    c = load_fatal("plugin fake { word = w pool = 2 timeout = 500ms breaker { open = 20min } }");
    l = &c->plugin[0].lane;
    CU_ASSERT(l->pool == 2 && l->idle == 2 && l->semaphore == 2);
    CU_ASSERT(l->timeout_ms == 500 && l->connect_timeout_ms == 500);
    CU_ASSERT(l->breaker_open_ms == 1200000 && l->breaker_open_max_ms == 1200000);
    conf_free(&c);

    CU_ASSERT(refused_as("plugin fake { word = w idle = 17 }",
                         "test.conf:1: plugin fake: idle: expected at most the value of pool, which is 16 by default, "
                         "found 17\n"));
}

/* Id tokens: what follows from the project, and the numbers of the auth lane. */
static void test_auth(void)
{
    struct conf *c = load_fatal("");
    CU_ASSERT_PTR_NULL(c->auth.jwt.project);
    CU_ASSERT_PTR_NULL(c->auth.jwt.issuer);
    CU_ASSERT_EQUAL(c->auth.jwt.leeway_ms, 60000);
    CU_ASSERT_EQUAL(c->auth.jwt.refresh_min_ms, 60000);
    CU_ASSERT_EQUAL(c->auth.lane.pool, 20);
    CU_ASSERT_EQUAL(c->auth.lane.idle, 8);
    CU_ASSERT_EQUAL(c->auth.lane.semaphore, 20);
    CU_ASSERT_EQUAL(c->auth.lane.connect_timeout_ms, 2000);
    CU_ASSERT_EQUAL(c->auth.lane.timeout_ms, 10000);
    CU_ASSERT_EQUAL(c->auth.lane.breaker_failures, 5);
    CU_ASSERT_EQUAL(c->auth.lane.breaker_window_ms, 30000);
    CU_ASSERT_EQUAL(c->listen.auth_timeout_ms, 5000);
    CU_ASSERT_EQUAL(c->ingress.trusted_proxies.n, 0);
    conf_free(&c);
    c = load_fatal("auth { jwt { project = \"p\" } lane { pool = 4 connect_timeout = 1s } }");
    CU_ASSERT_EQUAL(faults.warnings, 0);
    CU_ASSERT_STRING_EQUAL(c->auth.jwt.issuer, "https://securetoken.google.com/p");
    CU_ASSERT_EQUAL(strncmp(c->auth.jwt.jwks_url, "https://www.googleapis.com/", 27), 0);
    CU_ASSERT_EQUAL(c->auth.lane.semaphore, 4); /* a default gives way */
    conf_free(&c);
    c = load_fatal("auth { jwt { project = \"p\" issuer = \"https://i\" } }");
    CU_ASSERT_STRING_EQUAL(c->auth.jwt.issuer, "https://i");
    conf_free(&c);
    c = load_fatal("auth { jwt { issuer = \"https://i\" } }");
    CU_ASSERT_EQUAL(faults.warnings, 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(faults.text.data, "auth.jwt.issuer: means nothing without project"));
    conf_free(&c);
}

static void test_left_out(void)
{
    struct conf *c = load_fatal("plugin absent { whatever = 1 }\nplugin bare { }");
    CU_ASSERT_EQUAL_FATAL(c->n_plugins, 2);
    CU_ASSERT_STRING_EQUAL(c->plugin[0].name, "absent");
    CU_ASSERT_STRING_EQUAL(c->plugin[0].left_out, OMID_PLUGINDIR "/absent.so: no such plugin here");
    CU_ASSERT_EQUAL(c->plugin[0].n_values, 0);
    CU_ASSERT_STRING_EQUAL(c->plugin[1].name, "bare");
    CU_ASSERT_PTR_NULL(c->plugin[1].left_out);
    CU_ASSERT_EQUAL(faults.warnings, 1);
    CU_ASSERT_STRING_EQUAL(faults.text.data, "test.conf:1: warning: plugin absent: " OMID_PLUGINDIR
                                             "/absent.so: no such plugin here: left out\n");
    conf_free(&c);
}

static void test_directories(void)
{
    setenv("HOME", "/home/somebody", 1);
    struct conf *c = load_fatal("daemon { state_dir = \"~/state\" run_dir = ~/run plugin_dir = ~/lib }\n"
                                "plugin bare { }");
    CU_ASSERT_STRING_EQUAL(c->daemon.state_dir, "/home/somebody/state");
    CU_ASSERT_STRING_EQUAL(c->daemon.run_dir, "/home/somebody/run");
    CU_ASSERT_STRING_EQUAL(c->plugin[0].path, "/home/somebody/lib/bare.so");
    conf_free(&c);
    unsetenv("HOME");
    CU_ASSERT(refused_as("daemon { state_dir = \"~/state\" }",
                         "test.conf:1: daemon.state_dir: expected a directory, found \"~/state\", and HOME is not "
                         "set\n"));
    /* The control socket's address holds 107 bytes. */
    setenv("HOME", "/a-home-directory/with/a/name/of/many/bytes/that/no/socket/address/can/hold/any/longer/since/it/is",
           1);
    c = load("daemon { run_dir = \"~/run\" }");
    CU_ASSERT_PTR_NULL(c);
    CU_ASSERT(faults.errors == 1 && strncmp(faults.text.data, "test.conf:1: daemon.run_dir: ", 29) == 0);
    setenv("HOME", "/home/somebody", 1);
}

static const struct omid_plugin *any_plugin(void *arg, const char *name, const char *path, char *err, size_t errlen)
{
    static const struct omid_option options[] = {{.name = "realtime_transcript", .type = OMID_OPT_LIST},
                                                 {.name = "audio_bytes", .type = OMID_OPT_LIST},
                                                 {.name = "memory_created", .type = OMID_OPT_LIST},
                                                 {.name = NULL}};
    static struct omid_plugin plugins[8];
    static char names[8][32];
    size_t *n = arg;
    (void)path;
    (void)err;
    (void)errlen;
    snprintf(names[*n], sizeof(names[0]), "%s", name);
    plugins[*n] = (struct omid_plugin){OMID_PLUGIN_HEAD, .name = names[*n], .options = options};
    return &plugins[(*n)++];
}

/* The directories that systemd made for the unit are the defaults; the file still wins. */
static void test_service_manager(void)
{
    setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two", 1);
    setenv("RUNTIME_DIRECTORY", "/run/one", 1);
    struct conf *c = load_fatal("daemon { run_dir = \"/tmp/mine\" }\n");
    CU_ASSERT_STRING_EQUAL(c->daemon.state_dir, "/var/lib/one");
    CU_ASSERT_STRING_EQUAL(c->daemon.run_dir, "/tmp/mine");
    conf_free(&c);
    unsetenv("STATE_DIRECTORY");
    unsetenv("RUNTIME_DIRECTORY");
}

static void test_embedded(void)
{
    size_t n = 0;
    const struct conf_source source = {.describe = any_plugin, .arg = &n};
    static const char *const variables[] = {"OMID_ADDRESS",   "OMID_STATE_DIR", "OMID_RUN_DIR",       "OMID_PLUGIN_DIR",
                                            "OMID_ADMIN_KEY", "OMID_RECEIVER",  "OMID_AUTH_ADMIN_KEY"};
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        unsetenv(variables[i]);
    conf_faults_free(&faults);
    struct conf *c = conf_load(NULL, &source, &faults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_EQUAL(faults.warnings, 0);
    CU_ASSERT_STRING_EQUAL(c->file, "(embedded)");
    CU_ASSERT_STRING_EQUAL(c->ingress.address.item[0], "127.0.0.1:8700");
    CU_ASSERT_STRING_EQUAL(c->auth.admin_key, "dev-");
    CU_ASSERT_EQUAL(c->listen.conversation_timeout_ms, 2000);
    CU_ASSERT_EQUAL(c->listen.conversation_timeout_floor_ms, 2000);
    CU_ASSERT_STRING_EQUAL(c->daemon.plugin_dir, OMID_PLUGINDIR);
    CU_ASSERT_STRING_EQUAL(c->stt.models.item[0], "sphinx");
    CU_ASSERT(conf_plugin_find(c, "echo") && conf_plugin_find(c, "sphinx"));
    const struct conf_plugin *p = conf_plugin_find(c, "webhooks");
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    CU_ASSERT_STRING_EQUAL(conf_value_find(p, "audio_bytes")->v.list.item[0], "http://127.0.0.1:8701/audio_bytes,2");
    conf_free(&c);

    setenv("OMID_ADDRESS", "127.0.0.1:0", 1);
    setenv("OMID_RECEIVER", "http://127.0.0.1:9", 1);
    setenv("OMID_AUTH_ADMIN_KEY", "another", 1); /* goes before the built-in text, which no one can edit */
    n = 0;
    c = conf_load(NULL, &source, &faults);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    CU_ASSERT_STRING_EQUAL(c->ingress.address.item[0], "127.0.0.1:0");
    CU_ASSERT_STRING_EQUAL(c->auth.admin_key, "another");
    p = conf_plugin_find(c, "webhooks");
    CU_ASSERT_STRING_EQUAL(conf_value_find(p, "audio_bytes")->v.list.item[0], "http://127.0.0.1:9/audio_bytes,2");
    conf_free(&c);
    unsetenv("OMID_ADDRESS");
    unsetenv("OMID_AUTH_ADMIN_KEY");
    unsetenv("OMID_RECEIVER");
}

static void test_units(void)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } durations[] = {{"300ms", true, 300},
                     {"0s", true, 0},
                     {"5s", true, 5000},
                     {"2min", true, 120000},
                     {"1h", true, 3600000},
                     {"1d", true, 86400000},
                     {"007s", true, 7000},
                     {"", false, 0},
                     {"s", false, 0},
                     {"5", false, 0},
                     {"5 s", false, 0},
                     {"-5s", false, 0},
                     {"+5s", false, 0},
                     {"5S", false, 0},
                     {"5m", false, 0},
                     {"5ss", false, 0},
                     {"1.5s", false, 0},
                     {"0x5s", false, 0},
                     {"9223372036854775807ms", true, INT64_MAX},
                     {"9223372036854775808ms", false, 0},
                     {"18446744073709551615d", false, 0},
                     {"99999999999999999999ms", false, 0}},
      sizes[] = {{"1B", true, 1},
                 {"64KiB", true, 65536},
                 {"10MiB", true, 10485760},
                 {"2GiB", true, 2147483648},
                 {"8589934591GiB", true, UINT64_C(8589934591) << 30},
                 {"8589934592GiB", false, 0},
                 {"1", false, 0},
                 {"1KB", false, 0},
                 {"1kib", false, 0},
                 {"-1B", false, 0},
                 {"", false, 0}};
    char err[200];
    for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
        uint64_t v = 0;
        CU_ASSERT_EQUAL(conf_parse_duration(durations[i].text, &v, err, sizeof(err)), durations[i].ok);
        CU_ASSERT_EQUAL(v, durations[i].value);
        CU_ASSERT(durations[i].ok || (strstr(err, "expected") && strstr(err, durations[i].text)));
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t v = 0;
        CU_ASSERT_EQUAL(conf_parse_size(sizes[i].text, &v, err, sizeof(err)), sizes[i].ok);
        CU_ASSERT_EQUAL(v, sizes[i].value);
    }
}

/* The table is data that others read: each line complete, each default within its own range. */
static void test_table(void)
{
    size_t n = 0;
    for (const struct conf_entry *e = conf_table(); e->section; e++, n++) {
        CU_ASSERT(e->option.name && e->option.help && strlen(e->option.help) > 10);
        CU_ASSERT(e->option.type != OMID_OPT_ENUM || strchr(e->option.choices, '|') != NULL);
        CU_ASSERT(e->option.min <= e->option.max);
        for (const struct conf_entry *k = conf_table(); k != e; k++)
            CU_ASSERT(strcmp(k->section, e->section) != 0 || strcmp(k->option.name, e->option.name) != 0);
    }
    CU_ASSERT(n > 50);
}

static int suite_end(void)
{
    char command[300];
    conf_faults_free(&faults);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    if (!mkdtemp(dir))
        return 1;
    CU_TestInfo tests[] = {
        {"defaults", test_defaults},
        {"types", test_types},
        {"places", test_places},
        {"quoting", test_quoting},
        {"include", test_include},
        {"secrets", test_secrets},
        {"lanes", test_lanes},
        {"auth", test_auth},
        {"left out", test_left_out},
        {"directories", test_directories},
        {"directories of the service manager", test_service_manager},
        {"embedded", test_embedded},
        {"units", test_units},
        {"table", test_table},
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"conf", NULL, suite_end, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
