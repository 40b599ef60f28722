#include "base/wsframe.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "base/magic.h"

#define FIN 0x80
#define RSV 0x70
#define MASKED 0x80

#define MESSAGE_KEEP 8192 /* bytes of buffer that stay between messages */

/* ----------------------------------------------------------------------- masking */

void ws_mask(unsigned char *data, size_t len, const uint8_t mask[4], unsigned at)
{
    uint8_t m[8];
    for (unsigned i = 0; i < 8; i++)
        m[i] = mask[(at + i) & 3];
    uint64_t wide;
    memcpy(&wide, m, 8);
    size_t i = 0;
    for (; len - i >= 64; i += 64) { /* a length that the compiler knows: it takes the widest registers there are */
        uint64_t v[8];
        memcpy(v, data + i, 64);
        for (unsigned k = 0; k < 8; k++)
            v[k] ^= wide;
        memcpy(data + i, v, 64);
    }
    for (; len - i >= 8; i += 8) {
        uint64_t v;
        memcpy(&v, data + i, 8);
        v ^= wide;
        memcpy(data + i, &v, 8);
    }
    for (unsigned k = 0; i < len; i++, k++)
        data[i] ^= m[k];
}

/* ----------------------------------------------------------------------- parsing */

void ws_parser_init(struct ws_parser *p, bool server, size_t max_message)
{
    *p = (struct ws_parser){.server = server, .max_message = max_message, .head_need = 2};
}

void ws_parser_free(struct ws_parser *p)
{
    buf_free(&p->message);
}

bool ws_parser_midway(const struct ws_parser *p)
{
    return p->head_len > 0 || p->message_op != 0;
}

static int broken(struct ws_parser *p, struct ws_event *ev, uint16_t code, const char *why)
{
    p->failed = code;
    *ev = (struct ws_event){
        .opcode = WS_CLOSE, .data = (unsigned char *)(uintptr_t)why, .len = strlen(why), .code = code};
    return -1;
}

static bool is_control(unsigned op)
{
    return op & 8;
}

/* The first two bytes are there: what follows? NULL or what is wrong. */
static const char *head_begin(struct ws_parser *p)
{
    unsigned op = p->head[0] & 15, len7 = p->head[1] & 127;
    bool masked = p->head[1] & MASKED;
    p->fin = p->head[0] & FIN;
    p->opcode = (uint8_t)op;
    if (p->head[0] & RSV)
        return "reserved bits are set";
    if (op > WS_PONG || (op > WS_BINARY && op < WS_CLOSE))
        return "reserved opcode";
    if (masked != p->server)
        return p->server ? "frame is not masked" : "frame is masked";
    if (is_control(op) && (!p->fin || len7 > WS_MAX_CONTROL))
        return "control frame is fragmented or too long";
    if (op == WS_CONT && p->message_op == 0)
        return "continuation without a message";
    if ((op == WS_TEXT || op == WS_BINARY) && p->message_op != 0)
        return "new message within a fragmented one";
    p->head_need = 2 + (len7 == 126 ? 2u : len7 == 127 ? 8u : 0u) + (masked ? 4u : 0u);
    return NULL;
}

/* The header is whole: its length and mask. NULL or what is wrong. */
static const char *head_end(struct ws_parser *p)
{
    unsigned len7 = p->head[1] & 127, at = 2;
    uint64_t len = len7;
    unsigned n = len7 == 126 ? 2 : len7 == 127 ? 8 : 0;
    if (n) {
        len = 0;
        for (unsigned i = 0; i < n; i++)
            len = len << 8 | p->head[at + i];
        at += n;
        if (len < 126 || (n == 8 && len <= 0xffff))
            return "length is not in its shortest form";
        if (len >> 63)
            return "length has its top bit set";
    }
    if (p->head[1] & MASKED)
        memcpy(p->mask, p->head + at, 4);
    p->left = len;
    p->mask_at = 0;
    return NULL;
}

static void frame_done(struct ws_parser *p)
{
    p->head_len = 0;
    p->head_need = 2;
}

static int control_done(struct ws_parser *p, struct ws_event *ev)
{
    frame_done(p);
    *ev = (struct ws_event){.opcode = p->opcode, .data = p->control, .len = p->control_len, .code = WS_CODE_NONE};
    if (p->opcode != WS_CLOSE || p->control_len == 0)
        return 1;
    if (p->control_len == 1)
        return broken(p, ev, WS_CODE_PROTOCOL, "close payload of one byte");
    uint16_t code = (uint16_t)(p->control[0] << 8 | p->control[1]);
    if (!ws_code_valid(code))
        return broken(p, ev, WS_CODE_PROTOCOL, "invalid close code");
    if (!utf8_valid(p->control + 2, p->control_len - 2))
        return broken(p, ev, WS_CODE_BAD_UTF8, "close reason is not UTF-8");
    *ev = (struct ws_event){.opcode = WS_CLOSE, .data = p->control + 2, .len = p->control_len - 2, .code = code};
    return 1;
}

/* The event that lay in the buffer has been taken. An idle connection keeps little memory. */
static void message_forget(struct ws_parser *p)
{
    if (p->message.cap > MESSAGE_KEEP)
        buf_free(&p->message);
    else
        buf_clear(&p->message);
}

static int message_done(struct ws_parser *p, struct ws_event *ev, unsigned char *data, size_t len)
{
    if (p->message_op == WS_TEXT && !utf8_complete(&p->utf8))
        return broken(p, ev, WS_CODE_BAD_UTF8, "text is not UTF-8");
    *ev = (struct ws_event){.opcode = p->message_op, .data = data, .len = len};
    p->message_op = 0;
    p->utf8 = (struct utf8){0};
    return 1;
}

/* A data frame's header is whole: starts its message, or goes on with it. 0 or -1; before any payload has come. */
static int data_begin(struct ws_parser *p, struct ws_event *ev)
{
    if (p->opcode != WS_CONT) {
        p->message_op = p->opcode;
        buf_clear(&p->message);
    }
    if (p->left > p->max_message || p->message.len > p->max_message - p->left)
        return broken(p, ev, WS_CODE_TOO_BIG, "message is too big");
    return 0;
}

/* Payload bytes of the frame under way: n of them at `in`, unmasked here. */
static int payload(struct ws_parser *p, unsigned char *in, size_t n, struct ws_event *ev)
{
    if (p->server) {
        ws_mask(in, n, p->mask, p->mask_at);
        p->mask_at = (p->mask_at + (unsigned)n) & 3;
    }
    p->left -= n;
    if (is_control(p->opcode)) {
        memcpy(p->control + p->control_len, in, n);
        p->control_len += (unsigned)n;
        return p->left ? 0 : control_done(p, ev);
    }
    if (p->message_op == WS_TEXT && !utf8_feed(&p->utf8, in, n))
        return broken(p, ev, WS_CODE_BAD_UTF8, "text is not UTF-8");
    if (p->left == 0 && p->fin && p->message.len == 0) { /* came in one piece: not copied */
        frame_done(p);
        return message_done(p, ev, in, n);
    }
    if (!buf_append(&p->message, in, n))
        return broken(p, ev, WS_CODE_INTERNAL, "no memory");
    if (p->left)
        return 0;
    frame_done(p);
    if (!p->fin)
        return 0;
    return message_done(p, ev, (unsigned char *)p->message.data, p->message.len);
}

int ws_parse(struct ws_parser *p, unsigned char *in, size_t len, size_t *used, struct ws_event *ev)
{
    size_t at = 0;
    int rc = 0;
    *used = 0;
    if (p->failed)
        return broken(p, ev, p->failed, "stream is broken");
    if (p->message_op == 0)
        message_forget(p);
    while (rc == 0) {
        if (p->head_len < p->head_need) {
            while (p->head_len < p->head_need && at < len) {
                p->head[p->head_len++] = in[at++];
                const char *why = p->head_len == 2 ? head_begin(p) : NULL;
                if (why)
                    return broken(p, ev, WS_CODE_PROTOCOL, why);
            }
            if (p->head_len < p->head_need)
                break;
            const char *why = head_end(p);
            if (why)
                return broken(p, ev, WS_CODE_PROTOCOL, why);
            p->control_len = 0;
            if (!is_control(p->opcode))
                rc = data_begin(p, ev);
            if (rc)
                break;
        }
        if (p->left > 0 && at == len)
            break;
        size_t n = p->left < len - at ? (size_t)p->left : len - at;
        rc = payload(p, in + at, n, ev);
        at += n;
    }
    *used = at;
    return rc;
}

/* ---------------------------------------------------------------------- building */

size_t ws_header(unsigned char out[WS_MAX_HEADER], enum ws_opcode op, uint64_t len, const uint8_t mask[4])
{
    size_t n = 2;
    unsigned bytes = len < 126 ? 0 : len <= 0xffff ? 2 : 8;
    out[0] = (unsigned char)(FIN | op);
    out[1] = (unsigned char)((mask ? MASKED : 0) | (bytes == 0 ? len : bytes == 2 ? 126u : 127u));
    for (unsigned i = 0; i < bytes; i++)
        out[n++] = (unsigned char)(len >> (8 * (bytes - 1 - i)));
    if (mask) {
        memcpy(out + n, mask, 4);
        n += 4;
    }
    return n;
}

bool ws_build(struct buf *out, enum ws_opcode op, const void *data, size_t len, bool masked)
{
    unsigned char head[WS_MAX_HEADER];
    uint8_t mask[4];
    if (masked)
        id_random(mask, sizeof mask);
    size_t n = ws_header(head, op, len, masked ? mask : NULL);
    unsigned char *to = (unsigned char *)buf_reserve(out, n + len);
    if (!to)
        return false;
    memcpy(to, head, n);
    if (len)
        memcpy(to + n, data, len);
    if (masked)
        ws_mask(to + n, len, mask, 0);
    out->len += n + len;
    out->data[out->len] = 0;
    return true;
}

size_t ws_close_payload(unsigned char out[WS_MAX_CONTROL], uint16_t code, const char *reason)
{
    if (!ws_code_valid(code))
        return 0;
    size_t n = reason ? utf8_clip(reason, strlen(reason), WS_MAX_REASON) : 0;
    out[0] = (unsigned char)(code >> 8);
    out[1] = (unsigned char)code;
    if (n)
        memcpy(out + 2, reason, n);
    return n + 2;
}

bool ws_code_valid(uint16_t code)
{
    if (code >= 3000 && code <= 4999)
        return true;
    return code >= 1000 && code <= 1014 && code != 1004 && code != WS_CODE_NONE && code != WS_CODE_ABNORMAL;
}

/* --------------------------------------------------------------------- handshake */

void ws_accept_key(const char *key, size_t key_len, char out[32])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; /* RFC 6455, 1.3 */
    unsigned char in[128], digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    omid_assert(key_len + sizeof guid - 1 <= sizeof in);
    memcpy(in, key, key_len);
    memcpy(in + key_len, guid, sizeof guid - 1);
    omid_assert(EVP_Digest(in, key_len + sizeof guid - 1, digest, &n, EVP_sha1(), NULL) == 1);
    EVP_EncodeBlock((unsigned char *)out, digest, (int)n);
}

bool ws_key_valid(const char *key, size_t len)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (len != 24 || key[22] != '=' || key[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++) {
        if (!memchr(alphabet, key[i], 64))
            return false;
    }
    return true;
}
