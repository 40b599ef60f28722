/*
 * A lane's settings: a plugin block's share of omi.conf that the lane, not the plugin, is told.
 *
 * Values but for what lies behind two pointers, which are shared, counted and never changed: a copy is cheap, and a
 * lane keeps its own beyond the configuration that it came from.
 */
#ifndef OMID_CONF_LANE_H
#define OMID_CONF_LANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cidr.h"

#define CONF_MAX_TARGETS 64u       /* target blocks of one plugin */
#define CONF_MAX_FOLLOW 20u        /* redirects of one request */
#define CONF_MAX_PRIVATE 64u       /* networks of allow_private */
#define CONF_MAX_PEM (64u * 1024u) /* bytes of a certificate's, key's or authorities' file */

struct conf_bytes {
    char *data; /* NULL: none */
    size_t len;
};

/* What is needed to reach a target beside its address. Read and checked with the file: a loop never reads files. */
struct conf_outside {
    atomic_uint refs;
    uint64_t id;                        /* of no other in the life of the process; never 0 */
    char *proxy;                        /* "http://host:port", or NULL */
    char *proxy_auth;                   /* "user:password", or NULL */
    struct conf_bytes certificate, key; /* PEM: the client's, both or none */
    struct conf_bytes ca;               /* PEM: who may sign for the peer, in place of the system's */
    struct cidr *allow_private; /* n_private networks that URLs of users may lead to, though not public; or NULL */
    size_t n_private;
};

struct conf_targets;

/* Sources of the defaults: the resilience table. */
struct conf_lane {
    unsigned pool, idle, semaphore, streams, queue;
    uint32_t connect_timeout_ms, timeout_ms, queue_timeout_ms;
    unsigned follow;           /* redirects of one request; 0: a 3xx is the answer */
    unsigned breaker_failures; /* consecutive */
    uint32_t breaker_open_ms;
    uint32_t breaker_open_max_ms;
    uint32_t breaker_window_ms;    /* in which attempts are counted for the shares */
    double breaker_error_rate;     /* share of the attempts of a window */
    unsigned breaker_min_attempts; /* in a window, for a share to mean anything */
    uint32_t breaker_slow_ms;      /* 0: no call is slow */
    double breaker_slow_share;     /* share of slow calls of a window */
    struct conf_outside *outside;  /* a reference; NULL: nothing of it is set */
    struct conf_targets *targets;  /* a reference; NULL: none */
};

/* A target block: the lane's settings as they are for the targets of its prefix. */
struct conf_target {
    char *prefix;          /* the beginning of a target's key */
    struct conf_lane lane; /* without targets; what is no business of a single target is the lane's */
};
struct conf_targets {
    atomic_uint refs;
    size_t n;
    struct conf_target target[]; /* longest prefix first: the first that fits counts */
};

/* `to` is written over, and holds references of its own. Any thread. */
void conf_lane_copy(struct conf_lane *to, const struct conf_lane *from);
/* Gives the references back. Any thread. */
void conf_lane_clear(struct conf_lane *l);
/* Is there nothing to apply between the two? Contents are compared: a certificate may have been renewed in place. */
bool conf_lane_same(const struct conf_lane *a, const struct conf_lane *b);

/* All zero but for its id and one reference. NULL: no memory. */
struct conf_outside *conf_outside_new(void);
struct conf_outside *conf_outside_ref(struct conf_outside *o); /* NULL stays NULL */
void conf_outside_unref(struct conf_outside **o);
bool conf_outside_same(const struct conf_outside *a, const struct conf_outside *b); /* by content */
struct conf_targets *conf_targets_new(size_t n); /* n of them, all zero; NULL: no memory */

#endif
