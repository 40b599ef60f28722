/* Keys and certificates for tests, as PEM text made on the spot. */
#ifndef OMID_TESTS_PEM_H
#define OMID_TESTS_PEM_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "base/magic.h"

static inline EVP_PKEY *pem_key(void)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    omid_assert(k != NULL);
    return k;
}

static inline char *pem_text(BIO *bio)
{
    char *data;
    long n = BIO_get_mem_data(bio, &data);
    char *text = strndup(data, (size_t)n);
    omid_assert(text != NULL);
    BIO_free(bio);
    return text;
}

/* The caller's. With a passphrase, or NULL. */
static inline char *pem_of_key(EVP_PKEY *k, const char *passphrase)
{
    BIO *bio = BIO_new(BIO_s_mem());
    omid_assert(PEM_write_bio_PKCS8PrivateKey(bio, k, passphrase ? EVP_aes_128_cbc() : NULL, passphrase,
                                              passphrase ? (int)strlen(passphrase) : 0, NULL, NULL) == 1);
    return pem_text(bio);
}

/* Signed by itself, valid until so many seconds from now. The caller's. */
static inline char *pem_of_certificate(EVP_PKEY *k, const char *name, long seconds)
{
    X509 *x = X509_new();
    BIO *bio = BIO_new(BIO_s_mem());
    omid_assert(x && X509_set_version(x, 2) && ASN1_INTEGER_set(X509_get_serialNumber(x), 1));
    X509_gmtime_adj(X509_getm_notBefore(x), -86400);
    X509_gmtime_adj(X509_getm_notAfter(x), seconds);
    X509_NAME *n = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    omid_assert(X509_set_issuer_name(x, n) && X509_set_pubkey(x, k) && X509_sign(x, k, EVP_sha256()) > 0);
    omid_assert(PEM_write_bio_X509(bio, x) == 1);
    X509_free(x);
    return pem_text(bio);
}

#endif
