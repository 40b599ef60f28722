/* omictl: finds the command and its global options. */
#include "config.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>
#include <signal.h>

#include "ctl/ctl.h"

const struct ctl_command ctl_commands[] = {
    {"status", ctl_status, "", "sessions, plugins and lanes of the running daemon",
     "usage: omictl [--socket PATH] [--json] status\n"
     "Shows what the daemon is doing. With --json: everything it tells, as one object.\n"},
    {"plugins", ctl_plugins, "", "the plugins, their state and what they have done",
     "usage: omictl [--socket PATH] [--json] plugins\n"
     "One line per plugin: state, callbacks, errors, time spent, what it has open, and why it is not running if so.\n"},
    {"lanes", ctl_lanes, "[--watch]", "the lanes: in flight, waiting, rejected, how long attempts take",
     "usage: omictl [--socket PATH] [--json] lanes [--watch]\n"
     "One line per lane. P50 and P99 are of the attempts of the last one to two minutes; REJECTED tells the reasons.\n"
     "  --watch             again every second, until interrupted; with --json an object per line\n"},
    {"breakers", ctl_breakers, "[--watch]", "the targets: breaker, since when and why, limit, in flight",
     "usage: omictl [--socket PATH] [--json] breakers [--lane NAME] [--watch]\n"
     "One line per target, at most 1000, those whose breakers are not closed first.\n"
     "  --lane NAME         of this lane alone\n"
     "  --watch             again every second, until interrupted; with --json an object per line\n"},
    {"breaker", ctl_breaker, "reset TARGET", "closes the breaker of a target",
     "usage: omictl [--socket PATH] [--json] breaker reset [--lane NAME] TARGET\n"
     "Closes the breakers that are open or half open for TARGET, a URL as `omictl breakers` shows it, in all lanes or\n"
     "in one. Work for it begins again with one attempt at a time. Exit status 1 when there was none.\n"},
    {"sessions", ctl_sessions, "[--watch]", "the sessions: state, codec, provider, rate, lag",
     "usage: omictl [--socket PATH] [--json] sessions [--uid UID] [--state STATE] [--watch]\n"
     "One line per session, at most 1000, those that are not live or lag behind first. UID is a hash, as in the log.\n"
     "KB/S is what the client sends. LAG is audio that has come and is not yet sent to the provider. TASKS is what\n"
     "goes on for it: of a session that is closing or leaving, what it still waits for.\n"
     "  --uid UID           of this uid alone, or of the one with this hash\n"
     "  --state STATE       starting, live, closing (told so) or leaving (the client is gone)\n"
     "  --watch             again every second, until interrupted; with --json an object per line\n"},
    {"session", ctl_session, "kill ID", "ends a session",
     "usage: omictl [--socket PATH] [--json] session kill [--code CODE] [--reason TEXT] ID\n"
     "Closes the session's connection; what was understood so far is kept. For one that is closing or leaving "
     "already,\n"
     "nothing is waited for any longer. Exit status 1 when there is no such session.\n"
     "  --code CODE         1008 (default): clients stay away; 1001: they connect again\n"
     "  --reason TEXT       told to the client, at most 123 bytes\n"},
    {"apps", ctl_apps, "list|add|show|...", "apps: list, add, show, set, rm, enable, disable, test, secret",
     "usage: omictl [--socket PATH] [--json] apps list [--uid UID] [--disabled]\n"
     "       omictl apps add --url URL [options]\n"
     "       omictl apps set ID [options]\n"
     "       omictl apps show|rm ID\n"
     "       omictl apps enable|disable|test ID [--uid UID]\n"
     "       omictl apps secret ID [--secret-file FILE]\n"
     "Apps. `enable` and `disable` with --uid for one user, otherwise the app as a whole; `test` delivers a test "
     "event.\n"
     "  --id ID             of add: 1 to 64 of a-z, A-Z, 0-9, _ and -; without it one is made\n"
     "  --name TEXT         what users know it by\n"
     "  --uid UID           its owner\n"
     "  --setup-url URL     asked before it is enabled for a user; \"\" for none\n"
     "  --capability NAME   proactive_notification\n"
     "  --trigger NAME      memory_creation, transcript_processed or audio_bytes;\n"
     "                      may be given several times\n"
     "  --event TYPE        custom events of this type, order.*, or * for all; may be given several times\n"
     "  --filter JSON       paths and wanted values that a custom event must have; \"\" for none\n"
     "  --audio SECONDS     how much audio is sent at once, 1 to 60\n"
     "  --rate N            durable deliveries begun a minute; 0: no bound\n"
     "  --ordered, --unordered   whether durable deliveries keep their order\n"
     "  --secret-file FILE  of add and secret: whsec_... to sign with; without it one is made, and shown this once\n"
     "`secret` makes a new secret; deliveries are signed with the former one, too, for registry.secret_overlap.\n"
     "Exit status: 0 done, 1 refused, or no answer.\n"},
    {"webhooks", ctl_webhooks, "list|add|show|...", "developers' webhooks: list, add, show, set, rm, ...",
     "usage: omictl [--socket PATH] [--json] webhooks list [--uid UID] [--disabled]\n"
     "       omictl webhooks add --url URL --uid UID [options]\n"
     "       omictl webhooks set ID [options]\n"
     "       omictl webhooks show|rm ID\n"
     "       omictl webhooks enable|disable|test ID\n"
     "       omictl webhooks secret ID [--secret-file FILE]\n"
     "Webhooks of single users. `test` delivers a test event.\n"
     "  --id ID             of add: 1 to 64 of a-z, A-Z, 0-9, _ and -; without it one is made\n"
     "  --uid UID           whose events it gets\n"
     "  --trigger NAME      realtime_transcript, audio_bytes, memory_created or day_summary;\n"
     "                      may be given several times\n"
     "  --event TYPE        custom events of this type, order.*, or * for all; may be given several times\n"
     "  --filter JSON       paths and wanted values that a custom event must have; \"\" for none\n"
     "  --audio SECONDS     how much audio is sent at once, 1 to 60\n"
     "  --rate N            durable deliveries begun a minute; 0: no bound\n"
     "  --ordered, --unordered   whether durable deliveries keep their order\n"
     "  --secret-file FILE  of add and secret: whsec_... to sign with; without it one is made, and shown this once\n"
     "`secret` makes a new secret; deliveries are signed with the former one, too, for registry.secret_overlap.\n"
     "Exit status: 0 done, 1 refused, or no answer.\n"},
    {"conf", ctl_conf, "check FILE", "checks a configuration file",
     "usage: omictl [--json] conf check FILE\n"
     "Checks FILE with the daemon's own tables and those of the plugins it names, and starts nothing. Every fault is\n"
     "told with file, line and key. Exit status 0 when there is none, 1 otherwise.\n"},
    {"lint", ctl_lint, "FILE.so", "checks a plugin's file without running it",
     "usage: omictl [--json] lint FILE.so\n"
     "Tells whether the daemon would take FILE.so: that it is a plugin of this version, and which calls in it block\n"
     "a loop. Nothing in it is run. Exit status 0 when there is nothing to say, or when the plugin declares that it\n"
     "blocks on executors only; 1 otherwise.\n"},
    {"reload", ctl_reload, "", "makes the running daemon read its configuration again",
     "usage: omictl [--socket PATH] [--json] reload [--wait S]\n"
     "  --wait S            for the result (default 60)\n"
     "Settings, new, removed and replaced plugins take effect without dropping a session. When anything is wrong,\n"
     "nothing changes, and every fault is told with file, line and key. Exit status: 0 it took effect, 1 it did not,\n"
     "3 no result within --wait.\n"},
    {"listen", ctl_listen, "[options] FILE", "streams a recording like a phone would, prints the transcript",
     "usage: omictl [--json] listen [options] FILE\n"
     "  --url URL           ws:// or wss:// URL of the daemon (default ws://127.0.0.1:8700; path /v4/listen)\n"
     "  --token TOKEN       bearer token (default $OMID_TOKEN)\n"
     "  --raw               FILE is headerless s16le mono; needs --rate. Otherwise it is a WAV file\n"
     "  --rate HZ           sample rate of a raw file\n"
     "  --codec NAME        what is sent: pcm16 (default), pcm8, opus (packets of 10 ms) or opus_fs320 (20 ms)\n"
     "  --language CODE     default en\n"
     "  --speed X           X times real time (default 1); 0: as fast as the daemon takes it\n"
     "  --frame MS          audio per message of pcm16 and pcm8 (default 100)\n"
     "  --sessions N        N clients at once, each with a uid of its own (TOKEN, TOKEN-1, ...)\n"
     "  --hangup-after S    drops the connection without a goodbye after S seconds\n"
     "  --wait S            after the audio: seconds in which more may come (default 5)\n"
     "  --wait-memory       after the audio: until the conversation is completed (at most 60 s, or --wait)\n"
     "  --query TEXT        further query parameters, \"a=b&c=d\"\n"
     "  --cacert FILE       CA of a wss:// server; --insecure: no check\n"
     "  --quiet             no progress bar\n"
     "Prints a line per segment; with --json every message as it came. Exit status: 0 all went well, 1 a stream\n"
     "failed or was closed early, 3 --wait-memory ran out.\n"},
    {"deliveries", ctl_deliveries, "[--watch]", "the attempts of durable jobs: status, time taken, answer, error",
     "usage: omictl [--socket PATH] [--json] deliveries [filters] [--limit N] [--watch]\n"
     "One line per attempt, the newest last.\n"
     "  --failed            those that did not succeed\n"
     "  --endpoint X        of this endpoint or target\n"
     "  --plugin NAME, --type TYPE, --error TEXT (a part of it)\n"
     "  --since T, --until T   by their time: 30min, 2h, 1d ago\n"
     "  --limit N           at most so many (default 100)\n"
     "  --watch             go on with those that come, until interrupted\n"
     "With --json an object per line.\n"},
    {"dead", ctl_dead, "list|show|...", "the dead letters: list, show, replay, drop",
     "usage: omictl [--socket PATH] [--json] dead list [filters] [--limit N]\n"
     "       omictl dead show ID\n"
     "       omictl dead replay ID | filters | --all [--rate N] [--wait]\n"
     "       omictl dead drop ID | filters | --all [--wait]\n"
     "       omictl dead replays\n"
     "       omictl dead cancel ID\n"
     "A dead letter is a job that was given up. Replayed, it keeps its id and name, and its schedule begins anew. A\n"
     "replay or drop of many is a work of the daemon's own that goes on after a restart: `dead replays` shows how far\n"
     "they are, `dead cancel` ends one.\n"
     "  --target X          of this target\n"
     "  --plugin NAME, --type TYPE, --error TEXT (a part of it)\n"
     "  --since T, --until T   by when they died: 30min, 2h, 1d ago\n"
     "  --limit N           of list: at most so many (default 100), the newest first\n"
     "  --rate N            so many a second; never above queue.replay_rate\n"
     "  --wait              until it has ended\n"},
    {"receive", ctl_receive, "--port N", "a local webhook receiver that prints each delivery",
     "usage: omictl [--json] receive --port N [options]\n"
     "  --port N            port on 127.0.0.1; 0: any, told on the first line\n"
     "  --address A         another address to bind\n"
     "  --status CODE       answer with this status (default 200)\n"
     "  --body TEXT         answer with this body (default {})\n"
     "  --count N           end after N deliveries\n"
     "  --ready-file FILE   ADDRESS:PORT is written there when it listens\n"
     "  --secret TEXT       checks each delivery's signature (whsec_...), answers 401 to what is not signed so;\n"
     "  --secret-file FILE  the same with the secret in a file\n"
     "Prints a line per delivery: method, path, bytes, content type and the beginning of the body; with --json an\n"
     "object per delivery. Ends on Ctrl-C.\n"},
    {NULL, NULL, NULL, NULL, NULL},
};

static void usage(FILE *out)
{
    fputs("usage: omictl [--socket PATH] [--json] COMMAND ...\n", out);
    for (const struct ctl_command *c = ctl_commands; c->name; c++)
        fprintf(out, "  %-8s %-16s %s\n", c->name, c->args, c->summary);
    fputs("  --socket PATH    control socket (default $OMID_CONTROL, else " OMID_RUNDIR "/control.sock)\n"
          "omictl COMMAND --help tells more; see omictl(1).\n",
          out);
}

static const struct ctl_command *command_find(const char *name)
{
    for (const struct ctl_command *c = ctl_commands; c->name; c++) {
        if (strcmp(c->name, name) == 0)
            return c;
    }
    return NULL;
}

int ctl_usage(const char *command, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "omictl %s: ", command);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, " (omictl %s --help)\n", command);
    return CTL_USAGE;
}

bool ctl_number(const char *command, const char *option, const char *text, double min, double max, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < min || v > max) {
        ctl_usage(command, "%s: expected a number from %g to %g, found \"%s\"", option, min, max, text);
        return false;
    }
    *out = v;
    return true;
}

bool ctl_whole(const char *command, const char *option, const char *text, double min, double max, double *out)
{
    if (!ctl_number(command, option, text, min, max, out))
        return false;
    if (*out == floor(*out))
        return true;
    ctl_usage(command, "%s: expected a whole number from %g to %g, found \"%s\"", option, min, max, text);
    return false;
}

bool ctl_help_asked(const char *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(command_find(command)->help, stdout);
            return true;
        }
    }
    return false;
}

/* Those in front of the command; where the command is. -1: it ends here, with *rc. */
static int options_read(struct ctl *ctl, int argc, char **argv, int *rc)
{
    int i = 1;
    *rc = CTL_OK;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            ctl->json = true;
        } else if (strcmp(argv[i], "--socket") == 0) {
            if (i + 1 == argc || !*argv[i + 1]) {
                fputs("omictl: --socket: expected a path behind it\n", stderr);
                *rc = CTL_USAGE;
                return -1;
            }
            ctl->socket = argv[++i];
        } else if (strncmp(argv[i], "--socket=", 9) == 0 && argv[i][9]) {
            ctl->socket = argv[i] + 9;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            usage(stdout);
            return -1;
        } else if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
            puts("omictl " PACKAGE_VERSION);
            return -1;
        } else {
            fprintf(stderr, "omictl: unknown option %s\n", argv[i]);
            usage(stderr);
            *rc = CTL_USAGE;
            return -1;
        }
    }
    if (i < argc)
        return i;
    usage(stderr);
    *rc = CTL_USAGE;
    return -1;
}

int main(int argc, char **argv)
{
    struct ctl ctl = {.socket = getenv("OMID_CONTROL")};
    int rc;
    if (!ctl.socket)
        ctl.socket = OMID_RUNDIR "/control.sock";
    signal(SIGPIPE, SIG_IGN);
    const int i = options_read(&ctl, argc, argv, &rc);
    if (i < 0)
        return rc;
    const struct ctl_command *c = command_find(argv[i]);
    if (!c) {
        fprintf(stderr, "omictl: unknown command %s\n", argv[i]);
        usage(stderr);
        return CTL_USAGE;
    }
    /* --json is understood behind the command as well. */
    int n = i + 1;
    for (int k = i + 1; k < argc; k++) {
        if (strcmp(argv[k], "--json") == 0)
            ctl.json = true;
        else
            argv[n++] = argv[k];
    }
    argv[n] = NULL;
    if (ctl_help_asked(c->name, n - i, argv + i))
        return CTL_OK;
    /* getopt_long() begins its messages with it. */
    char name[32];
    snprintf(name, sizeof name, "omictl %s", c->name);
    argv[i] = name;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = c->run(&ctl, n - i, argv + i);
    curl_global_cleanup();
    return rc;
}
