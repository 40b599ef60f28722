/* RFC 6455 framing. Frames are made here byte by byte, never with the module's own builder. */
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "base/magic.h"
#include "base/wsframe.h"
#include "unit.h"

#define MAX 70000 /* message bound of most tests */

/* --------------------------------------------------------------- a peer's bytes */

struct shape { /* what a frame looks like; zero: masked, shortest length */
    int bytes; /* of the length: 0 shortest, 2 or 8 */
    bool unmasked;
};

static void frame(struct buf *b, unsigned first, const void *data, size_t len, struct shape s)
{
    unsigned char head[14] = {(unsigned char)first};
    const unsigned char *p = data;
    size_t n = 2;
    int bytes = s.bytes ? s.bytes : len < 126 ? 0 : len < 65536 ? 2 : 8;
    head[1] = (unsigned char)((s.unmasked ? 0 : 128) + (bytes == 8 ? 127 : bytes == 2 ? 126 : (int)len));
    for (int i = bytes; i-- > 0;)
        head[n++] = (unsigned char)((uint64_t)len >> (8 * i));
    unsigned char mask[4] = {0};
    if (!s.unmasked) {
        id_random(mask, 4);
        memcpy(head + n, mask, 4);
        n += 4;
    }
    buf_append(b, head, n);
    for (size_t i = 0; i < len; i++) {
        char c = (char)(p[i] ^ mask[i % 4]);
        buf_append(b, &c, 1);
    }
}

static void masked(struct buf *b, unsigned first, const char *text)
{
    frame(b, first, text, strlen(text), (struct shape){0});
}

/* -------------------------------------------------------------------- collecting */

/* What a stream gave, as text: "1:hello|9:|8:1000:bye|!1002". */
struct seen {
    struct buf text;
    int rc;
    uint16_t code;
};

static void note(struct seen *s, const struct ws_event *ev)
{
    buf_printf(&s->text, "%d:", ev->opcode);
    if (ev->opcode == WS_CLOSE)
        buf_printf(&s->text, "%d:", ev->code);
    buf_append(&s->text, ev->data, ev->len);
    buf_puts(&s->text, "|");
}

/* Feeds in[0..len) in pieces that end at the given places; each piece lies in memory of its own size. */
static void feed(struct ws_parser *p, struct seen *s, const char *in, size_t len)
{
    unsigned char *piece = malloc(len ? len : 1);
    memcpy(piece, in, len);
    size_t at = 0, used = 0;
    while (s->rc >= 0) {
        struct ws_event ev;
        s->rc = ws_parse(p, piece + at, len - at, &used, &ev);
        at += used;
        if (s->rc < 0) {
            s->code = ev.code;
            buf_printf(&s->text, "!%d", ev.code);
            CU_ASSERT(ev.len > 0 && ev.len <= WS_MAX_REASON);
        } else if (s->rc == 0) {
            CU_ASSERT_EQUAL(at, len);
            break;
        } else {
            note(s, &ev);
        }
    }
    free(piece);
}

/* Whole, cut at every place, byte by byte and in random pieces: always the same events. */
static void expect_as(bool server, size_t max, const struct buf *in, const char *expected)
{
    size_t wrong = 0;
    for (size_t round = 0; round < in->len + 40; round++) {
        struct ws_parser p;
        struct seen s = {.text = BUF_INIT(0)};
        ws_parser_init(&p, server, max);
        for (size_t at = 0; at < in->len && s.rc >= 0;) {
            size_t left = in->len - at, n = left;
            if (round == 0)
                n = 1;
            else if (round < in->len)
                n = at == 0 ? round : left;
            else if (round > in->len)
                n = 1 + id_random_u64() % (left < 20 ? left : 20);
            feed(&p, &s, in->data + at, n);
            at += n;
        }
        if (strcmp(s.text.data ? s.text.data : "", expected) != 0) {
            if (!wrong++)
                fprintf(stderr, "round %zu: \"%.200s\", expected \"%.200s\"\n", round, s.text.data, expected);
        }
        CU_ASSERT(s.rc < 0 || !ws_parser_midway(&p));
        ws_parser_free(&p);
        buf_free(&s.text);
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void expect(struct buf *in, const char *expected)
{
    expect_as(true, MAX, in, expected);
    buf_free(in);
}

/* ------------------------------------------------------------------------- tests */

static void test_messages(void)
{
    struct buf b = BUF_INIT(0);
    masked(&b, 0x81, "hello");
    masked(&b, 0x82, "");
    masked(&b, 0x81, "");
    masked(&b, 0x82, "\xff\xfe");
    masked(&b, 0x89, "ping");
    masked(&b, 0x8a, "");
    masked(&b, 0x88, "");
    expect(&b, "1:hello|2:|1:|2:\xff\xfe|9:ping|10:|8:1005:|");
}

static void test_fragments(void)
{
    struct buf b = BUF_INIT(0);
    masked(&b, 0x01, "he");
    masked(&b, 0x00, "l");
    masked(&b, 0x89, "1");
    masked(&b, 0x00, "");
    masked(&b, 0x8a, "2");
    masked(&b, 0x80, "lo");
    masked(&b, 0x02, "");
    masked(&b, 0x00, "");
    masked(&b, 0x80, "");
    masked(&b, 0x02, "");
    masked(&b, 0x80, "late");
    masked(&b, 0x02, "early");
    masked(&b, 0x80, "");
    masked(&b, 0x81, "next");
    masked(&b, 0x88,
           "\x03\xe8"
           "bye");
    expect(&b, "9:1|10:2|1:hello|2:|2:late|2:early|1:next|8:1000:bye|");
}

static void test_utf8_across(void)
{
    struct buf b = BUF_INIT(0);
    masked(&b, 0x01, "\xe2");
    masked(&b, 0x89, "\xff\x80"); /* a control frame's payload is not part of it */
    masked(&b, 0x00, "\x82");
    masked(&b, 0x80,
           "\xac"
           "x");
    masked(&b, 0x81, "\xf0\x9f\x8e\xa4");
    expect(&b, "9:\xff\x80|1:\xe2\x82\xac"
               "x|1:\xf0\x9f\x8e\xa4|");
    masked(&b, 0x81, "ok");
    masked(&b, 0x81, "\xe2\x82");
    expect(&b, "1:ok|!1007");
    masked(&b, 0x01, "\xe2\x82");
    masked(&b, 0x80, "");
    expect(&b, "!1007");
    masked(&b, 0x01, "a");
    masked(&b, 0x00, "\xed\xa0\x80");
    expect(&b, "!1007");
    masked(&b, 0x82, "\xe2\x82");
    masked(&b, 0x81, "y");
    expect(&b, "2:\xe2\x82|1:y|");
}

/* Known bad before the frame, let alone the message, is over. */
static void test_utf8_early(void)
{
    struct buf b = BUF_INIT(0);
    struct ws_parser p;
    struct seen s = {.text = BUF_INIT(0)};
    char text[1000];
    memset(text, 'a', sizeof text);
    text[500] = (char)0xff;
    frame(&b, 0x01, text, sizeof text, (struct shape){0});
    ws_parser_init(&p, true, MAX);
    feed(&p, &s, b.data, 8 + 500);
    CU_ASSERT_EQUAL(s.rc, 0);
    feed(&p, &s, b.data + 8 + 500, 1);
    CU_ASSERT_EQUAL(s.code, WS_CODE_BAD_UTF8);
    /* broken stays broken */
    size_t used = 99;
    struct ws_event ev;
    CU_ASSERT_EQUAL(ws_parse(&p, (unsigned char *)b.data, b.len, &used, &ev), -1);
    CU_ASSERT_EQUAL(used, 0);
    CU_ASSERT_EQUAL(ev.code, WS_CODE_BAD_UTF8);
    ws_parser_free(&p);
    buf_free(&s.text);
    buf_free(&b);
}

static void test_lengths(void)
{
    static const size_t sizes[] = {124, 125, 126, 127, 128, 300};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct buf b = BUF_INIT(0), want = BUF_INIT(0);
        char data[300];
        memset(data, 'a' + (int)i, sizeof data);
        frame(&b, 0x81, data, sizes[i], (struct shape){0});
        buf_puts(&want, "1:");
        buf_append(&want, data, sizes[i]);
        buf_puts(&want, "|");
        expect(&b, want.data);
        buf_free(&want);
    }
}

static void big_lengths_one(size_t size, size_t max, int want)
{
    struct buf b = BUF_INIT(0);
    char *data = malloc(size);
    struct ws_parser p;
    struct ws_event ev;
    size_t used;
    id_random(data, size);
    frame(&b, 0x82, data, size, (struct shape){0});
    ws_parser_init(&p, true, max);
    int rc = ws_parse(&p, (unsigned char *)b.data, b.len, &used, &ev);
    CU_ASSERT_EQUAL(rc, want);
    if (rc == 1) {
        CU_ASSERT_EQUAL(used, b.len);
        CU_ASSERT(ev.len == size && memcmp(ev.data, data, size) == 0);
    }
    ws_parser_free(&p);
    buf_free(&b);
    free(data);
}

static void test_big_lengths(void)
{
    big_lengths_one(65535, MAX, 1);
    big_lengths_one(65536, MAX, 1);
    big_lengths_one(MAX, MAX, 1);
    big_lengths_one(MAX + 1, MAX, -1);
    big_lengths_one(5000000, 5000000, 1);
}

static void test_headers_refused(void)
{
    struct buf b = BUF_INIT(0);
    for (unsigned rsv = 0x10; rsv <= 0x70; rsv += 0x10) {
        masked(&b, 0x81 | rsv, "x");
        expect(&b, "!1002");
        masked(&b, 0x89 | rsv, "x");
        expect(&b, "!1002");
    }
    static const unsigned reserved[] = {3, 4, 5, 6, 7, 11, 12, 13, 14, 15};
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
        masked(&b, 0x80 | reserved[i], "x");
        expect(&b, "!1002");
    }
    for (unsigned op = 8; op <= 10; op++) {
        masked(&b, op, "x"); /* fragmented */
        expect(&b, "!1002");
        frame(&b, 0x80 | op, "long", 4, (struct shape){.bytes = 2});
        expect(&b, "!1002");
        frame(&b, 0x80 | op, "long", 4, (struct shape){.bytes = 8});
        expect(&b, "!1002");
    }
    char data[126] = "";
    frame(&b, 0x89, data, 126, (struct shape){0});
    expect(&b, "!1002");
    masked(&b, 0x80, "no start");
    expect(&b, "!1002");
    masked(&b, 0x00, "no start");
    expect(&b, "!1002");
    masked(&b, 0x81, "done");
    masked(&b, 0x80, "no start");
    expect(&b, "1:done|!1002");
    masked(&b, 0x01, "open");
    masked(&b, 0x81, "another");
    expect(&b, "!1002");
    masked(&b, 0x02, "open");
    masked(&b, 0x01, "another");
    expect(&b, "!1002");
    frame(&b, 0x81, "x", 1, (struct shape){.unmasked = true});
    expect(&b, "!1002");
    frame(&b, 0x82, data, 125, (struct shape){.bytes = 2});
    expect(&b, "!1002");
    frame(&b, 0x82, data, 125, (struct shape){.bytes = 8});
    expect(&b, "!1002");
    char *long_data = calloc(1, 65535);
    frame(&b, 0x82, long_data, 65535, (struct shape){.bytes = 8});
    b.len = 100;
    expect(&b, "!1002");
    free(long_data);
    buf_append(&b, "\x82\xff\x80\0\0\0\0\0\0\1mask", 14); /* the top bit of a length */
    expect(&b, "!1002");
    buf_append(&b, "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask", 14); /* the longest legal one */
    expect(&b, "!1009");
}

/* The side that connects: frames must come bare. */
static void test_client_side(void)
{
    struct buf b = BUF_INIT(0);
    frame(&b, 0x81, "from the server", 15, (struct shape){.unmasked = true});
    frame(&b, 0x88, "\x03\xe9", 2, (struct shape){.unmasked = true});
    expect_as(false, MAX, &b, "1:from the server|8:1001:|");
    buf_free(&b);
    masked(&b, 0x81, "masked");
    expect_as(false, MAX, &b, "!1002");
    buf_free(&b);
}

static void test_too_big(void)
{
    struct buf b = BUF_INIT(0);
    masked(&b, 0x82, "12345678");
    masked(&b, 0x02, "1234");
    masked(&b, 0x80, "5678");
    expect_as(true, 8, &b, "2:12345678|2:12345678|");
    masked(&b, 0x02, "123456789");
    expect_as(true, 8, &b, "2:12345678|2:12345678|!1009");
    buf_free(&b);
    masked(&b, 0x02, "1234");
    masked(&b, 0x00, "5678");
    masked(&b, 0x80, "9");
    expect_as(true, 8, &b, "!1009");
    buf_free(&b);
    /* Told from the header: not one byte of the payload is needed. */
    struct ws_parser p;
    struct seen s = {.text = BUF_INIT(0)};
    masked(&b, 0x82, "123456789");
    ws_parser_init(&p, true, 8);
    feed(&p, &s, b.data, 6);
    CU_ASSERT_EQUAL(s.code, WS_CODE_TOO_BIG);
    ws_parser_free(&p);
    buf_free(&s.text);
    buf_free(&b);
}

static void test_close(void)
{
    struct buf b = BUF_INIT(0);
    masked(&b, 0x88, "\x03"); /* half a code */
    expect(&b, "!1002");
    masked(&b, 0x89, "\x03\xe8");
    masked(&b, 0x88, "\x03"); /* half a code, behind what would complete it */
    expect(&b, "9:\x03\xe8|!1002");
    masked(&b, 0x88, "\x03\xe8\xff"); /* a reason that is no text */
    expect(&b, "!1007");
    masked(&b, 0x88, "\x03\xe8\xe2\x82");
    expect(&b, "!1007");
    char reason[126];
    memset(reason, 'r', sizeof reason);
    memcpy(reason, "\x0f\xa0", 2);
    frame(&b, 0x88, reason, 125, (struct shape){0});
    struct buf want = BUF_INIT(0);
    buf_printf(&want, "8:4000:%.123s|", reason + 2);
    expect(&b, want.data);
    buf_free(&want);
    for (unsigned code = 0; code < 65536; code += code < 5100 ? 1 : 777) {
        /* RFC 6455 7.4.2 and the IANA registry (1012 to 1014); 1004 has no meaning, 1005, 1006, 1015 never travel. */
        bool valid = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
        CU_ASSERT_EQUAL(ws_code_valid((uint16_t)code), valid);
        char payload[2] = {(char)(code >> 8), (char)code};
        struct ws_parser p;
        struct seen s = {.text = BUF_INIT(0)};
        frame(&b, 0x88, payload, 2, (struct shape){0});
        ws_parser_init(&p, true, MAX);
        feed(&p, &s, b.data, b.len);
        CU_ASSERT_EQUAL(s.rc < 0, !valid);
        ws_parser_free(&p);
        buf_free(&s.text);
        buf_free(&b);
    }
}

/* A phone's 100 ms of audio that comes whole is handed over where it lies. */
static void test_not_copied(void)
{
    unsigned char audio[3200];
    struct buf b = BUF_INIT(0);
    struct ws_parser p;
    struct ws_event ev;
    size_t used;
    id_random(audio, sizeof audio);
    frame(&b, 0x82, audio, sizeof audio, (struct shape){0});
    masked(&b, 0x81, "after");
    ws_parser_init(&p, true, MAX);
    CU_ASSERT_EQUAL(ws_parse(&p, (unsigned char *)b.data, b.len, &used, &ev), 1);
    CU_ASSERT_PTR_EQUAL(ev.data, b.data + 8);
    CU_ASSERT_EQUAL(used, 3208);
    CU_ASSERT(ev.len == sizeof audio && memcmp(ev.data, audio, sizeof audio) == 0);
    CU_ASSERT_EQUAL(p.message.cap, 0);
    CU_ASSERT_EQUAL(ws_parse(&p, (unsigned char *)b.data + used, b.len - used, &used, &ev), 1);
    CU_ASSERT(ev.len == 5 && memcmp(ev.data, "after", 5) == 0);
    ws_parser_free(&p);
    buf_free(&b);
    /* The header alone, then the payload whole: not copied either. */
    frame(&b, 0x82, audio, sizeof audio, (struct shape){0});
    ws_parser_init(&p, true, MAX);
    CU_ASSERT_EQUAL(ws_parse(&p, (unsigned char *)b.data, 8, &used, &ev), 0);
    CU_ASSERT(ws_parser_midway(&p));
    CU_ASSERT_EQUAL(ws_parse(&p, (unsigned char *)b.data + 8, b.len - 8, &used, &ev), 1);
    CU_ASSERT_PTR_EQUAL(ev.data, b.data + 8);
    CU_ASSERT(memcmp(ev.data, audio, sizeof audio) == 0);
    CU_ASSERT(!ws_parser_midway(&p));
    ws_parser_free(&p);
    buf_free(&b);
}

static void test_memory(void)
{
    /* A large message that came in pieces leaves no large buffer behind. */
    char *data = calloc(1, 60000);
    struct buf b = BUF_INIT(0);
    struct ws_parser p;
    struct seen s = {.text = BUF_INIT(0)};
    frame(&b, 0x82, data, 60000, (struct shape){0});
    masked(&b, 0x89, "x");
    ws_parser_init(&p, true, MAX);
    feed(&p, &s, b.data, 100);
    CU_ASSERT(p.message.cap < 1000); /* what was announced is not yet paid for */
    feed(&p, &s, b.data + 100, b.len - 100);
    CU_ASSERT(p.message.cap < 10000);
    ws_parser_free(&p);
    buf_free(&s.text);
    buf_free(&b);
    free(data);
}

static void test_midway(void)
{
    struct buf b = BUF_INIT(0);
    struct ws_parser p;
    struct seen s = {.text = BUF_INIT(0)};
    masked(&b, 0x01, "ab");
    masked(&b, 0x89, "");
    masked(&b, 0x80, "c");
    ws_parser_init(&p, true, MAX);
    CU_ASSERT(!ws_parser_midway(&p));
    for (size_t i = 0; i < b.len; i++) {
        feed(&p, &s, b.data + i, 1);
        CU_ASSERT_EQUAL(ws_parser_midway(&p), i + 1 < b.len);
    }
    ws_parser_free(&p);
    buf_free(&s.text);
    buf_free(&b);
}

/* Noise after a true start: never a crash, a byte read behind the piece, or an endless loop. */
static void test_noise(void)
{
    for (int i = 0; i < 20000; i++) {
        unsigned char in[80];
        struct ws_parser p;
        struct seen s = {.text = BUF_INIT(0)};
        id_random(in, sizeof in);
        if (i % 2) {
            in[0] = (unsigned char)(in[0] & 0x8b);
            in[1] = (unsigned char)(0x80 | (in[1] & 31));
        }
        ws_parser_init(&p, i % 3 != 0, 40);
        for (size_t at = 0; at < sizeof in && s.rc >= 0;) {
            size_t n = 1 + id_random_u64() % (sizeof in - at);
            feed(&p, &s, (char *)in + at, n);
            CU_ASSERT(p.message.len <= 40);
            at += n;
        }
        ws_parser_free(&p);
        buf_free(&s.text);
    }
}

/* ---------------------------------------------------------------------- building */

static void test_mask(void)
{
    uint8_t mask[4];
    unsigned char data[200], expected[200];
    id_random(mask, 4);
    size_t wrong = 0;
    for (size_t start = 0; start < 9; start++) {
        for (size_t len = 0; len < 100; len++) {
            for (unsigned at = 0; at < 4; at++) {
                id_random(data, sizeof data);
                memcpy(expected, data, sizeof data);
                for (size_t i = 0; i < len; i++)
                    expected[start + i] ^= mask[(at + i) % 4];
                ws_mask(data + start, len, mask, at);
                wrong += memcmp(data, expected, sizeof data) != 0;
            }
        }
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void test_build(void)
{
    struct buf b = BUF_INIT(0);
    CU_ASSERT(ws_build(&b, WS_TEXT, "Hello", 5, false));
    CU_ASSERT(b.len == 7 && memcmp(b.data, "\x81\x05Hello", 7) == 0); /* RFC 6455, 5.7 */
    buf_clear(&b);
    unsigned char head[WS_MAX_HEADER];
    CU_ASSERT(ws_header(head, WS_BINARY, 125, NULL) == 2 && memcmp(head, "\x82\x7d", 2) == 0);
    CU_ASSERT(ws_header(head, WS_BINARY, 256, NULL) == 4 && memcmp(head, "\x82\x7e\x01\x00", 4) == 0);
    CU_ASSERT(ws_header(head, WS_BINARY, 65536, NULL) == 10 && memcmp(head, "\x82\x7f\0\0\0\0\0\1\0\0", 10) == 0);
    CU_ASSERT(ws_header(head, WS_PONG, 5, (const uint8_t *)"abcd") == 6 && memcmp(head,
                                                                                  "\x8a\x85"
                                                                                  "abcd",
                                                                                  6) == 0);
    /* What a client builds the parser of a server takes; the mask is fresh each time. */
    struct ws_parser p;
    struct seen s = {.text = BUF_INIT(0)};
    for (int i = 0; i < 3; i++)
        CU_ASSERT(ws_build(&b, WS_TEXT, "same text", 9, true));
    CU_ASSERT(memcmp(b.data + 2, b.data + 17, 4) != 0 || memcmp(b.data + 2, b.data + 32, 4) != 0);
    ws_parser_init(&p, true, MAX);
    feed(&p, &s, b.data, b.len);
    CU_ASSERT_STRING_EQUAL(s.text.data, "1:same text|1:same text|1:same text|");
    ws_parser_free(&p);
    buf_free(&s.text);
    buf_free(&b);
    b = BUF_INIT(10);
    CU_ASSERT(!ws_build(&b, WS_TEXT, "too much", 9, false));
    CU_ASSERT_EQUAL(b.len, 0);
    buf_free(&b);
}

static void test_close_payload(void)
{
    unsigned char out[WS_MAX_CONTROL];
    char reason[200];
    CU_ASSERT(ws_close_payload(out, 1000, "bye") == 5 && memcmp(out,
                                                                "\x03\xe8"
                                                                "bye",
                                                                5) == 0);
    CU_ASSERT_EQUAL(ws_close_payload(out, 1001, NULL), 2);
    CU_ASSERT_EQUAL(ws_close_payload(out, WS_CODE_NONE, "x"), 0);
    CU_ASSERT_EQUAL(ws_close_payload(out, WS_CODE_ABNORMAL, "x"), 0);
    memset(reason, 'a', sizeof reason);
    reason[199] = 0;
    CU_ASSERT_EQUAL(ws_close_payload(out, 1000, reason), 125);
    memcpy(reason + 121, "\xe2\x82\xac", 3); /* ends beyond the bound */
    CU_ASSERT_EQUAL(ws_close_payload(out, 1000, reason), 2 + 121);
    memcpy(reason + 120, "\xe2\x82\xac", 3); /* ends at it */
    CU_ASSERT_EQUAL(ws_close_payload(out, 1000, reason), 2 + 123);
    CU_ASSERT_EQUAL(ws_close_payload(out, 1000, "ok\xff more"), 4);
}

static void test_keys(void)
{
    char out[32];
    ws_accept_key("dGhlIHNhbXBsZSBub25jZQ==", 24, out); /* RFC 6455, 1.3 */
    CU_ASSERT_STRING_EQUAL(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    CU_ASSERT(ws_key_valid("dGhlIHNhbXBsZSBub25jZQ==", 24));
    CU_ASSERT(!ws_key_valid("dGhlIHNhbXBsZSBub25jZQ==", 23));
    CU_ASSERT(!ws_key_valid("dGhlIHNhbXBsZSBub25jZQ=A", 24));
    CU_ASSERT(!ws_key_valid("dGhlIHNhbXBsZSBub25jZQA=", 24));
    CU_ASSERT(!ws_key_valid("dGhlIHNhb!BsZSBub25jZQ==", 24));
    CU_ASSERT(!ws_key_valid("", 0));
}

int main(void)
{
    CU_TestInfo parsing[] = {{"messages", test_messages},
                             {"fragments", test_fragments},
                             {"UTF-8 across frames", test_utf8_across},
                             {"UTF-8 fails early", test_utf8_early},
                             {"lengths", test_lengths},
                             {"long lengths", test_big_lengths},
                             {"headers refused", test_headers_refused},
                             {"client side", test_client_side},
                             {"too big", test_too_big},
                             {"close", test_close},
                             {"not copied", test_not_copied},
                             {"memory", test_memory},
                             {"midway", test_midway},
                             {"noise", test_noise},
                             CU_TEST_INFO_NULL};
    CU_TestInfo building[] = {{"mask", test_mask},
                              {"build", test_build},
                              {"close payload", test_close_payload},
                              {"keys", test_keys},
                              CU_TEST_INFO_NULL};
    CU_SuiteInfo suites[] = {{"parsing", NULL, NULL, NULL, NULL, parsing},
                             {"building", NULL, NULL, NULL, NULL, building},
                             CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
