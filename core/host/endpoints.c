/* The registry, for plugins: the doors of what the services offer. */
#include "host/module.h"

/* For a call that is refused, and where there is no registry. Never freed. */
static const struct omid_endpoint *const no_endpoint[1];
static const struct omid_endpoints nothing = {.size = sizeof(nothing), .endpoint = no_endpoint};

const struct omid_endpoints *endpoints_of(struct omid_instance *inst, const char *uid)
{
    const struct host_services *s = table_services();
    if (instance_check(inst, "endpoints") != OMID_OK || uid == NULL || s->endpoints == NULL)
        return &nothing;
    return s->endpoints(s->arg, uid);
}

const struct omid_endpoints *endpoint_find(struct omid_instance *inst, const char *id, const char *uid)
{
    const struct host_services *s = table_services();
    if (instance_check(inst, "endpoint_find") != OMID_OK || id == NULL || s->endpoint_find == NULL)
        return &nothing;
    return s->endpoint_find(s->arg, id, uid);
}

void endpoints_release(const struct omid_endpoints **endpoints)
{
    const struct host_services *s = table_services();
    if (endpoints == NULL || *endpoints == NULL)
        return;
    if (*endpoints == &nothing || s->endpoints_release == NULL)
        *endpoints = NULL;
    else
        s->endpoints_release(endpoints);
}

void endpoint_report(struct omid_instance *inst, const char *id, const char *uid, enum omid_delivery_outcome outcome,
                     int status, const char *text)
{
    const struct host_services *s = table_services();
    if (instance_check(inst, "endpoint_report") == OMID_OK && id != NULL && (unsigned)outcome <= OMID_DELIVERY_GONE &&
        s->endpoint_report != NULL)
        s->endpoint_report(s->arg, id, uid, outcome, status, text);
}
