/* The plugin's options and what the instances share. */
#include <string.h>

#include "storage.h"

const struct omid_option storage_options[] = {
    {.name = "directory",
     .type = OMID_OPT_STRING,
     .min = 1,
     .max = 2000,
     .help = "Where recordings are kept. Default: the folder audio of the plugin's own directory."},
    {.name = "bucket",
     .type = OMID_OPT_STRING,
     .min = 3,
     .max = 63,
     .help = "Keep recordings in this bucket of an S3-compatible store instead."},
    {.name = "endpoint",
     .type = OMID_OPT_STRING,
     .min = 8,
     .max = 1000,
     .help = "Base URL of the store. Default: https://s3.REGION.amazonaws.com."},
    {.name = "region",
     .type = OMID_OPT_STRING,
     .def = "us-east-1",
     .min = 1,
     .max = 64,
     .help = "The store's region, for the signature."},
    {.name = "style",
     .type = OMID_OPT_ENUM,
     .def = "path",
     .choices = "path|host",
     .help = "Where the bucket's name goes: into the path, or before the host."},
    {.name = "prefix",
     .type = OMID_OPT_STRING,
     .def = "audio",
     .min = 1,
     .max = 200,
     .help = "What the keys of objects begin with."},
    {.name = "access_key", .type = OMID_OPT_SECRET, .help = "The store's key, its public half."},
    {.name = "secret_key", .type = OMID_OPT_SECRET, .help = "The store's key, its secret half."},
    {.name = "session_token", .type = OMID_OPT_SECRET, .help = "What goes with temporary keys."},
    {.name = "format",
     .type = OMID_OPT_ENUM,
     .def = "wav",
     .choices = "wav|ogg",
     .help = "How recordings are kept: WAV as it came, or Opus in Ogg."},
    {.name = "bitrate",
     .type = OMID_OPT_INT,
     .def = "24000",
     .min = 6000,
     .max = 256000,
     .help = "Bits per second of Opus."},
    {.name = "batch",
     .type = OMID_OPT_DURATION,
     .def = "60s",
     .min = 1000,
     .max = 300000,
     .help = "Audio of one file."},
    {.name = "append",
     .type = OMID_OPT_DURATION,
     .def = "5s",
     .min = 100,
     .max = 60000,
     .help = "Audio that may be in memory alone: as much is lost when the daemon is killed."},
    {.name = "memory_session",
     .type = OMID_OPT_SIZE,
     .def = "8MiB",
     .min = 1 << 16,
     .max = 1 << 30,
     .help = "Audio of a session that waits for the disk; what comes beyond is dropped and counted."},
    {.name = "memory",
     .type = OMID_OPT_SIZE,
     .def = "256MiB",
     .min = 1 << 20,
     .max = 64.0 * (1 << 30),
     .help = "The same of all sessions together."},
    {.name = "spool_max",
     .type = OMID_OPT_SIZE,
     .def = "16GiB",
     .min = 1 << 20,
     .max = 16384.0 * (1 << 30),
     .help = "Audio on disk that waits to be stored; a spool that is full counts as a disk that is."},
    {.name = "retry",
     .type = OMID_OPT_DURATION,
     .def = "5s",
     .min = 1000,
     .max = 900000,
     .help = "The shortest wait after a batch could not be stored."},
    {.name = "uploads",
     .type = OMID_OPT_INT,
     .def = "4",
     .min = 1,
     .max = 64,
     .help = "Batches that a reactor stores at the same time."},
    {.name = "reads",
     .type = OMID_OPT_INT,
     .def = "16",
     .min = 1,
     .max = 1024,
     .help = "Recordings that a reactor reads at the same time; whoever comes beyond gets 503."},
    {.name = "keep",
     .type = OMID_OPT_DURATION,
     .def = "0s",
     .min = 0,
     .max = 3650.0 * 86400000,
     .help = "How long recordings are kept; 0s: until their conversation is deleted."},
    {.name = "keep_check",
     .type = OMID_OPT_DURATION,
     .def = "1h",
     .min = 100,
     .max = 86400000,
     .help = "The pause between two walks over all recordings, for keep."},
    {.name = NULL},
};

static const struct {
    const char *what, *help, *label, *value;
} counts[COUNTS] = {
    [COUNT_SPOOLED] = {"batches", "Batches of audio by what became of them.", "outcome", "spooled"},
    [COUNT_STORED] = {"batches", "Batches of audio by what became of them.", "outcome", "stored"},
    [COUNT_REPEATED] = {"batches", "Batches of audio by what became of them.", "outcome", "repeated"},
    [COUNT_DELETED] = {"batches", "Batches of audio by what became of them.", "outcome", "deleted"},
    [COUNT_EXPIRED] = {"batches", "Batches of audio by what became of them.", "outcome", "expired"},
    [COUNT_RECOVERED] = {"batches", "Batches of audio by what became of them.", "outcome", "recovered"},
    [COUNT_BAD] = {"batches", "Batches of audio by what became of them.", "outcome", "bad"},
    [COUNT_DROPPED_MEMORY] = {"dropped_bytes", "Audio that was lost, by why.", "reason", "memory"},
    [COUNT_DROPPED_STOP] = {"dropped_bytes", "Audio that was lost, by why.", "reason", "stop"},
    [COUNT_DROPPED_NOWHERE] = {"dropped_bytes", "Audio that was lost, by why.", "reason", "no_conversation"},
    [COUNT_WRITE_FAILED] = {"spool_failures", "Writes to the spool that failed, and are tried again.", NULL, NULL},
    [COUNT_STORE_STATUS] = {"store_failures", "Attempts to store or delete that failed, by why.", "reason", "status"},
    [COUNT_STORE_NETWORK] = {"store_failures", "Attempts to store or delete that failed, by why.", "reason", "network"},
    [COUNT_STORE_DISK] = {"store_failures", "Attempts to store or delete that failed, by why.", "reason", "disk"},
    [COUNT_STORE_LANE] = {"store_failures", "Attempts to store or delete that failed, by why.", "reason", "lane"},
    [COUNT_SPOOL_ADDED] = {"spool_bytes", "Bytes that came into the spool, and left it.", "event", "added"},
    [COUNT_SPOOL_REMOVED] = {"spool_bytes", "Bytes that came into the spool, and left it.", "event", "removed"},
    [COUNT_READ_OK] = {"reads", "Pieces of recordings that were read.", "outcome", "ok"},
    [COUNT_READ_FAILED] = {"reads", "Pieces of recordings that were read.", "outcome", "failed"},
};

struct shared *shared_ref(struct shared *sh)
{
    atomic_fetch_add(&sh->refs, 1);
    return sh;
}

static void forget(char *secret)
{
    if (secret != NULL)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void shared_unref(struct shared *sh)
{
    if (atomic_fetch_sub(&sh->refs, 1) > 1)
        return;
    free(sh->root);
    free(sh->directory);
    free(sh->bucket);
    free(sh->endpoint);
    free(sh->prefix);
    free(sh->sigv4);
    forget(sh->key_id);
    forget(sh->secret);
    forget(sh->token);
    free(sh);
}

/* A value that is only of use together with the bucket. */
static bool bucket_ok(struct omid_module *mod, const struct omid_host *host, const struct shared *sh)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char more[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    bool ok = true;
    if (strchr(letters, sh->bucket[0]) == NULL || sh->bucket[strspn(sh->bucket, more)] != '\0' ||
        strstr(sh->bucket, "..") != NULL) {
        host->conf_error(mod, "bucket", "expected letters, digits, dots and hyphens, found \"%s\"", sh->bucket);
        ok = false;
    }
    if (sh->key_id == NULL || sh->secret == NULL) {
        host->conf_error(mod, sh->key_id == NULL ? "access_key" : "secret_key", "is needed for a bucket");
        ok = false;
    }
    bool web = strncmp(sh->endpoint, "http://", 7) == 0 || strncmp(sh->endpoint, "https://", 8) == 0;
    if (!web || strpbrk(sh->endpoint, " ?#@\"<>\\") != NULL || sh->endpoint[strlen(sh->endpoint) - 1] == '/') {
        host->conf_error(mod, "endpoint", "expected http(s)://HOST[:PORT][/PATH], found \"%s\"", sh->endpoint);
        ok = false;
    }
    const char *p = sh->prefix;
    bool fine = p[0] != '/' && p[strlen(p) - 1] != '/' && strstr(p, "..") == NULL && strstr(p, "//") == NULL &&
                p[strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_/")] == '\0';
    if (!fine) {
        host->conf_error(mod, "prefix", "expected names with slashes between them, found \"%s\"", p);
        ok = false;
    }
    return ok;
}

static char *copy_of(struct omid_module *mod, const struct omid_host *host, const char *key)
{
    const char *text = host->conf_str(mod, key);
    return text != NULL && *text != '\0' ? strdup(text) : NULL;
}

static bool places(struct shared *sh)
{
    const char *region = sh->host->conf_str(sh->mod, "region");
    char text[PATH_SIZE];
    const char *root = sh->host->data_dir(sh->mod);
    if (root == NULL)
        return false;
    sh->root = strdup(root);
    sh->directory = copy_of(sh->mod, sh->host, "directory");
    sh->bucket = copy_of(sh->mod, sh->host, "bucket");
    sh->endpoint = copy_of(sh->mod, sh->host, "endpoint");
    sh->prefix = copy_of(sh->mod, sh->host, "prefix");
    sh->key_id = copy_of(sh->mod, sh->host, "access_key");
    sh->secret = copy_of(sh->mod, sh->host, "secret_key");
    sh->token = copy_of(sh->mod, sh->host, "session_token");
    if (sh->directory == NULL) {
        snprintf(text, sizeof(text), "%s/audio", root);
        sh->directory = strdup(text);
    }
    if (sh->endpoint == NULL) {
        snprintf(text, sizeof(text), "https://s3.%s.amazonaws.com", region);
        sh->endpoint = strdup(text);
    }
    snprintf(text, sizeof(text), "aws:amz:%s:s3", region);
    sh->sigv4 = strdup(text);
    return sh->root != NULL && sh->directory != NULL && sh->endpoint != NULL && sh->prefix != NULL && sh->sigv4 != NULL;
}

int storage_configure(struct omid_module *mod, const struct omid_host *host, void **shared)
{
    static const struct omid_route get = {.size = sizeof(get),
                                          .path = "/v1/conversations/{id}/audio",
                                          .method = "GET",
                                          .auth = OMID_AUTH_TOKEN,
                                          .request = serve_get},
                                   head = {.size = sizeof(head),
                                           .path = "/v1/conversations/{id}/audio",
                                           .method = "HEAD",
                                           .auth = OMID_AUTH_TOKEN,
                                           .request = serve_get};
    struct shared *sh = calloc(1, sizeof(*sh));
    if (sh == NULL)
        return OMID_ERR;
    atomic_init(&sh->refs, 1);
    sh->host = host;
    sh->mod = mod;
    bool ok = places(sh);
    ok = ok && (sh->bucket == NULL || bucket_ok(mod, host, sh));
    sh->host_style = strcmp(host->conf_str(mod, "style"), "host") == 0;
    sh->format = strcmp(host->conf_str(mod, "format"), "ogg") == 0 ? FORMAT_OGG : FORMAT_WAV;
    sh->bitrate = (int)host->conf_int(mod, "bitrate");
    sh->batch_ms = (uint32_t)host->conf_int(mod, "batch");
    sh->append_ms = (uint32_t)host->conf_int(mod, "append");
    sh->retry_ms = (uint32_t)host->conf_int(mod, "retry");
    sh->keep_ms = host->conf_int(mod, "keep");
    sh->keep_check_ms = (uint32_t)host->conf_int(mod, "keep_check");
    sh->memory_session = host->conf_int(mod, "memory_session");
    sh->memory_max = host->conf_int(mod, "memory");
    sh->spool_max = host->conf_int(mod, "spool_max");
    sh->uploads = (unsigned)host->conf_int(mod, "uploads");
    sh->reads = (unsigned)host->conf_int(mod, "reads");
    for (size_t i = 0; i < COUNTS; i++)
        ok = (sh->count[i] = host->counter(mod, counts[i].what, counts[i].help, counts[i].label, counts[i].value)) !=
                 NULL &&
             ok;
    ok = ok && host->route_add(mod, &get) == OMID_OK && host->route_add(mod, &head) == OMID_OK;
    if (!ok) {
        shared_unref(sh);
        return OMID_EINVAL;
    }
    *shared = sh;
    return OMID_OK;
}

void storage_unconfigure(void *shared)
{
    shared_unref(shared);
}
