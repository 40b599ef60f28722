/* WAV files, and rates. Executor. */
#include <string.h>

#include <speex/speex_resampler.h>

#include "formats/wav.h"
#include "storage.h"

unsigned char *encode_wav(const int16_t *pcm, size_t samples, uint32_t rate, size_t *len)
{
    *len = wav_size(samples);
    unsigned char *out = samples <= WAV_MAX_SAMPLES ? malloc(*len) : NULL;
    if (out != NULL)
        wav_write(out, pcm, samples, rate);
    return out;
}

int16_t *resample(const int16_t *pcm, size_t n, uint32_t from, uint32_t to, size_t *n_out)
{
    size_t want = (size_t)((uint64_t)n * to / from), done = 0, taken = 0;
    int16_t *out = malloc((want + 1) * sizeof(*out));
    *n_out = want;
    if (out == NULL || from == to) {
        if (out != NULL)
            memcpy(out, pcm, n * sizeof(*pcm));
        return out;
    }
    int err = 0;
    SpeexResamplerState *state = speex_resampler_init(1, from, to, 5, &err);
    if (state == NULL) {
        free(out);
        return NULL;
    }
    speex_resampler_skip_zeros(state);
    static const int16_t silence[1024];
    while (done < want) { /* what is in the filter at the end comes out with silence behind it */
        const int16_t *in = taken < n ? pcm + taken : silence;
        size_t left = taken < n ? n - taken : sizeof(silence) / sizeof(silence[0]);
        spx_uint32_t in_len = left < 1u << 20 ? (spx_uint32_t)left : 1u << 20;
        spx_uint32_t out_len = want - done < 1u << 20 ? (spx_uint32_t)(want - done) : 1u << 20;
        if (speex_resampler_process_int(state, 0, in, &in_len, out + done, &out_len) != RESAMPLER_ERR_SUCCESS ||
            (in_len == 0 && out_len == 0))
            break;
        taken = taken < n ? taken + in_len : taken;
        done += out_len;
    }
    speex_resampler_destroy(state);
    memset(out + done, 0, (want - done) * sizeof(*out));
    return out;
}

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Our own files: what encode_wav() made, perhaps cut. */
int16_t *decode_wav(const unsigned char *data, size_t len, size_t *samples)
{
    if (len < WAV_HEADER_LEN || memcmp(data, "RIFF", 4) != 0 || memcmp(data + 8, "WAVEfmt ", 8) != 0 ||
        memcmp(data + 36, "data", 4) != 0)
        return NULL;
    uint32_t rate = get32(data + 24);
    size_t n = (len - WAV_HEADER_LEN) / 2, said = get32(data + 40) / 2;
    n = n < said ? n : said;
    if (rate < 8000 || rate > 48000)
        return NULL;
    int16_t *pcm = malloc((n + 1) * sizeof(*pcm));
    for (size_t i = 0; pcm != NULL && i < n; i++) {
        const unsigned char *p = data + WAV_HEADER_LEN + 2 * i;
        pcm[i] = (int16_t)(uint16_t)(p[0] | p[1] << 8);
    }
    if (pcm == NULL || rate == RATE) {
        *samples = n;
        return pcm;
    }
    int16_t *out = resample(pcm, n, rate, RATE, samples);
    free(pcm);
    return out;
}
