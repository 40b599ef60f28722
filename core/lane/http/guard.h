/*
 * Which addresses may be dialled for URLs that users register. Pure; any thread.
 *
 * Refused: loopback, private, link-local and metadata, CGNAT, unspecified, multicast, reserved and documentation
 * ranges; IPv4-mapped, NAT64, 6to4 and ISATAP forms of these; Teredo; zone ids; other families. What `open` names (n
 * networks) is allowed none the less: an IPv4 network its own addresses and their mapped form, which are the same host;
 * not the forms that lead there through a translator or a tunnel; an IPv6 network, however wide, no IPv4 address.
 */
#ifndef OMID_LANE_HTTP_GUARD_H
#define OMID_LANE_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/cidr.h"

bool guard_allows(const struct sockaddr *sa, socklen_t len, const struct cidr *open, size_t n);
/* The same for "192.0.2.1" or "2001:db8::1"; false also when it is no address. */
bool guard_allows_text(const char *ip, const struct cidr *open, size_t n);
/* Does the host of a target's key (base/urlkey.h) have a zone id, [fe80::1%eth0]? Such a URL means nothing to anyone
 * but this machine. */
bool guard_has_zone(const char *key);

#endif
