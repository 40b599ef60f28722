#include "base/magic.h"

#include <stdio.h>
#include <stdlib.h>

void omid_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "omid: assertion failed: %s (%s:%d)\n", expr, file, line);
    abort();
}
