/*
 * The WebSocket framing of RFC 6455, for both sides: parsing as bytes come, building frames. No sockets.
 *
 * Why not wslay: unmasking bytewise costs 5.8 of 8.4 us for a 3,200-byte message, its send queue has no bound and takes
 * two writev calls a frame, and reading can't be paused. Here unmasking goes 8 bytes at a time, in place.
 */
#ifndef OMID_BASE_WSFRAME_H
#define OMID_BASE_WSFRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/utf8.h"

enum ws_opcode { WS_CONT = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

enum {
    WS_CODE_NORMAL = 1000,
    WS_CODE_GOING_AWAY = 1001,
    WS_CODE_PROTOCOL = 1002,
    WS_CODE_UNSUPPORTED = 1003,
    WS_CODE_NONE = 1005,
    WS_CODE_ABNORMAL = 1006,
    WS_CODE_BAD_UTF8 = 1007,
    WS_CODE_POLICY = 1008,
    WS_CODE_TOO_BIG = 1009,
    WS_CODE_INTERNAL = 1011,
    WS_CODE_TRY_LATER = 1013,
};

#define WS_MAX_HEADER 14   /* bytes of the longest frame header */
#define WS_MAX_CONTROL 125 /* payload of a control frame */
#define WS_MAX_REASON 123  /* bytes of text in a Close */

struct ws_parser {
    bool server;        /* true: frames must be masked (we are the server); false: must not be */
    size_t max_message; /* over all fragments */
    /* the frame under way */
    unsigned char head[WS_MAX_HEADER];
    unsigned head_len, head_need;
    uint8_t opcode;
    bool fin;
    uint64_t left; /* payload bytes still to come */
    uint8_t mask[4];
    unsigned mask_at; /* 0..3: which mask byte comes next */
    /* the message under way (fragments), and the control frame, which may fall between them */
    uint8_t message_op; /* WS_TEXT, WS_BINARY, or 0 between messages */
    struct buf message;
    struct utf8 utf8;
    unsigned char control[WS_MAX_CONTROL];
    unsigned control_len;
    uint16_t failed; /* close code once the stream is broken; nothing more is parsed */
};

/* A whole message, or a control frame. For WS_CLOSE: code (WS_CODE_NONE without one) and reason. `data` is
 * valid, and may be written to, until the next call. Lies in `in` when the message came whole in one piece:
 * then it is not copied. */
struct ws_event {
    enum ws_opcode opcode;
    unsigned char *data;
    size_t len;
    uint16_t code;
};

void ws_parser_init(struct ws_parser *p, bool server, size_t max_message);
void ws_parser_free(struct ws_parser *p);
/*
 * Parses from in[0..len), unmasking in place. *used tells how much was taken.
 *   1  an event is in *ev; call again with the rest
 *   0  all was taken; more is needed
 *  -1  broken: *ev has the close code to send in `code` and a static reason in `data`/`len`
 */
int ws_parse(struct ws_parser *p, unsigned char *in, size_t len, size_t *used, struct ws_event *ev);
/* Is a message or a frame partly there? (for timeouts) */
bool ws_parser_midway(const struct ws_parser *p);

/* Writes the header of an unfragmented frame; returns its length. mask NULL: unmasked. */
size_t ws_header(unsigned char out[WS_MAX_HEADER], enum ws_opcode op, uint64_t len, const uint8_t mask[4]);
/* data ^= mask, 8 bytes at a time; `at` is the mask position of data[0]. */
void ws_mask(unsigned char *data, size_t len, const uint8_t mask[4], unsigned at);
/* Appends a whole frame. masked: with a fresh random mask (the client's duty). false: the bound of out. */
bool ws_build(struct buf *out, enum ws_opcode op, const void *data, size_t len, bool masked);
/* Payload of a Close frame; returns its length. The reason (may be NULL) is cut at a character within WS_MAX_REASON and
 * before the first byte that is no UTF-8. Empty for a code that must not be sent. */
size_t ws_close_payload(unsigned char out[WS_MAX_CONTROL], uint16_t code, const char *reason);
/* May this code stand in a Close frame (RFC 6455 section 7.4, IANA registry)? */
bool ws_code_valid(uint16_t code);
/* Sec-WebSocket-Accept for a key that ws_key_valid() took: 28 characters and NUL. */
void ws_accept_key(const char *key, size_t key_len, char out[32]);
/* Is it 16 bytes in base64 (24 characters)? */
bool ws_key_valid(const char *key, size_t len);

#endif
