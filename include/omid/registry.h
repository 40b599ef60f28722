/* Part of omid/plugin.h, which includes it: the apps and developer webhooks that users have registered (1.2). */
#ifndef OMID_PLUGIN_REGISTRY_H
#define OMID_PLUGIN_REGISTRY_H

#include <omid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What an endpoint is told about. */
enum omid_trigger {
    OMID_TRIGGER_TRANSCRIPT,
    OMID_TRIGGER_AUDIO,
    OMID_TRIGGER_MEMORY,
    OMID_TRIGGER_DAY_SUMMARY,
    OMID_TRIGGER_EVENT, /* custom events, of the types in `events` */
    OMID_TRIGGERS
};
enum omid_capability {
    OMID_CAPABLE_PROACTIVE_NOTIFICATION = 1u << 0,
};

/* A place that users have registered: an app that is enabled for the user, or a webhook of their own. Read-only, valid
 * until endpoints_release(). */
struct omid_endpoint {
    uint32_t size;
    const char *id;            /* unique and lasting, at most 64 characters: of the app, or of the webhook */
    bool app;                  /* else a developer's webhook */
    const char *name;          /* the app's; "" for a webhook */
    const char *uid;           /* whose it is: the webhook's user, the app's owner */
    const char *url;           /* http or https, as registered: go there with OMID_HTTP_USER_URL */
    uint32_t triggers;         /* 1u << enum omid_trigger each */
    uint32_t capabilities;     /* enum omid_capability */
    const char *const *events; /* "order.paid", "order.*", "*"; NULL-terminated */
    const char *filter;        /* JSON object, path to wanted value: {"order.state": "paid"}; "" for none */
    uint32_t audio_ms;         /* OMID_TRIGGER_AUDIO: more audio than this is sent */
    bool ordered;
    uint32_t rate_per_min;      /* 0: no bound */
    const char *const *secrets; /* whsec_..., all that sign now, the newest first, at most 5; NULL-terminated */
};
struct omid_endpoints {
    uint32_t size;
    size_t n;
    const struct omid_endpoint *const *endpoint;
};

enum omid_delivery_outcome {
    OMID_DELIVERY_OK,
    OMID_DELIVERY_FAILED, /* an attempt, answered or not */
    OMID_DELIVERY_GONE,   /* 410: it is disabled at once */
};

#ifdef __cplusplus
}
#endif
#endif
