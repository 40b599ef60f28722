/* Who is behind a proxy: X-Forwarded-For, believed from the proxies that are ours and from nobody else. Pure. */
#ifndef OMID_INGRESS_PROXY_H
#define OMID_INGRESS_PROXY_H

#include "base/cidr.h"
#include "conf/conf.h"

#define PROXY_MAX 64      /* networks */
#define PROXY_MAX_HOPS 32 /* addresses of a header that are looked at, from its end */

struct proxy_list {
    struct cidr net[PROXY_MAX];
    size_t n;
};
struct proxy_value {
    const char *text; /* no NUL at its end */
    size_t len;
};

/* What does not parse is left out: conf has told of it. */
void proxy_list_set(struct proxy_list *list, const struct conf_list *texts);
bool proxy_trusted(const struct proxy_list *list, const struct cidr_addr *addr);
/* The client of a request that came from `peer`, with these header values in the order of the request: from the end the
 * first address that is none of our proxies. What stands before it anyone may have written. An entry that is no address
 * ("unknown") ends the walk: the client is then who handed it in. Ports are ignored. */
struct cidr_addr proxy_client(const struct proxy_list *list, const struct cidr_addr *peer,
                              const struct proxy_value *value, size_t n);

#endif
