/* Plugins' own values: owner (the plugin's name) and key to bytes, some until a time. */
#ifndef OMID_STORE_VALUES_H
#define OMID_STORE_VALUES_H

#include "store/store.h"

#define STORE_MAX_VALUE_KEY 512
#define STORE_MAX_VALUE ((size_t)64 << 10)
/* Of one owner, unless store_config says otherwise. One more is refused; what is over makes room first. */
#define STORE_MAX_VALUES 1000000
#define STORE_MAX_VALUE_BYTES ((uint64_t)256 << 20)

/* value NULL: removes it. now_ms: Unix ms; ttl_ms 0: for good. cb may be NULL; its result: OMID_OK, OMID_EFULL (the
 * owner's bound), OMID_ERR. Returns OMID_EINVAL for a key or value that is too long. */
int store_value_put(struct store *s, const char *owner, const char *key, const void *value, size_t len, int64_t now_ms,
                    int64_t ttl_ms, struct loop *loop, void (*cb)(void *arg, int result), void *arg);
/* The value is valid until cb returns; NULL with OMID_OK: there is none, or it is over. */
int store_value_get(struct store *s, const char *owner, const char *key, int64_t now_ms, struct loop *loop,
                    void (*cb)(void *arg, int result, const void *value, size_t len), void *arg);

#endif
