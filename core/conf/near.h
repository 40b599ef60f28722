/* The name that was meant: for what a fault says about one that is unknown. Within core/conf only. */
#ifndef OMID_CONF_NEAR_H
#define OMID_CONF_NEAR_H

#include <stddef.h>

/* The search for one name. Nothing is copied: the names outlive it. */
struct near {
    const char *name;
    const char *best; /* NULL: none is near */
    size_t distance;  /* of best: letters added, dropped, changed, or swapped with their neighbour */
};

/* A third of the letters may differ, and at most three. */
void near_begin(struct near *n, const char *name);
void near_offer(struct near *n, const char *candidate);

#endif
