/*
 * Decoders of what clients send: one packet in, s16 mono samples at the rate that the session runs at out. A decoder
 * belongs to one channel of one session. A packet that does not decode is dropped and counted
 * (omid_listen_undecoded_total), and the decoder goes on with the next. Reactor thread.
 */
#ifndef OMID_SESSION_CODEC_H
#define OMID_SESSION_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As in the query parameter `codec`. */
enum listen_codec {
    CODEC_PCM8,
    CODEC_PCM16,
    CODEC_OPUS,
    CODEC_OPUS_FS320,
    CODEC_AAC,
    CODEC_LC3,
    CODEC_LC3_FS1030,
    CODEC_UNKNOWN,
};

/* Opus and LC3 decode at this rate, whatever the client says; so does every channel of a multi-channel session. */
#define CODEC_RATE 16000
/* What one packet of a compressed codec may decode to; the rest of it is dropped. */
#define CODEC_MAX_SECONDS 5
/* So many damaged frames in one packet, and the rest of it is not looked at: a large one of rubbish must not hold up
 * the reactor. */
#define CODEC_MAX_DAMAGED 100

/* Samples in a buffer that grows and is used again. Zero it before the first use. */
struct pcm {
    int16_t *data;
    size_t n, cap;
};
/* Room for `more` samples behind n. false: no memory, nothing changed. */
bool pcm_reserve(struct pcm *p, size_t more);
bool pcm_append(struct pcm *p, const int16_t *data, size_t n);
void pcm_free(struct pcm *p);

struct decoder_params {
    enum listen_codec codec;
    bool pcm8_u8;      /* pcm8 means unsigned 8-bit samples */
    uint32_t in_rate;  /* of pcm8 and pcm16, Hz; the others know their own */
    uint32_t out_rate; /* Hz; differs from what comes in: resampled */
};

/* Why packets, or frames of them, were dropped. */
struct decoder_drops {
    unsigned malformed; /* do not decode */
    unsigned too_long;  /* decode to more than the codec's bound */
    unsigned memory;    /* no memory */
};

struct decoder;

/* "pcm8", ...; "unknown". Static. */
const char *codec_name(enum listen_codec codec);
enum listen_codec codec_find(const char *name);
/* The rate of the session's audio: what a client of this codec that claims sample_rate gets. Hz. */
long codec_session_rate(enum listen_codec codec, long channels, long sample_rate);
/* Once per process, before the first decoder: tables of the libraries, and the counters from zero. Any thread. */
void codec_setup(void);

/* NULL: no memory, or a library refuses its parameters. Its memory is charged to the budget of sessions. */
struct decoder *decoder_new(const struct decoder_params *p);
/* Appends the samples of one packet to out, none for one that is dropped. What was dropped is counted, and told in
 * *drops if it is not NULL. Any bytes, any length. */
void decoder_packet(struct decoder *d, const unsigned char *data, size_t len, struct pcm *out,
                    struct decoder_drops *drops);
/* Bytes charged to the budget. */
size_t decoder_bytes(const struct decoder *d);
void decoder_free(struct decoder **d);

#endif
