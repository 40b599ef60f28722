/*
 * A recording made offline, as a file: which kind it is, and its samples. Nothing here knows of users or jobs. Executor
 * threads: it reads, decodes and writes for as long as it takes.
 */
#ifndef OMID_SESSION_RECORDING_H
#define OMID_SESSION_RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORDING_RATE 16000 /* Hz, of what it is decoded to: mono, 16 bits */

/* The numbers are kept in the store. */
enum recording_format {
    RECORDING_UNKNOWN,
    RECORDING_WAV,
    RECORDING_OGG,    /* Opus in Ogg */
    RECORDING_FRAMES, /* as devices keep it: packets of Opus, each behind its length in 4 bytes, little endian */
};

/* By its first bytes; packets have none of their own and are known by the file's name, *.bin. */
enum recording_format recording_sniff(const void *data, size_t len, const char *name);

/*
 * Decodes to fd (at its begin). OMID_OK: *samples were written. OMID_EINVAL: it can't be decoded, or is longer than
 * max_samples, err says why; OMID_ERR: the disk or memory, err says which. Damaged packets within are left out and are
 * silence of 20 ms each.
 */
int recording_decode(enum recording_format format, const void *data, size_t len, uint64_t max_samples, int fd,
                     uint64_t *samples, char *err, size_t errlen);

/* Unix ms in a file's name: the last run of 10 (seconds) or 13 (milliseconds) digits. 0: there is none. */
int64_t recording_name_time(const char *name);

#endif
