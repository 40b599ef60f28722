/*
 * Audio as clients send it, for every codec. The first byte: codec, and whether the session runs at another rate than
 * the client; then packets, each with its length before it (two bytes, little endian; the last may be cut). Whatever it
 * is, a decoder drops it or gives samples within its bounds, and gives its memory back.
 */
#include <string.h>

#include "bus/channel.h"
#include "fuzz.h"
#include "session/codec.h"

#define MAX_DELAYED 8192 /* what a stream codec may have kept of messages before, in samples */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct decoder_params p = {.codec = (enum listen_codec)(data[0] % CODEC_UNKNOWN),
                               .pcm8_u8 = data[0] & 0x40,
                               .in_rate = data[0] & 0x20 ? 44100 : 8000,
                               .out_rate = data[0] & 0x80 ? 8000 : CODEC_RATE};
    struct decoder *d = decoder_new(&p);
    struct pcm out = {0};
    FUZZ_CHECK(d != NULL);
    for (size_t at = 1; at + 2 <= size;) {
        struct decoder_drops drops;
        size_t len = data[at] | (size_t)data[at + 1] << 8;
        at += 2;
        if (len > size - at)
            len = size - at;
        uint8_t *packet = malloc(len > 0 ? len : 1); /* of just this size, for the sanitizers */
        FUZZ_CHECK(packet != NULL);
        memcpy(packet, data + at, len);
        out.n = 0;
        decoder_packet(d, packet, len, &out, &drops);
        FUZZ_CHECK(out.n <= out.cap && drops.memory == 0);
        FUZZ_CHECK(out.n <= (size_t)CODEC_MAX_SECONDS * CODEC_RATE + MAX_DELAYED);
        FUZZ_CHECK(budget_used() == decoder_bytes(d));
        free(packet);
        at += len;
    }
    decoder_free(&d);
    pcm_free(&out);
    FUZZ_CHECK(budget_used() == 0);
    return 0;
}
