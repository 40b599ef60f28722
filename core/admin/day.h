/* The routes of day summaries: POST /v1/admin/day-summary, GET and PATCH /v1/users/day-summary. See omid-api(7). */
#ifndef OMID_ADMIN_DAY_H
#define OMID_ADMIN_DAY_H

#include "bus/route.h"
#include "session/session.h"

/* all: the array of all reactors' sessions. false: no memory. */
bool day_routes_add(struct routes *r, struct sessions **all);

#endif
