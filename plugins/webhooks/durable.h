/* What events that were posted share with events on the bus. */
#ifndef WEBHOOKS_DURABLE_H
#define WEBHOOKS_DURABLE_H

#include "webhooks.h"

/* Jobs, without payload, for the endpoints that want this event. Their targets point into the set; room for set->n.
 * json: sound. */
size_t durable_event_jobs(struct instance *in, const struct omid_endpoints *set, const char *type, const char *json,
                          size_t len, struct omid_job *jobs);

#endif
