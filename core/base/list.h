/* An intrusive doubly linked list with a head. No allocation; an entry is in one list at most per link.
 * An unlinked entry points at itself, so that removing twice is harmless. */
#ifndef OMID_BASE_LIST_H
#define OMID_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/magic.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_insert_before(struct list *at, struct list *e)
{
    e->prev = at->prev;
    e->next = at;
    at->prev->next = e;
    at->prev = e;
}

static inline void list_append(struct list *head, struct list *e)
{
    list_insert_before(head, e);
}

static inline void list_prepend(struct list *head, struct list *e)
{
    list_insert_before(head->next, e);
}

static inline void list_remove(struct list *e)
{
    e->prev->next = e->next;
    e->next->prev = e->prev;
    list_init(e);
}

/* NULL when empty. */
static inline struct list *list_pop(struct list *head)
{
    struct list *e = head->next;
    if (e == head)
        return NULL;
    list_remove(e);
    return e;
}

#define list_entry(link, type, member) container_of(link, type, member)
/* The body may remove `it`, nothing else. */
#define list_each(it, head) \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head); it = it##_next, it##_next = it->next)

#endif
