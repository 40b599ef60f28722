#include "ingress/proxy.h"

#include <string.h>

void proxy_list_set(struct proxy_list *list, const struct conf_list *texts)
{
    list->n = 0;
    for (size_t i = 0; i < texts->n && list->n < PROXY_MAX; i++)
        if (cidr_parse(texts->item[i], &list->net[list->n]))
            list->n++;
}

bool proxy_trusted(const struct proxy_list *list, const struct cidr_addr *addr)
{
    for (size_t i = 0; i < list->n; i++)
        if (cidr_has(&list->net[i], addr))
            return true;
    return false;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80" */
static bool hop_parse(const char *s, size_t len, struct cidr_addr *out)
{
    while (len > 0 && blank(s[0])) {
        s++;
        len--;
    }
    while (len > 0 && blank(s[len - 1]))
        len--;
    const char *colon = memchr(s, ':', len);
    if (len > 0 && s[0] == '[') {
        const char *end = memchr(s, ']', len);
        return end != NULL && cidr_addr_parse(s + 1, (size_t)(end - s - 1), out);
    }
    if (colon != NULL && memchr(colon + 1, ':', len - (size_t)(colon + 1 - s)) == NULL)
        len = (size_t)(colon - s);
    return cidr_addr_parse(s, len, out);
}

struct cidr_addr proxy_client(const struct proxy_list *list, const struct cidr_addr *peer,
                              const struct proxy_value *value, size_t n)
{
    struct cidr_addr client = *peer, hop;
    unsigned hops = 0;

    while (n-- > 0) {
        size_t end = value[n].len;
        for (;;) {
            size_t at = end;
            while (at > 0 && value[n].text[at - 1] != ',')
                at--;
            if (hops++ >= PROXY_MAX_HOPS || !proxy_trusted(list, &client) ||
                !hop_parse(value[n].text + at, end - at, &hop))
                return client;
            client = hop;
            if (at == 0)
                break;
            end = at - 1;
        }
    }
    return client;
}
