/* More of the mock host: a plugin's values, answers to questions, exchanges of its routes, moves to fallbacks. */
#ifndef TESTS_UNIT_MOCK_DOORS_H
#define TESTS_UNIT_MOCK_DOORS_H

#include <omid/plugin.h>

struct mock;

/* Values. What is put is there at once; callbacks wait for mock_kv_run(), which tells how many came. */
unsigned mock_kv_run(void);
/* NULL: there is none, or its time is over. */
const char *mock_kv_value(const char *key, size_t *len);
size_t mock_kv_count(void); /* that were put, ever */
/* What the calls answer from now on (OMID_OK at first), and what the callbacks are told. */
void mock_kv_refuse(int rc);
void mock_kv_fail(int result);

/* A question: hand it to the role's function. The test's own; what a plugin answers twice ends the test. */
struct omid_ask {
    unsigned answers;
    int result;
    char text[256], mode[32], json[8192];
    float vector[2048];
    size_t n_vector;
    struct omid_interval intervals[1024];
    size_t n_intervals;
    size_t n_segments, samples;
};

/* A request to a route of the plugin. */
struct omid_exchange {
    unsigned responses;
    int status;
    char content_type[64], headers[512]; /* each line followed by \n */
    char body[16384];
    size_t len; /* the body's, cut or not */
};
/* What the route's request() answers; OMID_ENOTSUP: there is no such route. path: as the plugin wrote it. */
int mock_request(void *state, const char *method, const char *path, const struct omid_request *req,
                 struct omid_exchange *ex);

/* Moves to a fallback: "vad hosted local timeout degraded". */
unsigned mock_fallbacks(const char *move);

/* The host's side, for mock_host.c. */
struct omid_host;
void mock_doors_set(struct omid_host *table);
int mock_door_route(const struct omid_route *route);
void mock_doors_stop(const struct omid_instance *inst); /* its callbacks are gone */
void mock_doors_clear(void);                            /* ends the test when a callback is left */

#endif
