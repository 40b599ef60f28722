/* Hashes with a key, so that strangers who choose what is hashed cannot choose the hash: SipHash-1-3. Any thread. */
#ifndef OMID_BASE_HASH_H
#define OMID_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* With the process's key, which is drawn at random: the same for its life. For tables, shard choices and the like. */
uint64_t hash_keyed(const void *data, size_t len);
/* With a key of the caller's. */
uint64_t hash_siphash(const uint64_t secret[2], const void *data, size_t len);
/* A short hash of a uid for logs ("u:1a2b3c4d5e6f"), the same for the life of the process: keyed, so that it can't be
 * reversed by guessing. */
void hash_uid_tag(const char *uid, char out[16]);

#endif
