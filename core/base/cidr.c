#include "base/cidr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_v4(const struct cidr_addr *a)
{
    return memcmp(a->byte, mapped, sizeof(mapped)) == 0;
}

bool cidr_addr_parse(const char *text, size_t len, struct cidr_addr *out)
{
    char copy[CIDR_TEXT];

    if (len == 0 || len >= sizeof(copy) || memchr(text, '\0', len) != NULL)
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    memcpy(out->byte, mapped, sizeof(mapped));
    if (inet_pton(AF_INET, copy, out->byte + sizeof(mapped)) == 1)
        return true;
    return inet_pton(AF_INET6, copy, out->byte) == 1;
}

void cidr_addr_format(const struct cidr_addr *addr, char out[CIDR_TEXT])
{
    const char *text = is_v4(addr) ? inet_ntop(AF_INET, addr->byte + sizeof(mapped), out, CIDR_TEXT)
                                   : inet_ntop(AF_INET6, addr->byte, out, CIDR_TEXT);
    if (text == NULL)
        out[0] = '\0';
}

static void mask(struct cidr_addr *addr, unsigned bits)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned left = bits > i * 8 ? bits - i * 8 : 0;
        if (left < 8)
            addr->byte[i] &= (uint8_t)(0xff00 >> left);
    }
}

struct cidr_addr cidr_addr_net(const struct cidr_addr *addr, unsigned v6_bits)
{
    struct cidr_addr net = *addr;

    if (!is_v4(addr))
        mask(&net, v6_bits);
    return net;
}

bool cidr_parse(const char *text, struct cidr *out)
{
    const char *slash = strchr(text, '/');
    size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);

    if (!cidr_addr_parse(text, len, &out->net))
        return false;
    bool v4 = memchr(text, ':', len) == NULL;
    unsigned most = v4 ? 32 : 128, bits = most;
    if (slash != NULL) {
        size_t digits = strspn(slash + 1, "0123456789");
        if (digits == 0 || digits > 3 || slash[1 + digits] != '\0')
            return false;
        bits = (unsigned)strtoul(slash + 1, NULL, 10);
        if (bits > most)
            return false;
    }
    out->bits = v4 ? bits + 96 : bits;
    mask(&out->net, out->bits);
    return true;
}

bool cidr_has(const struct cidr *net, const struct cidr_addr *addr)
{
    struct cidr_addr a = *addr;

    mask(&a, net->bits);
    return memcmp(a.byte, net->net.byte, sizeof(a.byte)) == 0;
}
