#include <stdio.h>
#include <stdlib.h>

#include "vad.h"

#define SLACK 0.5 /* seconds that a service may be wrong about where the audio ends: it is cut */

bool vad_intervals_add(struct vad_intervals *l, double start, double end)
{
    if (l->n == l->cap) {
        size_t cap = l->cap > 0 ? l->cap * 2 : 32;
        struct omid_interval *more = l->n < VAD_MAX_INTERVALS ? realloc(l->item, cap * sizeof(*more)) : NULL;
        if (more == NULL)
            return false;
        l->item = more;
        l->cap = cap;
    }
    l->item[l->n++] = (struct omid_interval){start, end};
    return true;
}

void vad_intervals_free(struct vad_intervals *l)
{
    free(l->item);
    *l = (struct vad_intervals){0};
}

static int by_start(const void *pa, const void *pb)
{
    const struct omid_interval *a = pa, *b = pb;
    return a->start < b->start ? -1 : a->start > b->start;
}

void vad_intervals_mend(struct vad_intervals *l, double duration, double gap)
{
    size_t n = 0;
    if (l->n > 1)
        qsort(l->item, l->n, sizeof(*l->item), by_start);
    for (size_t i = 0; i < l->n; i++) {
        struct omid_interval *e = &l->item[i], *last = n > 0 ? &l->item[n - 1] : NULL;
        double start = e->start > 0 ? e->start : 0, end = e->end < duration ? e->end : duration;
        if (end <= start)
            continue;
        if (last != NULL && start - last->end <= gap) {
            last->end = end > last->end ? end : last->end;
            continue;
        }
        l->item[n++] = (struct omid_interval){start, end};
    }
    l->n = n;
}

static bool item_read(struct vad_intervals *l, yajl_val v, size_t i, double duration, struct kit_fault *f)
{
    char where[32];
    double start, end;
    snprintf(where, sizeof(where), "[%zu]", i);
    if (!kit_json_number(v, where, "start", &start, f) || !kit_json_number(v, where, "end", &end, f))
        return false;
    if (start < 0 || end < start)
        kit_fault_set(f, "%s: from %g to %g s", where, start, end);
    else if (end > duration + SLACK)
        kit_fault_set(f, "%s: ends at %g s, and the audio at %g s", where, end, duration);
    else if (!vad_intervals_add(l, start, end))
        kit_fault_set(f, "out of memory");
    else
        return true;
    return false;
}

bool vad_intervals_read(struct vad_intervals *l, const char *json, size_t len, double duration, struct kit_fault *f)
{
    yajl_val root = kit_json_parse(json, len, VAD_MAX_ANSWER, f), array;
    bool ok = root != NULL && kit_json_array(root, "", NULL, &array, f);
    if (ok && kit_json_len(array) > VAD_MAX_INTERVALS) {
        kit_fault_set(f, "%zu intervals, more than %d", kit_json_len(array), VAD_MAX_INTERVALS);
        ok = false;
    }
    for (size_t i = 0; ok && i < kit_json_len(array); i++)
        ok = item_read(l, kit_json_at(array, i), i, duration, f);
    kit_json_free(&root);
    if (ok)
        vad_intervals_mend(l, duration, 0);
    else
        vad_intervals_free(l);
    return ok;
}

void vad_intervals_write(struct kit_text *t, const struct vad_intervals *l)
{
    kit_text_adds(t, "[");
    for (size_t i = 0; i < l->n; i++) {
        const struct omid_interval *e = &l->item[i];
        kit_text_addf(t, "%s{\"start\":%.3f,\"end\":%.3f,\"duration\":%.3f}", i > 0 ? "," : "", e->start, e->end,
                      e->end - e->start);
    }
    kit_text_adds(t, "]");
}
