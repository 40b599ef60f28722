#include "session/content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/magic.h"
#include "bus/channel.h"

/* What one operation of the store carries: it is copied, and others wait behind it. */
#define FILL_PHOTOS 16
#define FILL_BYTES ((size_t)4 << 20)

static void charge(struct content *ct, size_t bytes)
{
    ct->bytes += bytes;
    budget_add((int64_t)bytes);
}

static void discharge(struct content *ct, size_t bytes)
{
    omid_assert(ct->bytes >= bytes);
    ct->bytes -= bytes;
    budget_add(-(int64_t)bytes);
}

/* Room for one more, zeroed. */
static void *grown(void **list, size_t n, size_t size)
{
    char *more = realloc(*list, (n + 1) * size);
    if (!more)
        return NULL;
    *list = more;
    memset(more + n * size, 0, size);
    return more + n * size;
}

static void naming_free(struct naming *n)
{
    free(n->person_id);
    free(n->name);
    free(n->segments);
}

void content_free(struct content *ct)
{
    for (size_t i = 0; i < ct->n_photos; i++) {
        free(ct->photo[i].description);
        free(ct->photo[i].data);
    }
    for (size_t i = 0; i < ct->n_namings; i++)
        naming_free(&ct->naming[i]);
    for (size_t i = 0; i < ct->n_speakers; i++)
        free(ct->speaker[i].person_id);
    free(ct->photo);
    free(ct->naming);
    free(ct->speaker);
    discharge(ct, ct->bytes);
    *ct = (struct content){0};
}

/* ------------------------------------------------------------------- photos */

static struct content_photo *photo_new(struct content *ct, const char *description)
{
    struct content_photo *p = grown((void **)&ct->photo, ct->n_photos, sizeof *p);
    if (!p)
        return NULL;
    p->description = strdup(description);
    if (!p->description)
        return NULL;
    ct->n_photos++;
    charge(ct, sizeof *p + strlen(description) + 1);
    return p;
}

const char *content_photo_add(struct content *ct, unsigned char *data, size_t len, int64_t now_ms, size_t max_waiting)
{
    struct content_photo *p = ct->n_photos - ct->photos_stored < max_waiting ? photo_new(ct, "") : NULL;
    if (!p) {
        free(data);
        return NULL;
    }
    id_uuid4(p->id);
    p->created_ms = now_ms;
    p->data = data;
    p->len = len;
    charge(ct, len);
    return p->id;
}

struct store_photo *content_photos(const struct content *ct)
{
    struct store_photo *out = calloc(ct->n_photos + 1, sizeof *out);
    for (size_t i = 0; out && i < ct->n_photos; i++) {
        const struct content_photo *p = &ct->photo[i];
        out[i] = (struct store_photo){
            .id = p->id, .description = p->description, .discarded = p->discarded, .created_ms = p->created_ms};
    }
    return out;
}

/* ------------------------------------------------------------------ speakers */

const struct speaker_name *content_speaker(const struct content *ct, int speaker_id)
{
    for (size_t i = 0; i < ct->n_speakers; i++) {
        if (ct->speaker[i].speaker_id == speaker_id)
            return &ct->speaker[i];
    }
    return NULL;
}

static bool dup_to(char **to, const char *s)
{
    *to = s ? strdup(s) : NULL;
    return !s || *to;
}

static bool speaker_set(struct content *ct, int speaker_id, const char *person_id)
{
    char *person = NULL;
    struct speaker_name *known = (struct speaker_name *)content_speaker(ct, speaker_id);
    if ((!known && ct->n_speakers >= CONTENT_MAX_SPEAKERS) || !dup_to(&person, person_id))
        return false;
    if (!known) {
        known = grown((void **)&ct->speaker, ct->n_speakers, sizeof *known);
        if (!known) {
            free(person);
            return false;
        }
        ct->n_speakers++;
        known->speaker_id = speaker_id;
    }
    free(known->person_id);
    known->person_id = person;
    return true;
}

void content_forget_person(struct content *ct, const char *person_id)
{
    size_t kept = 0;
    for (size_t i = 0; i < ct->n_speakers; i++) {
        if (ct->speaker[i].person_id && strcmp(ct->speaker[i].person_id, person_id) == 0)
            free(ct->speaker[i].person_id);
        else
            ct->speaker[kept++] = ct->speaker[i];
    }
    ct->n_speakers = kept;
}

static size_t naming_cost(const struct naming *n)
{
    return sizeof *n + strlen(n->name) + strlen(n->segments);
}

const char *content_name(struct content *ct, int speaker_id, const char *person_id, const char *name,
                         const char *segments, const char *session_id, int64_t now_ms)
{
    if (ct->n_namings >= CONTENT_MAX_NAMINGS)
        return NULL;
    struct naming *n = grown((void **)&ct->naming, ct->n_namings, sizeof *n);
    if (!n)
        return NULL;
    if (!dup_to(&n->person_id, person_id) || !dup_to(&n->name, name) || !dup_to(&n->segments, segments) ||
        !speaker_set(ct, speaker_id, person_id)) {
        naming_free(n);
        return NULL;
    }
    ct->n_namings++;
    id_uuid4(n->sample_id);
    snprintf(n->session_id, sizeof n->session_id, "%s", session_id);
    n->speaker_id = speaker_id;
    n->created_ms = now_ms;
    charge(ct, naming_cost(n));
    return n->sample_id;
}

/* --------------------------------------------------------------- to the store */

bool content_load(struct content *ct, const struct store_conversation *from)
{
    for (size_t i = 0; i < from->n_photos; i++) {
        const struct store_photo *in = &from->photo[i];
        struct content_photo *p = photo_new(ct, in->description);
        if (!p)
            return false;
        snprintf(p->id, sizeof p->id, "%s", in->id);
        p->discarded = in->discarded;
        p->created_ms = in->created_ms;
        ct->photos_stored++;
    }
    for (size_t i = 0; i < from->n_speakers; i++) {
        /* Beyond the bound there is nothing to remember them by. */
        if (ct->n_speakers < CONTENT_MAX_SPEAKERS &&
            !speaker_set(ct, from->speaker[i].speaker_id, from->speaker[i].person_id))
            return false;
    }
    return true;
}

bool content_dirty(const struct content *ct)
{
    return ct->photos_stored < ct->n_photos || ct->n_namings > 0;
}

bool content_fill(struct content *ct, struct store_update *u, struct store_photo **photo, struct store_naming **naming)
{
    *photo = calloc(FILL_PHOTOS, sizeof **photo);
    *naming = calloc(ct->n_namings + 1, sizeof **naming);
    if (!*photo || !*naming)
        return false;
    size_t bytes = 0;
    for (size_t i = ct->photos_stored; i < ct->n_photos && u->n_photos < FILL_PHOTOS; i++) {
        const struct content_photo *p = &ct->photo[i];
        if (u->n_photos > 0 && bytes + p->len > FILL_BYTES)
            break;
        bytes += p->len;
        (*photo)[u->n_photos++] = (struct store_photo){.id = p->id,
                                                       .description = p->description,
                                                       .discarded = p->discarded,
                                                       .created_ms = p->created_ms,
                                                       .data = p->data,
                                                       .len = p->len};
    }
    for (size_t i = 0; i < ct->n_namings; i++) {
        const struct naming *n = &ct->naming[i];
        (*naming)[u->n_namings++] = (struct store_naming){.sample_id = n->sample_id,
                                                          .speaker_id = n->speaker_id,
                                                          .person_id = n->person_id,
                                                          .name = n->name,
                                                          .segments = n->segments,
                                                          .created_ms = n->created_ms};
    }
    u->photo = *photo;
    u->naming = *naming;
    return true;
}

void content_sent(struct content *ct, const struct store_update *u)
{
    ct->photos_sent = u->n_photos;
    ct->namings_sent = u->n_namings;
}

void content_stored(struct content *ct, void (*told)(void *arg, const struct naming *n), void *arg)
{
    size_t namings = told ? ct->namings_sent : 0;
    for (size_t i = 0; told && i < ct->photos_sent; i++) {
        struct content_photo *p = &ct->photo[ct->photos_stored++];
        discharge(ct, p->len);
        free(p->data);
        p->data = NULL;
        p->len = 0;
    }
    for (size_t i = 0; i < namings; i++) {
        told(arg, &ct->naming[i]);
        discharge(ct, naming_cost(&ct->naming[i]));
        naming_free(&ct->naming[i]);
    }
    ct->n_namings -= namings;
    if (namings > 0)
        memmove(ct->naming, ct->naming + namings, ct->n_namings * sizeof *ct->naming);
    content_unsent(ct);
}

void content_unsent(struct content *ct)
{
    ct->photos_sent = ct->namings_sent = 0;
}
