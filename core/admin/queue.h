/* The admin API of the durable queue: dead letters, replays, deliveries; see omid-api(7). */
#ifndef OMID_ADMIN_QUEUE_H
#define OMID_ADMIN_QUEUE_H

#include <stdbool.h>

struct queue;
struct routes;

/* The queue lives as long as the routes. false: no memory, or a path is taken. */
bool queue_routes_add(struct routes *routes, struct queue *q);

#endif
