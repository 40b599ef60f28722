#include "ws_rig.h"

#include <CUnit/Basic.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/magic.h"

static ssize_t line_recv(struct line *l, void *to, size_t size)
{
    return l->ssl ? SSL_read(l->ssl, to, (int)size) : recv(l->fd, to, size, 0);
}

bool line_send(struct line *l, const void *data, size_t len)
{
    if (!l->ssl)
        return peer_write(l->fd, data, len);
    return len == 0 || SSL_write(l->ssl, data, (int)len) == (int)len;
}

bool line_puts(struct line *l, const char *text)
{
    return line_send(l, text, strlen(text));
}

/* The request's head. */
bool line_request(struct line *l, char *head, size_t size)
{
    size_t n = 0;
    if (l->p->tls) {
        l->ssl = SSL_new(l->p->tls);
        omid_assert(l->ssl != NULL);
        SSL_set_fd(l->ssl, l->fd);
        if (SSL_accept(l->ssl) != 1)
            return false;
    }
    while (n < size - 1) {
        if (line_recv(l, head + n, 1) != 1)
            return false;
        head[++n] = 0;
        if (n >= 4 && memcmp(head + n - 4, "\r\n\r\n", 4) == 0) {
            atomic_fetch_add(&l->p->requests, 1);
            return true;
        }
    }
    return false;
}

void line_accept_text(const char *head, char *out, size_t size, const char *accept)
{
    char key[32] = "", want[32];
    const char *at = strcasestr(head, "\r\nSec-WebSocket-Key: ");
    if (at)
        sscanf(at + 21, "%25[^\r]", key);
    CU_ASSERT_TRUE(ws_key_valid(key, strlen(key)));
    CU_ASSERT_PTR_NOT_NULL(strcasestr(head, "\r\nSec-WebSocket-Version: 13\r\n"));
    ws_accept_key(key, strlen(key), want);
    snprintf(out, size,
             "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Accept: %s\r\n\r\n",
             accept ? accept : want);
}

bool line_upgrade(struct line *l)
{
    char head[8192], answer[512];
    if (!line_request(l, head, sizeof head))
        return false;
    line_accept_text(head, answer, sizeof answer, NULL);
    return line_puts(l, answer);
}

void line_open(struct line *l, struct peer *p, int fd)
{
    memset(l, 0, offsetof(struct line, in));
    l->at = l->len = 0;
    l->p = p;
    l->fd = fd;
    ws_parser_init(&l->parser, true, 64 << 20);
}

void line_end(struct line *l)
{
    ws_parser_free(&l->parser);
    if (l->ssl) {
        SSL_shutdown(l->ssl);
        SSL_free(l->ssl);
    }
}

bool line_frame(struct line *l, enum ws_opcode op, const void *data, size_t len)
{
    struct buf b = BUF_INIT(0);
    bool ok = ws_build(&b, op, data, len, false) && line_send(l, b.data, b.len);
    buf_free(&b);
    return ok;
}

bool line_close(struct line *l, uint16_t code, const char *reason)
{
    unsigned char payload[WS_MAX_CONTROL];
    return line_frame(l, WS_CLOSE, payload, ws_close_payload(payload, code, reason));
}

/* The next event; false: the client has gone or broken the protocol. */
bool line_next(struct line *l, struct ws_event *ev)
{
    for (;;) {
        size_t used = 0;
        int rc = l->at < l->len ? ws_parse(&l->parser, l->in + l->at, l->len - l->at, &used, ev) : 0;
        l->at += used;
        if (rc < 0)
            CU_FAIL("the client broke the protocol");
        if (rc != 0)
            return rc > 0;
        ssize_t n = line_recv(l, l->in, sizeof l->in);
        if (n <= 0)
            return false;
        l->at = 0;
        l->len = (size_t)n;
    }
}

/* ------------------------------------------------------------ scripts */

/* mode counts Close codes seen: the last one. */
static void echo_loop(struct line *l)
{
    struct ws_event ev;
    while (line_next(l, &ev)) {
        if (ev.opcode == WS_CLOSE) {
            atomic_store(&l->p->mode, ev.code);
            line_close(l, ev.code == WS_CODE_NONE ? 1000 : ev.code, "");
            return;
        }
        if ((ev.opcode == WS_TEXT || ev.opcode == WS_BINARY) && !line_frame(l, ev.opcode, ev.data, ev.len))
            return;
    }
}

void serve_echo(struct peer *p, int fd)
{
    struct line l;
    line_open(&l, p, fd);
    if (line_upgrade(&l))
        echo_loop(&l);
    line_end(&l);
}

/* Answers with the HTTP status in mode, until mode is 101. */
void serve_status(struct peer *p, int fd)
{
    struct line l;
    char head[8192], answer[512];
    line_open(&l, p, fd);
    unsigned status = atomic_load(&p->mode);
    if (status == 101) {
        if (line_upgrade(&l))
            echo_loop(&l);
    } else if (line_request(&l, head, sizeof head)) {
        snprintf(answer, sizeof answer, "HTTP/1.1 %u No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status);
        line_puts(&l, answer);
    }
    line_end(&l);
}

/* Accepts the connection, and nothing more. */
void serve_mute(struct peer *p, int fd)
{
    peer_hold(p, fd);
}

void serve_hang(struct peer *p, int fd)
{
    struct line l;
    char head[8192];
    line_open(&l, p, fd);
    if (line_request(&l, head, sizeof head)) {
        for (unsigned i = 0; i < 200; i++) { /* endless headers, byte by byte */
            if (!line_puts(&l, i == 0 ? "HTTP/1.1 101 x\r\nX: " : "a"))
                break;
            pause_ms(10);
        }
    }
    line_end(&l);
}

/* ------------------------------------------------------------ TLS */

static char ca_file[] = "/tmp/omid-lane-XXXXXX";

/* A certificate of its own for 127.0.0.1, valid for an hour. */
static SSL_CTX *tls_make(FILE *pem)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);
    X509V3_CTX v3;
    omid_assert(key && x);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_set_version(x, 2);
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"127.0.0.1", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    static const int nids[] = {NID_subject_alt_name, NID_basic_constraints};
    static const char *const values[] = {"IP:127.0.0.1", "critical,CA:TRUE"};
    for (unsigned i = 0; i < 2; i++) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &v3, nids[i], values[i]);
        omid_assert(e && X509_add_ext(x, e, -1) == 1);
        X509_EXTENSION_free(e);
    }
    omid_assert(X509_sign(x, key, EVP_sha256()) > 0);
    if (pem)
        omid_assert(PEM_write_X509(pem, x) == 1);
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    omid_assert(ctx && SSL_CTX_use_certificate(ctx, x) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1);
    X509_free(x);
    EVP_PKEY_free(key);
    return ctx;
}

SSL_CTX *good_tls, *stranger_tls;

void tls_setup(void)
{
    int fd = mkstemp(ca_file);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    omid_assert(f != NULL);
    good_tls = tls_make(f);
    stranger_tls = tls_make(NULL);
    fclose(f);
    setenv("SSL_CERT_FILE", ca_file, 1);
    unsetenv("CURL_CA_BUNDLE");
}

void tls_free(void)
{
    SSL_CTX_free(good_tls);
    SSL_CTX_free(stranger_tls);
    unlink(ca_file);
}
