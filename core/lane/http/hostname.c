#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"
#include "lane/http/lane_int.h"

/* The host of a target's key; false: it is an address, which nobody has to look up. */
static bool hostname_read(const char *key, char *out, size_t size)
{
    const char *host = strstr(key, "://") + 3;
    size_t len = strcspn(host, ":/");
    struct in_addr address;

    if (*host == '[' || len >= size)
        return false;
    memcpy(out, host, len);
    if (len > 0 && out[len - 1] == '.')
        len--;
    out[len] = 0;
    return inet_pton(AF_INET, out, &address) != 1;
}

bool hostname_get(struct lane *l, const char *key, struct hostname **out)
{
    char text[LANE_MAX_URL];

    *out = NULL;
    if (!hostname_read(key, text, sizeof text))
        return true;
    struct hostname *n = map_get(l->hostnames, text);
    if (!n) {
        size_t len = strlen(text) + 1;
        n = calloc(1, sizeof *n + len);
        if (!n || !map_put(l->hostnames, text, n, NULL)) {
            free(n);
            return false;
        }
        n->magic = HOSTNAME_MAGIC;
        list_init(&n->held);
        memcpy(n->text, text, len);
    }
    CHECK_MAGIC(n, HOSTNAME_MAGIC);
    n->refs++;
    *out = n;
    return true;
}

void hostname_put(struct lane *l, struct hostname **np)
{
    struct hostname *n = *np;

    *np = NULL;
    if (!n)
        return;
    CHECK_MAGIC(n, HOSTNAME_MAGIC);
    if (--n->refs > 0)
        return;
    omid_assert(list_empty(&n->held) && n->inflight == 0 && n->waiting == 0 && n->ringed == 0);
    map_remove(l->hostnames, n->text);
    n->magic = OMID_MAGIC_DEAD;
    free(n);
}

unsigned hostname_room(const struct lane *l, const struct hostname *n)
{
    if (!n || n->state == HOSTNAME_KNOWN)
        return UINT32_MAX;
    unsigned quarter = l->conf.semaphore / 4, most = quarter > LIMIT_START ? quarter : LIMIT_START;
    if (n->state == HOSTNAME_FAILED)
        most = 1;
    return most > n->inflight ? most - n->inflight : 0;
}

bool hostname_may_wait(const struct hostname *n, unsigned share)
{
    return !n || n->state == HOSTNAME_KNOWN || n->waiting < share;
}
