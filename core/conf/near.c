/* Distance of two names by optimal string alignment. */
#include <string.h>

#include "conf/near.h"

enum { LONGEST = 63 }; /* of a name that is worth a guess; bounds the rows below */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t row[3][LONGEST + 1]; /* of this letter of a, and of the two before */
    size_t *before = row[0], *last = row[1], *now = row[2];
    for (size_t j = 0; j <= b_len; j++)
        last[j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        now[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
        size_t *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[b_len];
}

void near_begin(struct near *n, const char *name)
{
    *n = (struct near){.name = name, .distance = least(strlen(name) / 3, 3) + 1};
}

void near_offer(struct near *n, const char *candidate)
{
    size_t len = strlen(n->name), candidate_len = strlen(candidate);
    if (len > LONGEST || candidate_len > LONGEST)
        return;
    size_t d = distance(n->name, len, candidate, candidate_len);
    if (d >= n->distance)
        return;
    n->distance = d;
    n->best = candidate;
}
