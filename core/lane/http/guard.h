/* Which addresses may be dialled for URLs that users register. Pure; any thread. */
#ifndef OMID_LANE_HTTP_GUARD_H
#define OMID_LANE_HTTP_GUARD_H

#include <stdbool.h>
#include <sys/socket.h>

/* true: a public unicast address. Refused: loopback, private, link-local and metadata, CGNAT, unspecified, multicast,
 * reserved and documentation ranges, IPv4-mapped, NAT64 and 6to4 forms of these, zone ids, other families. */
bool guard_address_public(const struct sockaddr *sa, socklen_t len);
/* The same for "192.0.2.1" or "2001:db8::1"; false also when it is no address. */
bool guard_text_public(const char *ip);

#endif
