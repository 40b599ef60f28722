/* What jwt.c needs of a key set. Within core/ingress. */
#ifndef OMID_INGRESS_JWK_H
#define OMID_INGRESS_JWK_H

#include <openssl/evp.h>

#include "ingress/jwt.h"

/* The key of this id, or NULL; the set's. */
EVP_PKEY *jwt_keys_find(const struct jwt_keys *keys, const char *kid);

#endif
