/* Where a conversation was; kept with it. A miss never fails a conversation: it then has the raw coordinates, or none.
 */
#include <stdlib.h>
#include <string.h>

#include "session/geolocation.h"
#include "session/processing.h"
#include "store/places.h"

static void located(struct processing *p, int result)
{
    p->store_lost = p->store_lost || result == OMID_ERR;
    p->gone = p->gone || result == OMID_ENOTSUP;
    processing_part_end(p, PART_GEOLOCATION, result == OMID_ERR ? PART_AGAIN : PART_DONE);
}

static void on_kept(void *arg, int result)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    if (result == OMID_OK) {
        free(p->conversation->geolocation);
        p->conversation->geolocation = p->geolocation;
    } else {
        free(p->geolocation);
    }
    p->geolocation = NULL;
    located(p, result);
}

static void on_located(void *arg, int result, const char *json)
{
    struct processing *p = arg;
    CHECK_MAGIC(p, PROCESSING_MAGIC);
    p->locating = NULL;
    if (result != OMID_OK || json[0] == '\0') {
        located(p, result == OMID_OK ? OMID_OK : OMID_ERR);
        return;
    }
    p->geolocation = strdup(json);
    if (!p->geolocation || store_geolocation_set(p->ss->env.store, p->id, json, p->ss->env.loop, on_kept, p) != OMID_OK)
        on_kept(p, OMID_ERR);
}

void processing_geolocation_begin(struct processing *p)
{
    const struct store_conversation *c = p->conversation;
    int64_t from_ms = c->started_ms > 0 && c->started_ms < c->finished_ms ? c->started_ms : c->finished_ms;
    p->part[PART_GEOLOCATION] = PART_UNDER_WAY;
    if (c->geolocation)
        located(p, OMID_OK);
    else if (geolocation_resolve(p->ss, p->uid, from_ms, c->finished_ms, on_located, p, &p->locating) != OMID_OK)
        located(p, OMID_ERR);
}
