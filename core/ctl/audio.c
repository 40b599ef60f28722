#include "ctl/audio.h"
#include "formats/wav.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FILE (2ull << 30)

static unsigned char *file_read(const char *path, size_t *len, char *err, size_t errlen)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    unsigned char *bytes = NULL;
    if (!f || fstat(fileno(f), &st) != 0) {
        snprintf(err, errlen, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        snprintf(err, errlen, "%s: not a regular file", path);
    } else if ((unsigned long long)st.st_size > MAX_FILE) {
        snprintf(err, errlen, "%s: longer than 2 GiB", path);
    } else if (!(bytes = malloc((size_t)st.st_size + 1))) {
        snprintf(err, errlen, "%s: no memory", path);
    } else {
        *len = fread(bytes, 1, (size_t)st.st_size, f);
        if (ferror(f)) {
            snprintf(err, errlen, "%s: %s", path, strerror(errno));
            free(bytes);
            bytes = NULL;
        }
    }
    if (f)
        fclose(f);
    return bytes;
}

static bool wav_decode(struct audio *a, const struct wav *w)
{
    a->samples = w->frames;
    a->sample_rate = w->sample_rate;
    a->pcm = malloc((a->samples + 1) * sizeof *a->pcm);
    if (a->pcm)
        wav_mono(w, 0, w->frames, a->pcm);
    return a->pcm != NULL;
}

bool audio_load(struct audio *a, const char *path, unsigned raw_rate, char *err, size_t errlen)
{
    size_t len = 0;
    bool ok = false;
    *a = (struct audio){0};
    unsigned char *bytes = file_read(path, &len, err, errlen);
    if (!bytes)
        return false;
    if (raw_rate > 0) {
        a->samples = len / 2;
        a->sample_rate = raw_rate;
        a->pcm = malloc(len + 2);
        ok = a->pcm != NULL;
        for (size_t i = 0; ok && i < a->samples; i++)
            a->pcm[i] = (int16_t)(uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
    } else {
        struct wav w;
        char why[128];
        if (!wav_parse(&w, bytes, len, why, sizeof why))
            snprintf(err, errlen, "%s: %s (--raw --rate HZ for headerless s16le)", path, why);
        else
            ok = wav_decode(a, &w);
        if (ok && w.truncated)
            fprintf(stderr, "%s: the header promises more audio than there is; streaming what is there\n", path);
    }
    free(bytes);
    if (ok && a->samples == 0) {
        snprintf(err, errlen, "%s: holds no audio", path);
        audio_free(a);
        ok = false;
    }
    return ok;
}

void audio_free(struct audio *a)
{
    free(a->pcm);
    *a = (struct audio){0};
}
