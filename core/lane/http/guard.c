#include "lane/http/guard.h"

#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

#include "base/magic.h"

/* IANA special-purpose registries, IPv4 and IPv6. */
static const struct {
    uint32_t net;
    unsigned bits;
} refused4[] = {
    {UINT32_C(0x00000000), 8},  /* "this network", unspecified */
    {UINT32_C(0x0a000000), 8},  /* private */
    {UINT32_C(0x64400000), 10}, /* carrier-grade NAT */
    {UINT32_C(0x7f000000), 8},  /* loopback */
    {UINT32_C(0xa83f8110), 32}, /* 168.63.129.16: a cloud's own services, seen only from within it */
    {UINT32_C(0xa9fe0000), 16}, /* link-local, cloud metadata */
    {UINT32_C(0xac100000), 12}, /* private */
    {UINT32_C(0xc0000000), 24}, /* IETF protocol assignments */
    {UINT32_C(0xc0000200), 24}, /* documentation */
    {UINT32_C(0xc0586300), 24}, /* 6to4 relays */
    {UINT32_C(0xc0a80000), 16}, /* private */
    {UINT32_C(0xc6120000), 15}, /* benchmarks */
    {UINT32_C(0xc6336400), 24}, /* documentation */
    {UINT32_C(0xcb007100), 24}, /* documentation */
    {UINT32_C(0xe0000000), 4},  /* multicast */
    {UINT32_C(0xf0000000), 4},  /* reserved, broadcast */
};

static bool public4(uint32_t ip)
{
    for (size_t i = 0; i < ARRAY_LEN(refused4); i++) {
        uint32_t mask = UINT32_MAX << (32 - refused4[i].bits);
        if ((ip & mask) == refused4[i].net)
            return false;
    }
    return true;
}

static uint32_t at32(const uint8_t *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static bool public6(const uint8_t *b)
{
    static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};

    if (memcmp(b, nat64, 12) == 0)
        return public4(at32(b + 12));
    if ((b[0] & 0xe0) != 0x20) /* only 2000::/3 is global unicast */
        return false;
    if (b[0] == 0x20 && b[1] == 0x02) /* 6to4 */
        return public4(at32(b + 2));
    if (b[0] == 0x20 && b[1] == 0x01 && (b[2] & 0xfe) == 0) /* 2001::/23: Teredo, ORCHID, benchmarks */
        return false;
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8) /* documentation */
        return false;
    if (b[0] == 0x3f && b[1] == 0xff && (b[2] & 0xf0) == 0) /* documentation, 3fff::/20 */
        return false;
    if ((b[8] & 0xfd) == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe) /* ISATAP, RFC 5214 */
        return public4(at32(b + 12));
    return true;
}

static bool allows(const struct cidr_addr *a, const struct cidr *open, size_t n)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    bool v4 = memcmp(a->byte, mapped, sizeof mapped) == 0;

    if (v4 ? public4(at32(a->byte + 12)) : public6(a->byte))
        return true;
    for (size_t i = 0; i < n; i++) {
        if ((!v4 || open[i].bits >= 96) && cidr_has(&open[i], a))
            return true;
    }
    return false;
}

bool guard_allows(const struct sockaddr *sa, socklen_t len, const struct cidr *open, size_t n)
{
    struct cidr_addr a = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}};

    if (sa->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        memcpy(a.byte + 12, &in.sin_addr, 4);
        return allows(&a, open, n);
    }
    if (sa->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof in6);
        memcpy(a.byte, &in6.sin6_addr, sizeof a.byte);
        return in6.sin6_scope_id == 0 && allows(&a, open, n);
    }
    return false;
}

bool guard_allows_text(const char *ip, const struct cidr *open, size_t n)
{
    struct cidr_addr a;

    return cidr_addr_parse(ip, strlen(ip), &a) && allows(&a, open, n);
}

bool guard_has_zone(const char *key)
{
    const char *host = strstr(key, "://");

    return host && host[3] == '[' && memchr(host + 3, '%', strcspn(host + 3, "]/")) != NULL;
}
