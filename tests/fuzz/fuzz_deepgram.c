/* What the speech-to-text provider sends. */
#include <math.h>
#include <string.h>

#include "deepgram.h"
#include "fuzz.h"

#define MAX_MESSAGE 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dg_message m;
    dg_message_parse(&m, (const char *)data, size, MAX_MESSAGE);
    FUZZ_CHECK(m.kind < DG_KINDS);
    FUZZ_CHECK(m.n == 0 || m.kind == DG_RESULTS);
    for (size_t i = 0; i < m.n; i++) {
        const struct omid_stt_segment *s = &m.segments[i];
        FUZZ_CHECK(s->text[0] != '\0' && strlen(s->text) <= size);
        FUZZ_CHECK(isfinite(s->start) && isfinite(s->end) && s->start >= 0 && s->start <= s->end);
        FUZZ_CHECK(s->end <= 2 * DG_MAX_SECOND);
        FUZZ_CHECK(s->speaker >= -1 && s->speaker <= DG_MAX_SPEAKER);
        FUZZ_CHECK(i == 0 || m.segments[i - 1].start <= s->start);
    }
    FUZZ_CHECK(!isnan(m.until));
    FUZZ_CHECK(memchr(m.error, '\0', sizeof(m.error)) != NULL);
    dg_message_free(&m);
    return 0;
}
