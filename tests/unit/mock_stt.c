/* The mock host: the session's end of a stream. */
#include "mock_int.h"

#include <stdio.h>

static void h_stt_ready(struct omid_stt *stt)
{
    mock_check_thread(stt->m);
    must(stt->closed == 0 && stt->ready == 0);
    stt->ready++;
}

static void h_stt_writable(struct omid_stt *stt)
{
    mock_check_thread(stt->m);
    must(stt->closed == 0);
    stt->writable++;
}

static void h_stt_result(struct omid_stt *stt, const struct omid_stt_result *result)
{
    mock_check_thread(stt->m);
    must(stt->closed == 0 && result->size == sizeof(*result));
    must(result->transcribed >= stt->transcribed);
    stt->results++;
    stt->transcribed = result->transcribed;
    for (size_t i = 0; i < result->n; i++) {
        const struct omid_stt_segment *s = &result->segments[i];
        must(stt->n_seg < sizeof(stt->seg) / sizeof(stt->seg[0]));
        struct mock_segment *to = &stt->seg[stt->n_seg++];
        snprintf(to->text, sizeof(to->text), "%s", s->text);
        to->start = s->start;
        to->end = s->end;
        to->speaker = s->speaker;
    }
    if (stt->on_result != NULL)
        stt->on_result(stt, stt->arg);
}

static void h_stt_closed(struct omid_stt *stt, const struct omid_stt_end *end)
{
    mock_check_thread(stt->m);
    must(stt->closed == 0 && end->size == sizeof(*end) && end->text != NULL);
    stt->closed++;
    stt->reason = end->reason;
    snprintf(stt->why, sizeof(stt->why), "%s", end->text);
}

void mock_stt_set(struct omid_host *t)
{
    t->stt_ready = h_stt_ready;
    t->stt_writable = h_stt_writable;
    t->stt_result = h_stt_result;
    t->stt_closed = h_stt_closed;
}
