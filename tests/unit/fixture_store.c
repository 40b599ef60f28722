#include "fixture_store.h"

#include <errno.h>

#define COMMIT_MS 2

char dir[96], path[112];
struct loop *lp;
struct store *s;
bool aside;
struct store_config options;

int fixture_begin(void)
{
    options = (struct store_config){.commit_ms = COMMIT_MS};
    snprintf(dir, sizeof(dir), "/tmp/omid-%.40s-XXXXXX", program_invocation_short_name);
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/store.db", dir);
    lp = loop_new("test");
    return lp != NULL && loop_start(lp) ? 0 : -1;
}

int fixture_end(void)
{
    unit_rm_dir(dir);
    loop_stop(lp);
    loop_free(&lp);
    return 0;
}

bool fixture_open(void)
{
    char err[512];
    struct store_config c = options;
    c.path = path;
    s = store_open(&c, &aside, err, sizeof(err));
    if (s == NULL)
        fprintf(stderr, "open: %s\n", err);
    return s != NULL && store_start(s);
}

void fixture_close(void)
{
    store_stop(s);
    store_free(&s);
}

void fixture_fresh(void)
{
    unit_rm_dir(dir);
    mkdir(dir, 0700);
    CU_ASSERT_FATAL(fixture_open() && !aside);
}
