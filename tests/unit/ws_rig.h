/*
 * For the tests of outgoing WebSockets: a peer's end of a connection, over ws or wss, with the scripts that several
 * programs use, and a client's WebSocket whose events are kept.
 */
#ifndef TESTS_UNIT_WS_RIG_H
#define TESTS_UNIT_WS_RIG_H

#include <openssl/ssl.h>

#include "base/wsframe.h"
#include "lane_rig.h"

/* ------------------------------------------------------------ a peer's connection */

struct line {
    struct peer *p;
    int fd;
    SSL *ssl;
    struct ws_parser parser;
    unsigned char in[1 << 16];
    size_t at, len; /* of in: not yet parsed */
};

void line_open(struct line *l, struct peer *p, int fd);
void line_end(struct line *l);
/* The request's head; counts it. */
bool line_request(struct line *l, char *head, size_t size);
/* The answer to that head; accept: NULL for the right one. */
void line_accept_text(const char *head, char *out, size_t size, const char *accept);
bool line_upgrade(struct line *l);
bool line_send(struct line *l, const void *data, size_t len);
bool line_puts(struct line *l, const char *text);
bool line_frame(struct line *l, enum ws_opcode op, const void *data, size_t len);
bool line_close(struct line *l, uint16_t code, const char *reason);
/* The next event; false: the client has gone or broken the protocol. */
bool line_next(struct line *l, struct ws_event *ev);

/* mode: the Close code seen last. */
void serve_echo(struct peer *p, int fd);
/* Answers with the HTTP status in mode; echoes when mode is 101. */
void serve_status(struct peer *p, int fd);
/* Accepts the connection, and nothing more. */
void serve_mute(struct peer *p, int fd);
/* Endless headers, byte by byte. */
void serve_hang(struct peer *p, int fd);

/* What peers of wss show: one that the lane trusts after tls_setup(), and one that nobody knows. */
extern SSL_CTX *good_tls, *stranger_tls;
void tls_setup(void);
void tls_free(void);

/* ------------------------------------------------------------ the client's end */

enum on_event { NOTHING, RELEASE_AT_OPEN, RELEASE_AT_MESSAGE, CLOSE_AT_MESSAGE, RELEASE_AT_CLOSED, SEND_AT_OPEN };

struct sock {
    struct rig *rig;
    struct peer *peer;
    struct omid_ws_request req;
    char url[256];
    enum on_event script;
    struct lane_ws *ws;
    int rc, send_rc;
    bool within, called_within;
    atomic_uint opened, messages, writables, closed;
    size_t bytes;
    char last[64];
    struct omid_ws_close why;
    char text[256];
    unsigned sent;
    bool stop_sending;
};

void sock_init(struct sock *s, struct rig *r, const struct peer *p, const char *scheme);
void sock_connect(struct sock *s);
void sock_release(struct sock *s);
/* On the caller's loop, for rig_call(). */
void do_close(void *arg);
bool lane_is_empty(void *arg); /* for rig_until() */

/* A lane, a peer that follows this script, and a WebSocket that is to lead there. */
void meet(struct sock *s, struct rig *r, struct peer *p, void (*serve)(struct peer *p, int fd), const char *scheme,
          SSL_CTX *tls, const struct conf_lane *conf);
void part(struct sock *s, struct rig *r, struct peer *p);

#endif
