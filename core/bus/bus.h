/*
 * The bus: events from sessions and plugins to the plugin instances of the same reactor that subscribed, and to
 * the core's own listeners. One bus per reactor; everything on its thread.
 */
#ifndef OMID_BUS_BUS_H
#define OMID_BUS_BUS_H

#include <omid/plugin.h>

#include "base/loop.h"

struct host;
struct bus;

struct bus *bus_new(struct loop *loop, struct host *host, unsigned reactor);
void bus_free(struct bus **b);
/* At once, in order of the plugin blocks. The event's strings need to live for the call only. */
void bus_publish(struct bus *b, const struct omid_event *ev);
/* For plugins: after the current callback, from a bounded queue (1,024 events, 4 MiB); OMID_EFULL beyond. Copies. */
int bus_publish_later(struct bus *b, const struct omid_event *ev);
/* The same from another thread than the bus's; as many more. */
int bus_publish_across(struct bus *b, const struct omid_event *ev);
/* The core's listener (sessions, for APP_MESSAGE). */
void bus_listen(struct bus *b, uint32_t mask, void (*fn)(void *arg, const struct omid_event *ev), void *arg);

#endif
