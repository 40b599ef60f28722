/* The mock host: endpoints and the reports on them. */
#include "mock_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Those of uid, or the one of this id and uid (NULL: whoever has it). */
static const struct omid_endpoints *snapshot_of(struct omid_instance *inst, const char *id, const char *uid)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    struct snapshot *s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->m = m;
    s->pub = (struct omid_endpoints){.size = sizeof(s->pub), .endpoint = s->at};
    for (size_t i = 0; i < m->n_places; i++) {
        const struct place *p = &m->places[i];
        if ((uid != NULL && strcmp(p->uid, uid) != 0) || (id != NULL && strcmp(p->e.id, id) != 0))
            continue;
        s->e[s->pub.n] = p->e;
        s->at[s->pub.n] = &s->e[s->pub.n];
        s->pub.n++;
        if (id != NULL)
            break;
    }
    m->snapshots++;
    return &s->pub;
}

static const struct omid_endpoints *h_endpoints(struct omid_instance *inst, const char *uid)
{
    must(uid != NULL);
    return snapshot_of(inst, NULL, uid);
}

static const struct omid_endpoints *h_endpoint_find(struct omid_instance *inst, const char *id, const char *uid)
{
    must(id != NULL);
    return snapshot_of(inst, id, uid);
}

static void h_endpoints_release(const struct omid_endpoints **endpoints)
{
    struct snapshot *s = (struct snapshot *)(uintptr_t)*endpoints;
    *endpoints = NULL;
    if (s == NULL)
        return;
    mock_check_thread(s->m);
    must(s->m->snapshots > 0);
    s->m->snapshots--;
    free(s);
}

static void h_endpoint_report(struct omid_instance *inst, const char *id, const char *uid,
                              enum omid_delivery_outcome outcome, int status, const char *text)
{
    mock_check_instance(inst);
    struct mock *m = inst->m;
    must(m->n_reports < MAX_RECORDS && id != NULL && (unsigned)outcome <= OMID_DELIVERY_GONE);
    struct mock_report *r = &m->reports[m->n_reports++];
    snprintf(r->id, sizeof(r->id), "%s", id);
    snprintf(r->uid, sizeof(r->uid), "%s", uid != NULL ? uid : "");
    snprintf(r->text, sizeof(r->text), "%s", text != NULL ? text : "");
    r->outcome = outcome;
    r->status = status;
}

void mock_endpoint_add(struct mock *m, const char *uid, const struct omid_endpoint *e)
{
    size_t i = 0;
    must(e->size == sizeof(*e) && e->id != NULL && e->url != NULL && e->events != NULL && e->filter != NULL &&
         e->secrets != NULL && e->uid != NULL && e->name != NULL);
    while (i < m->n_places && (strcmp(m->places[i].e.id, e->id) != 0 || strcmp(m->places[i].uid, uid) != 0))
        i++;
    must(i < MAX_ENDPOINTS);
    m->n_places += i == m->n_places;
    m->places[i].e = *e;
    snprintf(m->places[i].uid, sizeof(m->places[i].uid), "%s", uid);
}

void mock_endpoint_remove(struct mock *m, const char *id)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_places; i++) {
        if (strcmp(m->places[i].e.id, id) != 0)
            m->places[n++] = m->places[i];
    }
    m->n_places = n;
}

size_t mock_report_count(const struct mock *m)
{
    return m->n_reports;
}

const struct mock_report *mock_report(const struct mock *m, size_t i)
{
    must(i < m->n_reports);
    return &m->reports[i];
}

void mock_registry_set(struct omid_host *t)
{
    t->endpoints = h_endpoints;
    t->endpoint_find = h_endpoint_find;
    t->endpoints_release = h_endpoints_release;
    t->endpoint_report = h_endpoint_report;
}
