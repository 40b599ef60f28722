/* omid: arguments, the first reading of the configuration, signals. The rest is in daemon.h. */
#include "config.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/magic.h"
#include "daemon.h"

/* How often plugins on their way out are looked at. */
#define REAP_MS 50

static void usage(FILE *out)
{
    fputs("usage: omid [options]\n"
          "  -f, --file FILE        configuration (default " OMID_SYSCONFDIR "/omi.conf)\n"
          "  -e, --embedded         run on the embedded default configuration\n"
          "  -t, --test             check the configuration and exit\n"
          "  -p, --print-embedded   print the embedded configuration and exit\n"
          "  -r, --ready-file FILE  write pid, addresses and control socket there when ready (JSON)\n"
          "  -V, --version          print the version and exit\n"
          "  -h, --help             print this help and exit\n"
          "See omid(8) and omi.conf(5).\n",
          out);
}

/* Loads and configures; tells every fault. The host is left in d. */
static bool configure(struct daemon *d)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    struct conf_source source = loader_source(d->loader);
    d->conf = conf_load(d->file, &source, &faults);
    bool ok = d->conf != NULL && daemon_blocks_check(d->conf, &faults);
    if (ok && d->test) {
        struct host_env env = daemon_host_env(d);
        d->host = host_new(&env);
        ok = d->host && host_configure(d->host, &faults);
    }
    if (faults.text.len)
        fputs(faults.text.data, stderr);
    if (d->test)
        fprintf(stderr, "%s: %u errors, %u warnings\n", d->file ? d->file : "(embedded)", faults.errors,
                faults.warnings);
    conf_faults_free(&faults);
    return ok;
}

/* From the first on: one that comes while the configuration is read waits until it can be a reload. */
static void hangup_block(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void signals_block(sigset_t *set)
{
    sigset_t writes;
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is an error of write(), as a full disk is */
    /* Blocked, too, as in all other threads: libraries of plugins put the dispositions back to what kills. */
    sigemptyset(&writes);
    sigaddset(&writes, SIGPIPE);
    sigaddset(&writes, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &writes, NULL);
}

/* One that ends the daemon, if it is there. Asked first: of several that wait the kernel hands out the lowest number,
 * and reloads that are asked for faster than they are done would keep SIGTERM waiting for ever. */
static int stop_signal(void)
{
    sigset_t set;
    const struct timespec at_once = {0};
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    return sigtimedwait(&set, NULL, &at_once);
}

/* The next signal; meanwhile what a reload has retired is taken on its way out, and idle memory is given back. */
static int next_signal(struct daemon *d, const sigset_t *set)
{
    omid_assert(d->conf);
    for (;;) {
        int stop = stop_signal();
        if (stop > 0)
            return stop;
        uint64_t now = clock_mono_ms();
        if (now >= d->heap_check_ms) {
            heap_check(&d->heap);
            d->heap_check_ms = now + d->conf->memory.check_ms;
        }
        uint64_t wait = host_reap(d->host) > 0 ? REAP_MS : d->heap_check_ms - now;
        uint64_t flush = daemon_registry_tick(d, now);
        wait = flush < wait ? flush : wait;
        struct timespec tick = {.tv_sec = (time_t)(wait / 1000), .tv_nsec = (long)(wait % 1000) * 1000000};
        int sig = sigtimedwait(set, NULL, &tick);
        if (sig > 0)
            return sig;
    }
}

static void run_until_signal(struct daemon *d, const sigset_t *set)
{
    int sig;
    while ((sig = next_signal(d, set)) == SIGHUP)
        daemon_reload(d);
    log_notice(MODULE, "stopping", LS("signal", sig == SIGINT ? "SIGINT" : "SIGTERM"));
}

static int run(struct daemon *d)
{
    sigset_t set;
    signals_block(&set);
    omid_assert(d->conf);
    daemon_log_configure(d->conf);
    bool ok = daemon_start(d);
    if (ok) {
        sd_notify(0, "READY=1");
        run_until_signal(d, &set);
        sd_notify(0, "STOPPING=1");
    } else {
        log_error(MODULE, "not started");
    }
    if (d->ready_file)
        unlink(d->ready_file);
    daemon_stop(d);
    if (ok)
        log_notice(MODULE, "stopped");
    log_flush();
    return ok ? EXIT_OK : EXIT_FAULT;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"file", required_argument, NULL, 'f'},
        {"embedded", no_argument, NULL, 'e'},
        {"test", no_argument, NULL, 't'},
        {"print-embedded", no_argument, NULL, 'p'},
        {"ready-file", required_argument, NULL, 'r'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct daemon d = {.file = OMID_SYSCONFDIR "/omi.conf"};
    int c;
    while ((c = getopt_long(argc, argv, "f:etpr:Vh", options, NULL)) != -1) {
        switch (c) {
        case 'f':
            d.file = optarg;
            break;
        case 'e':
            d.file = NULL;
            break;
        case 't':
            d.test = true;
            break;
        case 'p':
            fputs(conf_embedded_text, stdout);
            return EXIT_OK;
        case 'r':
            d.ready_file = optarg;
            break;
        case 'V':
            puts("omid " PACKAGE_VERSION);
            return EXIT_OK;
        case 'h':
            usage(stdout);
            return EXIT_OK;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "omid: unexpected argument \"%s\"\n", argv[optind]);
        usage(stderr);
        return EXIT_USAGE;
    }
    if (!d.test)
        hangup_block();
    d.loader = loader_new();
    int rc = d.loader && configure(&d) ? EXIT_OK : EXIT_CONFIG;
    if (rc == EXIT_OK && !d.test)
        rc = run(&d);
    host_free(&d.host);
    conf_free(&d.conf);
    loader_free(&d.loader);
    return rc;
}
