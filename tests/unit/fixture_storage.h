/* The plugin storage, configured with a bucket and started on a mock host, for its tests. */
#ifndef OMID_TESTS_FIXTURE_STORAGE_H
#define OMID_TESTS_FIXTURE_STORAGE_H

#include "mock_host.h"
#include "unit.h"

extern const struct omid_plugin omid_plugin;

struct rig {
    struct mock *m;
    struct omid_instance *in;
};
/* style: of the bucket. */
void rig_begin(struct rig *r, const char *style);
void rig_end(struct rig *r);
/* All that the executor holds, and what comes of it. */
void rig_work(struct rig *r);
/* 100 ms of this value, of the user a@b. */
void rig_hear(struct rig *r, const char *session, const char *conv, int64_t at_ms, int16_t value);
void rig_tell(struct rig *r, enum omid_event_type type, const char *session, const char *conv);

#endif
