/*
 * A lane's proxy, certificates and opened networks. Files are read and checked here, once per load: what can't be used
 * is a fault with a line of omi.conf, never a surprise of a connection, and no loop reads a file.
 */
#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/magic.h"
#include "base/urlkey.h"
#include "conf/load.h"

/* The sections of a plugin block, or of a target block in it. */
static const char *section(const struct load *l, bool tls)
{
    if (tls && l->tls_section)
        return l->tls_section;
    return l->target ? (tls ? "plugin.target.tls" : "plugin.target") : (tls ? "plugin.tls" : "plugin");
}

/* The text of a setting, the caller's; NULL: not written, or faulty (*ok). */
static char *text_of(struct load *l, const char *title, bool tls, const char *key, bool *ok)
{
    struct conf_value v;
    const struct conf_entry *e = conf_entry_find(section(l, tls), key);

    omid_assert(e != NULL);
    if (!load_value(l, e->section, title, &e->option, &v)) {
        *ok = false;
        return NULL;
    }
    return v.v.s;
}

/* ------------------------------------------------------------ the proxy */

static const char *proxy_fault(const char *proxy)
{
    char key[512];
    const char *host = proxy + 7, *port;

    if (strncmp(proxy, "https://", 8) == 0 || strncmp(proxy, "socks", 5) == 0)
        return "only plain HTTP proxies are known";
    if (strncmp(proxy, "http://", 7) != 0 || !url_key(proxy, key, sizeof key))
        return "it must begin with http://";
    if (memchr(host, '@', strcspn(host, "/?#")))
        return "user and password stand in proxy_auth_file";
    size_t len = strcspn(host, "/?#");
    if (host[len] != '\0' && strcmp(host + len, "/") != 0)
        return "a proxy has no path";
    port = memchr(host, ']', len);
    port = memchr(port ? port : host, ':', len - (size_t)((port ? port : host) - host));
    if (!port || strspn(port + 1, "0123456789") != len - (size_t)(port + 1 - host) || len == (size_t)(port + 1 - host))
        return "its port is missing";
    if (url_key_port(key) == 0)
        return "its port is none from 1 to 65535";
    return NULL;
}

static bool load_proxy(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_outside *o)
{
    bool ok = true;
    const char *path = section(l, false);
    char *proxy = text_of(l, title, false, "proxy", &ok), *auth = text_of(l, title, false, "proxy_auth", &ok);
    const char *auth_key = load_find(l, path, title, "proxy_auth_file") ? "proxy_auth_file" : "proxy_auth";
    bool none = proxy && strcmp(proxy, "none") == 0;
    const char *why = proxy && !none ? proxy_fault(proxy) : NULL;

    if (why) {
        char shown[256];
        url_show(proxy, shown, sizeof shown);
        load_fault(l, false, path, title, "proxy", "expected http://HOST:PORT or none, found \"%.100s\": %s", shown,
                   why);
        ok = false;
    } else if (proxy && !none && plugin && (plugin->flags & OMID_PLUGIN_USER_URLS)) {
        load_fault(l, false, path, title, "proxy",
                   "expected none: the plugin %s sends to URLs that users register, and behind a proxy their addresses "
                   "can't be checked",
                   plugin->name);
        ok = false;
    }
    if (auth && (!proxy || none)) {
        load_fault(l, false, path, title, auth_key, "expected a proxy beside it, found none");
        ok = false;
    } else if (auth && !strchr(auth, ':')) {
        load_fault(l, false, path, title, auth_key, "expected USER:PASSWORD, found no colon");
        ok = false;
    }
    if (proxy) { /* another proxy is not told the password of the former */
        free(o->proxy);
        if (o->proxy_auth)
            explicit_bzero(o->proxy_auth, strlen(o->proxy_auth));
        free(o->proxy_auth);
        o->proxy = none ? NULL : proxy;
        o->proxy_auth = auth;
        if (none)
            free(proxy);
    } else if (auth) {
        explicit_bzero(auth, strlen(auth));
        free(auth);
    }
    return ok;
}

/* ------------------------------------------------------------ certificates */

static bool pem_fault(struct load *l, const char *title, const char *key, const char *file, const char *why)
{
    load_fault(l, false, section(l, true), title, key, "expected a PEM file, found %.300s: %s", file, why);
    return false;
}

static bool pem_read(struct load *l, const char *title, const char *key, const char *file, struct conf_bytes *out)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode)) {
        int reason = errno;
        if (fd >= 0)
            close(fd);
        return pem_fault(l, title, key, file, strerror(fd >= 0 && S_ISDIR(st.st_mode) ? EISDIR : reason));
    }
    char *text = malloc(CONF_MAX_PEM + 1);
    omid_assert(text != NULL);
    size_t len = 0;
    ssize_t n = 0;
    while (len <= CONF_MAX_PEM && (n = read(fd, text + len, CONF_MAX_PEM + 1 - len)) > 0)
        len += (size_t)n;
    int reason = errno;
    close(fd);
    if (n < 0 || len > CONF_MAX_PEM) {
        explicit_bzero(text, CONF_MAX_PEM + 1);
        free(text);
        return pem_fault(l, title, key, file, n < 0 ? strerror(reason) : "is larger than 64KiB");
    }
    if (strcmp(key, "key") == 0 && S_ISREG(st.st_mode) && (st.st_mode & S_IROTH) != 0)
        load_fault(l, true, section(l, true), title, key, "every user of this machine can read %s", file);
    out->data = text;
    out->len = len;
    return true;
}

/* Certificates of the text; the first, which the caller frees, or NULL. *n of them; SIZE_MAX: one is broken. */
static X509 *certificates(const struct conf_bytes *pem, size_t *n)
{
    BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
    X509 *first = NULL, *x;

    omid_assert(bio != NULL);
    *n = 0;
    ERR_clear_error();
    while ((x = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
        if (++*n == 1)
            first = x;
        else
            X509_free(x);
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        *n = SIZE_MAX;
    ERR_clear_error();
    BIO_free(bio);
    return first;
}

static int no_passphrase(char *buf, int size, int writing, void *asked)
{
    (void)buf;
    (void)size;
    (void)writing;
    *(bool *)asked = true;
    return -1;
}

static bool check_pair(struct load *l, const char *title, const struct conf_outside *o, const char *certificate,
                       const char *key)
{
    size_t n;
    bool asked = false, ok = false;
    X509 *x = certificates(&o->certificate, &n);
    BIO *bio = BIO_new_mem_buf(o->key.data, (int)o->key.len);
    omid_assert(bio != NULL);
    EVP_PKEY *k = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);

    if (!x || n == SIZE_MAX)
        pem_fault(l, title, "certificate", certificate,
                  x ? "one of its certificates can't be read" : "there is no certificate in it");
    if (!k)
        pem_fault(l, title, "key", key,
                  asked ? "its key has a passphrase, which nobody could give" : "there is no private key in it");
    if (x && k && n != SIZE_MAX) {
        ok = X509_check_private_key(x, k) == 1;
        if (!ok)
            load_fault(l, false, section(l, true), title, "key",
                       "expected the key of the certificate in %.300s, found that of another", certificate);
        else if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
            load_fault(l, true, section(l, true), title, "certificate", "the certificate in %.300s has expired",
                       certificate);
    }
    ERR_clear_error();
    EVP_PKEY_free(k);
    X509_free(x);
    BIO_free(bio);
    return ok;
}

static bool check_ca(struct load *l, const char *title, const struct conf_outside *o, const char *file)
{
    size_t n;
    X509 *x = certificates(&o->ca, &n);
    bool ok = x && n != SIZE_MAX;

    if (!ok)
        pem_fault(l, title, "ca", file, x ? "one of its certificates can't be read" : "there is no certificate in it");
    X509_free(x);
    return ok;
}

/* The file that a setting names, beside the one it stands in; the caller's. NULL: not written, or faulty (*ok). */
static char *file_of(struct load *l, const char *title, const char *key, bool *ok)
{
    char *text = text_of(l, title, true, key, ok);
    const struct outline_item *it = text ? load_find(l, section(l, true), title, key) : NULL;
    char *file = it ? load_beside(it, text) : NULL;

    free(text);
    return file;
}

static void bytes_replace(struct conf_bytes *b, bool secret)
{
    if (b->data && secret)
        explicit_bzero(b->data, b->len);
    free(b->data);
    *b = (struct conf_bytes){0};
}

void load_check_ingress_tls(struct load *l, const char *certificate, const char *key)
{
    struct conf_outside o = {0};

    l->tls_section = "ingress.tls";
    if (pem_read(l, NULL, "certificate", certificate, &o.certificate) & pem_read(l, NULL, "key", key, &o.key))
        (void)check_pair(l, NULL, &o, certificate, key);
    l->tls_section = NULL;
    bytes_replace(&o.certificate, false);
    bytes_replace(&o.key, true);
}

static bool load_tls(struct load *l, const char *title, struct conf_outside *o)
{
    bool ok = true;
    char *certificate = file_of(l, title, "certificate", &ok), *key = file_of(l, title, "key", &ok);
    char *ca = file_of(l, title, "ca", &ok);

    if (ok && !certificate != !key) {
        load_fault(l, false, section(l, true), title, certificate ? "key" : "certificate",
                   "expected a PEM file, since there is a %s; found none", certificate ? "certificate" : "key");
        ok = false;
    } else if (ok && certificate) {
        bytes_replace(&o->certificate, false);
        bytes_replace(&o->key, true);
        ok = pem_read(l, title, "certificate", certificate, &o->certificate) & pem_read(l, title, "key", key, &o->key);
        ok = ok && check_pair(l, title, o, certificate, key);
    }
    if (ca) {
        bytes_replace(&o->ca, false);
        ok &= pem_read(l, title, "ca", ca, &o->ca) && check_ca(l, title, o, ca);
    }
    free(certificate);
    free(key);
    free(ca);
    return ok;
}

/* ------------------------------------------------------------ opened networks */

static bool load_private(struct load *l, const char *title, struct conf_outside *o)
{
    struct conf_value v;
    const struct conf_entry *e = conf_entry_find("plugin", "allow_private");
    bool ok = true;

    omid_assert(e != NULL);
    if (l->target) /* the lane's, which the copy has */
        return true;
    if (!load_value(l, "plugin", title, &e->option, &v))
        return false;
    o->allow_private = v.v.list.n > 0 ? calloc(v.v.list.n, sizeof *o->allow_private) : NULL;
    omid_assert(v.v.list.n == 0 || o->allow_private != NULL);
    for (size_t i = 0; i < v.v.list.n; i++) {
        if (cidr_parse(v.v.list.item[i], &o->allow_private[o->n_private])) {
            o->n_private++;
            continue;
        }
        load_fault(l, false, "plugin", title, "allow_private",
                   "expected an address or a network like 10.0.0.0/8 or fd00::/8, found \"%.80s\"", v.v.list.item[i]);
        ok = false;
    }
    value_clear(&v);
    return ok;
}

/* ------------------------------------------------------------ all of it */

static void bytes_copy(struct conf_bytes *to, const struct conf_bytes *from)
{
    if (!from->data)
        return;
    to->data = malloc(from->len + 1);
    omid_assert(to->data != NULL);
    memcpy(to->data, from->data, from->len);
    to->len = from->len;
}

static struct conf_outside *outside_copy(const struct conf_outside *from)
{
    struct conf_outside *o = conf_outside_new();

    omid_assert(o != NULL);
    if (!from)
        return o;
    o->proxy = from->proxy ? text_copy(from->proxy) : NULL;
    o->proxy_auth = from->proxy_auth ? text_copy(from->proxy_auth) : NULL;
    bytes_copy(&o->certificate, &from->certificate);
    bytes_copy(&o->key, &from->key);
    bytes_copy(&o->ca, &from->ca);
    if (from->n_private > 0) {
        o->allow_private = malloc(from->n_private * sizeof *o->allow_private);
        omid_assert(o->allow_private != NULL);
        memcpy(o->allow_private, from->allow_private, from->n_private * sizeof *o->allow_private);
        o->n_private = from->n_private;
    }
    return o;
}

bool load_lane_outside(struct load *l, const char *title, const struct omid_plugin *plugin, struct conf_lane *lane)
{
    struct conf_outside *o = outside_copy(lane->outside);
    bool ok = load_proxy(l, title, plugin, o);

    ok &= load_tls(l, title, o);
    ok &= load_private(l, title, o);
    bool any = o->proxy || o->certificate.data || o->ca.data || o->n_private > 0;
    if (any && conf_outside_same(o, lane->outside)) {
        conf_outside_unref(&o); /* nothing of its own: what is shared is set on a handle only once */
        return ok;
    }
    conf_outside_unref(&lane->outside);
    if (any)
        lane->outside = o;
    else
        conf_outside_unref(&o);
    return ok;
}
