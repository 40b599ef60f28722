/*
 * Is asked where places are, and answers as the latitude says: 0 at once, 1 after 20 ms, 2 never, 3 with OMID_EFULL
 * from the call, 4 with an answer that can't be used, 5 with OMID_ENOTSUP, 6 with OMID_ERR from the call after it has
 * answered, 7 and 8 with times without an end.
 */
#include <math.h>

#include "plain.h"

struct late {
    struct plain *p;
    struct omid_ask *ask;
    struct omid_timer *timer;
};

static void answer(struct plain *p, struct omid_ask **ask, int result, const char *json, size_t len)
{
    char copy[64] = "";
    for (size_t i = 0; i < len && i < sizeof copy - 1; i++)
        copy[i] = json[i];
    const struct omid_answer a = {.size = sizeof a,
                                  .result = result,
                                  .text = result == OMID_OK ? NULL : "on demand",
                                  .mode = "test",
                                  .json = copy,
                                  .json_len = len};
    p->host->answer(ask, &a);
    copy[0] = 'X'; /* it was copied, or the asker sees this */
}

static void on_late(void *arg)
{
    struct late *l = arg;
    l->p->host->timer_stop(&l->timer);
    answer(l->p, &l->ask, OMID_OK, "{\"late\":1}", 10);
    free(l);
}

static int geocode(void *state, double latitude, double longitude, struct omid_ask *ask)
{
    struct plain *p = state;
    struct late *l;
    (void)longitude;
    switch ((int)latitude) {
    case 0:
        answer(p, &ask, OMID_OK, "{\"now\":1}", 9);
        return OMID_OK;
    case 1:
        l = malloc(sizeof *l);
        if (l == NULL)
            return OMID_ERR;
        *l = (struct late){.p = p, .ask = ask};
        l->timer = p->host->timer_start(p->inst, 20, 0, on_late, l);
        return OMID_OK;
    case 2:
        return OMID_OK;
    case 3:
        return OMID_EFULL;
    case 4:
        p->host->answer(&ask, &(const struct omid_answer){.size = sizeof(struct omid_answer), .json_len = 5});
        return OMID_OK;
    case 7:
        p->host->answer(
            &ask, &(const struct omid_answer){
                      .size = sizeof(struct omid_answer),
                      .segments = &(const struct omid_stt_segment){.text = "x", .start = INFINITY, .end = INFINITY},
                      .n_segments = 1});
        return OMID_OK;
    case 8:
        p->host->answer(&ask, &(const struct omid_answer){.size = sizeof(struct omid_answer),
                                                          .intervals = &(const struct omid_interval){0, INFINITY},
                                                          .n_intervals = 1});
        return OMID_OK;
    case 5:
        answer(p, &ask, OMID_ENOTSUP, "", 0);
        return OMID_OK;
    default:
        answer(p, &ask, OMID_OK, "{}", 2);
        return OMID_ERR;
    }
}

static const struct omid_geocode_role role = {.size = sizeof role, .geocode = geocode};

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD, .name = "asked", .geocode = &role, PLAIN};
