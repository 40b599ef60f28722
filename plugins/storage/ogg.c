/*
 * Opus in Ogg (RFC 7845): one logical stream a batch, 20 ms a packet. The granule of the last page is the batch's
 * length to the sample: what the encoder needs before (pre-skip) and the last packet has too much of is cut by players.
 */
#include <ogg/ogg.h>
#include <opus/opus.h>
#include <string.h>

#include "storage.h"

#define FRAMES 50 /* a second */
#define PACKET_MAX 4000
#define PAGE_PACKETS 50 /* a second a page: what a player may seek to */
#define PRE_SKIP_MAX 48000

struct out {
    unsigned char *data;
    size_t len, cap;
    bool failed;
};

static void out_add(struct out *o, const void *data, size_t len)
{
    if (len == 0)
        return;
    if (o->len + len > o->cap) {
        size_t cap = 2 * (o->len + len) + 4096;
        unsigned char *more = realloc(o->data, cap);
        if (more == NULL) {
            o->failed = true;
            return;
        }
        o->data = more;
        o->cap = cap;
    }
    memcpy(o->data + o->len, data, len);
    o->len += len;
}

static void out_pages(struct out *o, ogg_stream_state *s, bool flush)
{
    ogg_page page;
    while ((flush ? ogg_stream_flush(s, &page) : ogg_stream_pageout(s, &page)) != 0) {
        out_add(o, page.header, (size_t)page.header_len);
        out_add(o, page.body, (size_t)page.body_len);
    }
}

static void put16(unsigned char *p, unsigned v)
{
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *p, uint32_t v)
{
    put16(p, v & 0xffff);
    put16(p + 2, v >> 16);
}

static void headers(struct out *o, ogg_stream_state *s, unsigned pre_skip, uint32_t rate)
{
    static const char vendor[] = "omid";
    unsigned char head[19] = "OpusHead\1\1", tags[8 + 4 + sizeof(vendor) - 1 + 4] = "OpusTags";
    put16(head + 10, pre_skip);
    put32(head + 12, rate);
    put16(head + 16, 0); /* gain */
    head[18] = 0;        /* mapping family */
    ogg_packet p = {.packet = head, .bytes = sizeof(head), .b_o_s = 1};
    ogg_stream_packetin(s, &p);
    out_pages(o, s, true);
    put32(tags + 8, sizeof(vendor) - 1);
    memcpy(tags + 12, vendor, sizeof(vendor) - 1);
    put32(tags + 12 + sizeof(vendor) - 1, 0);
    p = (ogg_packet){.packet = tags, .bytes = sizeof(tags), .packetno = 1};
    ogg_stream_packetin(s, &p);
    out_pages(o, s, true);
}

static bool packets(struct out *o, ogg_stream_state *s, OpusEncoder *e, const int16_t *pcm, size_t n, uint32_t rate,
                    unsigned pre_skip)
{
    size_t frame = rate / FRAMES, per48 = 48000 / rate;
    uint64_t end = pre_skip + (uint64_t)n * per48; /* in 48ths of a ms: Opus's granules */
    int16_t last[960];
    unsigned char packet[PACKET_MAX];
    for (uint64_t i = 0; i * 960 < end || i == 0; i++) {
        const int16_t *from = last;
        size_t at = (size_t)i * frame, have = at < n ? (n - at < frame ? n - at : frame) : 0;
        if (have == frame) {
            from = pcm + at;
        } else {
            memset(last, 0, sizeof(last));
            if (have > 0)
                memcpy(last, pcm + at, have * sizeof(*pcm));
        }
        opus_int32 len = opus_encode(e, from, (int)frame, packet, sizeof(packet));
        if (len < 0)
            return false;
        bool over = (i + 1) * 960 >= end;
        ogg_packet p = {.packet = packet,
                        .bytes = len,
                        .e_o_s = over,
                        .granulepos = (ogg_int64_t)(over ? end : (i + 1) * 960),
                        .packetno = (ogg_int64_t)i + 2};
        ogg_stream_packetin(s, &p);
        out_pages(o, s, over || (i + 1) % PAGE_PACKETS == 0);
    }
    return true;
}

/* Opus's own rates are kept, others become the next of them. */
static uint32_t opus_rate(uint32_t rate)
{
    static const uint32_t rates[] = {8000, 12000, 16000, 24000};
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
        if (rate <= rates[i])
            return rates[i];
    }
    return 48000;
}

unsigned char *encode_ogg(const int16_t *given, size_t samples, uint32_t rate, int bitrate, uint32_t serial,
                          size_t *len)
{
    uint32_t to = opus_rate(rate);
    size_t n = samples;
    int err = OPUS_OK, lookahead = 0;
    struct out o = {0};
    ogg_stream_state s;
    int16_t *other = to != rate ? resample(given, samples, rate, to, &n) : NULL;
    const int16_t *pcm = to != rate ? other : given;
    OpusEncoder *e = pcm != NULL ? opus_encoder_create((opus_int32)to, 1, OPUS_APPLICATION_VOIP, &err) : NULL;
    bool ok = e != NULL && opus_encoder_ctl(e, OPUS_SET_BITRATE(bitrate)) == OPUS_OK &&
              opus_encoder_ctl(e, OPUS_GET_LOOKAHEAD(&lookahead)) == OPUS_OK;
    if (ok && ogg_stream_init(&s, (int)serial) == 0) {
        unsigned pre_skip = (unsigned)lookahead * (48000 / to);
        headers(&o, &s, pre_skip, rate);
        ok = packets(&o, &s, e, pcm, n, to, pre_skip);
        ogg_stream_clear(&s);
    } else {
        ok = false;
    }
    opus_encoder_destroy(e);
    free(other);
    if (!ok || o.failed) {
        free(o.data);
        return NULL;
    }
    *len = o.len;
    return o.data;
}

/* -------------------------------------------------------------------- back */

struct decoding {
    OpusDecoder *decoder;
    int16_t *pcm;
    size_t n, cap;
    unsigned pre_skip; /* of what is decoded at RATE */
    uint64_t end;      /* granule of the last page, 0: none yet */
    unsigned packets;
    bool failed;
};

static void take_packet(struct decoding *d, const ogg_packet *p)
{
    unsigned number = d->packets++;
    if (number == 0) {
        d->failed |= p->bytes < 19 || memcmp(p->packet, "OpusHead", 8) != 0 || p->packet[9] != 1;
        if (!d->failed)
            d->pre_skip = ((unsigned)p->packet[10] | (unsigned)p->packet[11] << 8) * RATE / 48000;
        return;
    }
    if (number == 1)
        return;                     /* tags */
    if (d->cap - d->n < RATE / 8) { /* the longest packet has 120 ms */
        size_t cap = 2 * d->cap + RATE;
        int16_t *more = realloc(d->pcm, cap * sizeof(*more));
        d->failed |= more == NULL;
        if (more == NULL)
            return;
        d->pcm = more;
        d->cap = cap;
    }
    int n = opus_decode(d->decoder, p->packet, (opus_int32)p->bytes, d->pcm + d->n, RATE / 8, 0);
    if (n > 0)
        d->n += (size_t)n;
    if (p->granulepos > 0)
        d->end = (uint64_t)p->granulepos;
}

int16_t *decode_ogg(const unsigned char *data, size_t len, size_t *samples)
{
    ogg_sync_state y;
    ogg_stream_state s;
    ogg_page page;
    ogg_packet packet;
    int err = OPUS_OK;
    struct decoding d = {.decoder = opus_decoder_create(RATE, 1, &err)};
    bool begun = false;
    ogg_sync_init(&y);
    char *to = d.decoder != NULL ? ogg_sync_buffer(&y, (long)len) : NULL;
    d.failed = to == NULL;
    if (to != NULL) {
        memcpy(to, data, len);
        ogg_sync_wrote(&y, (long)len);
    }
    for (int rc; !d.failed && (rc = ogg_sync_pageout(&y, &page)) != 0;) {
        if (rc < 0)
            continue; /* bytes that are no page */
        if (!begun && (d.failed = ogg_stream_init(&s, ogg_page_serialno(&page)) != 0))
            break;
        begun = true;
        if (ogg_stream_pagein(&s, &page) != 0)
            continue;
        while (!d.failed && ogg_stream_packetout(&s, &packet) != 0)
            take_packet(&d, &packet);
    }
    if (begun)
        ogg_stream_clear(&s);
    ogg_sync_clear(&y);
    if (d.decoder != NULL)
        opus_decoder_destroy(d.decoder);
    uint64_t end = d.end * RATE / 48000, n = end < d.n ? end : d.n;
    if (d.failed || !begun || n < d.pre_skip || d.packets < 3) {
        free(d.pcm);
        return NULL;
    }
    *samples = (size_t)n - d.pre_skip;
    memmove(d.pcm, d.pcm + d.pre_skip, *samples * sizeof(*d.pcm));
    return d.pcm;
}
