/* A recording as Opus: what omictl listen sends with --codec opus and opus_fs320. */
#ifndef OMID_CTL_OPUS_H
#define OMID_CTL_OPUS_H

#include <stdbool.h>
#include <stddef.h>

#include "ctl/audio.h"

struct opus_packet {
    size_t at, len; /* within struct opus_packets.data */
};
struct opus_packets {
    unsigned char *data;
    struct opus_packet *packet;
    size_t n;
    unsigned samples; /* of each, at 16 kHz */
};

/* Brings the audio to 16 kHz, and encodes it in packets of ms (10 or 20) milliseconds, the last filled with silence.
 * false with a reason. */
bool opus_make(struct opus_packets *p, struct audio *a, unsigned ms, char *err, size_t errlen);
void opus_free(struct opus_packets *p);

#endif
