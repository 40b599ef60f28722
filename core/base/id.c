#include "base/id.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/magic.h"

#define POOL_LEN 512

/* Per thread: no lock, and one system call for many ids. Used bytes are wiped. */
static _Thread_local unsigned char pool[POOL_LEN];
static _Thread_local size_t pool_left;

static void fill(unsigned char *out, size_t len)
{
    while (len > 0) {
        ssize_t n = getrandom(out, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        omid_assert(n > 0);
        out += n;
        len -= (size_t)n;
    }
}

void id_random(void *out, size_t len)
{
    if (len > POOL_LEN / 4) {
        fill(out, len);
        return;
    }
    if (pool_left < len) {
        fill(pool, POOL_LEN);
        pool_left = POOL_LEN;
    }
    pool_left -= len;
    memcpy(out, pool + pool_left, len);
    memset(pool + pool_left, 0, len);
}

uint64_t id_random_u64(void)
{
    uint64_t v;
    id_random(&v, sizeof v);
    return v;
}

double id_random_unit(void)
{
    return (double)(id_random_u64() >> 11) * 0x1p-53;
}

void id_uuid4(char out[37])
{
    unsigned char b[16];
    id_random(b, sizeof b);
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    static const char hex[] = "0123456789abcdef";
    char *p = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[b[i] >> 4];
        *p++ = hex[b[i] & 15];
    }
    *p = 0;
}

bool id_is_uuid(const char *s)
{
    for (int i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
            return false;
    }
    return s[36] == 0;
}

bool id_equal_ct(const void *a, const void *b, size_t len)
{
    const volatile unsigned char *x = a, *y = b;
    unsigned char diff = 0;
    for (size_t i = 0; i < len; i++)
        diff = (unsigned char)(diff | (x[i] ^ y[i]));
    return diff == 0;
}
