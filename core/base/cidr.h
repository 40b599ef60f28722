/* Internet addresses as 16 bytes (IPv4 as ::ffff:a.b.c.d), and networks of them. Any thread. */
#ifndef OMID_BASE_CIDR_H
#define OMID_BASE_CIDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CIDR_TEXT 46 /* room for any address, as INET6_ADDRSTRLEN */

struct cidr_addr {
    uint8_t byte[16];
};
struct cidr {
    struct cidr_addr net; /* bits behind the prefix are 0 */
    unsigned bits;        /* of 128 */
};

/* "192.0.2.7" or "2001:db8::7"; nothing else, no zone. */
bool cidr_addr_parse(const char *text, size_t len, struct cidr_addr *out);
void cidr_addr_format(const struct cidr_addr *addr, char out[CIDR_TEXT]);
/* The address's network of so many bits: an IPv4 one is left whole. */
struct cidr_addr cidr_addr_net(const struct cidr_addr *addr, unsigned v6_bits);
/* "10.0.0.0/8", "2001:db8::/32", or an address alone. */
bool cidr_parse(const char *text, struct cidr *out);
bool cidr_has(const struct cidr *net, const struct cidr_addr *addr);

#endif
