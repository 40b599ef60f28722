/* Names that can't lead anywhere: of users and conversations in paths and keys; and sums. */
#include <ctype.h>
#include <openssl/evp.h>
#include <string.h>

#include "storage.h"

#define UID_PLAIN_MAX 200 /* longer ones end in their hash */

bool conv_ok(const char *id)
{
    size_t n = id != NULL ? strlen(id) : 0;
    return n > 0 && n <= CONV_MAX &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == n;
}

void sha256_hex(char out[65], const void *data, size_t len)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (EVP_Digest(data, len, sum, &n, EVP_sha256(), NULL) != 1 || n != 32)
        n = 0;
    for (unsigned i = 0; i < n; i++)
        snprintf(out + (size_t)2 * i, 3, "%02x", sum[i]);
    out[(size_t)2 * n] = '\0';
}

/* Percent-encoded, a dot at its begin too; '~' is in no other name. */
bool uid_name(char out[UID_NAME_MAX], const char *uid)
{
    size_t at = 0;
    if (uid == NULL || *uid == '\0')
        return false;
    for (const char *p = uid; *p != '\0'; p++) {
        if (at + 3 > UID_PLAIN_MAX) {
            char sum[65];
            sha256_hex(sum, uid, strlen(uid));
            at = at > 100 ? 100 : at;
            snprintf(out + at, UID_NAME_MAX - at, "~%s", sum);
            return true;
        }
        unsigned char c = (unsigned char)*p;
        bool plain = c < 0x80 && (isalnum(c) || c == '-' || c == '_' || (c == '.' && p != uid));
        if (plain)
            out[at++] = (char)c;
        else
            at += (size_t)snprintf(out + at, 4, "%%%02X", c);
    }
    out[at] = '\0';
    return true;
}

uint32_t crc32_add(uint32_t crc, const void *data, size_t len)
{
    static const uint32_t nibble[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    const unsigned char *p = data;
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc = nibble[(crc ^ p[i]) & 15] ^ (crc >> 4);
        crc = nibble[(crc ^ (p[i] >> 4)) & 15] ^ (crc >> 4);
    }
    return ~crc;
}
