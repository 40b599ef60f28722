/* The local summary: a title and an overview made of the conversation's own sentences, for when no model is configured
 * or none answers. Pure CPU work, linear in the text; any thread. */
#ifndef OMID_SESSION_EXTRACT_H
#define OMID_SESSION_EXTRACT_H

#include <stdbool.h>

#include "base/buf.h"
#include "store/store.h"

/* Appends the `structured` object: title, overview, emoji, category, action_items, events, and "source":"extractive".
 * false: no memory. */
bool extract_summary(const struct store_conversation *c, struct buf *out);

#endif
