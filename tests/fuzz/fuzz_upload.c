/*
 * What an upload may hold: a multipart body, and recordings of every kind. The first byte says which. Whatever it is,
 * it is refused with a reason, or read within its bounds.
 */
#include <fcntl.h>
#include <omid/plugin.h>
#include <string.h>
#include <unistd.h>

#include "formats/multipart.h"
#include "fuzz.h"
#include "session/codec.h"
#include "session/recording.h"

#define PARTS 8
#define SAMPLES (10 * RECORDING_RATE)

static void body(const char *text, size_t len)
{
    struct multipart_part part[PARTS];
    size_t n;
    char err[200] = "";
    if (!multipart_parse("B", text, len, part, PARTS, &n, err, sizeof(err))) {
        FUZZ_CHECK(err[0] != '\0' && n <= PARTS);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const char *data = (const char *)part[i].data;
        FUZZ_CHECK(data >= text && data + part[i].len <= text + len);
        FUZZ_CHECK(strpbrk(part[i].filename, "/\\") == NULL && strcmp(part[i].filename, "..") != 0);
        (void)recording_name_time(part[i].filename);
    }
}

static void type(const char *text, size_t len)
{
    char boundary[MULTIPART_MAX_BOUNDARY + 1], err[200] = "";
    char *copy = strndup(text, len);
    FUZZ_CHECK(copy != NULL);
    if (multipart_boundary(copy, boundary, err, sizeof(err)))
        FUZZ_CHECK(boundary[0] != '\0');
    else
        FUZZ_CHECK(err[0] != '\0');
    free(copy);
}

static void recording(enum recording_format format, const void *data, size_t len)
{
    static int null = -1;
    uint64_t samples = 0;
    char err[256] = "";
    if (null < 0) {
        codec_setup();
        null = open("/dev/null", O_WRONLY);
    }
    int rc = recording_decode(format, data, len, SAMPLES, null, &samples, err, sizeof(err));
    FUZZ_CHECK(samples <= SAMPLES);
    FUZZ_CHECK(rc == OMID_OK || (rc == OMID_EINVAL && err[0] != '\0'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    char *copy = malloc(size); /* of just this size, for the sanitizers */
    FUZZ_CHECK(copy != NULL);
    memcpy(copy, data + 1, size - 1);
    switch (data[0] % 5) {
    case 0:
        body(copy, size - 1);
        break;
    case 1:
        type(copy, size - 1);
        break;
    default:
        recording((enum recording_format)(data[0] % 5 - 1), copy, size - 1);
        break;
    }
    free(copy);
    return 0;
}
