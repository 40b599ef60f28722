/* What is known of codecs without their libraries. */
#include <string.h>

#include "base/magic.h"
#include "session/codec.h"

static const char *const names[] = {
    [CODEC_PCM8] = "pcm8",
    [CODEC_PCM16] = "pcm16",
    [CODEC_OPUS] = "opus",
    [CODEC_OPUS_FS320] = "opus_fs320",
    [CODEC_AAC] = "aac",
    [CODEC_LC3] = "lc3",
    [CODEC_LC3_FS1030] = "lc3_fs1030",
};

const char *codec_name(enum listen_codec codec)
{
    return (size_t)codec < ARRAY_LEN(names) ? names[codec] : "unknown";
}

enum listen_codec codec_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum listen_codec)i;
    }
    return CODEC_UNKNOWN;
}

long codec_session_rate(enum listen_codec codec, long channels, long sample_rate)
{
    if (channels > 1)
        return CODEC_RATE;
    switch (codec) {
    case CODEC_OPUS:
    case CODEC_OPUS_FS320:
    case CODEC_LC3:
    case CODEC_LC3_FS1030:
        return CODEC_RATE;
    default:
        return sample_rate;
    }
}
