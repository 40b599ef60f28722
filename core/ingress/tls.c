#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ingress/private.h"

/* HTTP/2 stays off: nothing else is offered. h2o keeps the pointer. */
static const h2o_iovec_t alpn_protocols[] = {{(char *)"http/1.1", 8}, {NULL, 0}};

static bool readable(const char *what, const char *path, char *err, size_t errlen)
{
    if (access(path, R_OK) == 0)
        return true;
    snprintf(err, errlen, "ingress.tls.%s: %s: %s", what, path, strerror(errno));
    return false;
}

static void fault(const char *what, const char *path, char *err, size_t errlen)
{
    char reason[160];
    unsigned long code = ERR_peek_error();

    if (code == 0)
        snprintf(reason, sizeof(reason), "unknown fault");
    else
        ERR_error_string_n(code, reason, sizeof(reason));
    /* "error:0480006C:PEM routines::no start line": the words behind the colons are what people can use. */
    const char *text = strrchr(reason, ':');
    ERR_clear_error();
    snprintf(err, errlen, "ingress.tls.%s: %s: %s", what, path, text == NULL ? reason : text + 1);
}

/* Never asks on a terminal for the passphrase of an encrypted key. */
static int no_passphrase(char *buf, int size, int rwflag, void *arg)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)arg;
    return 0;
}

SSL_CTX *tls_new(const char *certificate, const char *key, char *err, size_t errlen)
{
    if (key == NULL || certificate == NULL) {
        snprintf(err, errlen, "ingress.tls: %s is missing: certificate and key are needed both",
                 key == NULL ? "key" : "certificate");
        return NULL;
    }
    if (!readable("certificate", certificate, err, errlen) || !readable("key", key, err, errlen))
        return NULL;
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL) {
        fault("certificate", certificate, err, errlen);
        return NULL;
    }
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* 17 KB each way that most connections don't need just now */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    h2o_ssl_register_alpn_protocols(ctx, alpn_protocols);
    if (SSL_CTX_use_certificate_chain_file(ctx, certificate) != 1)
        fault("certificate", certificate, err, errlen);
    else if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        fault("key", key, err, errlen);
    else
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}
