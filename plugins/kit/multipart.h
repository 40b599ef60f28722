/* multipart/form-data (RFC 7578): writing a body with one file, reading the parts of a stranger's. */
#ifndef OMID_PLUGINS_KIT_MULTIPART_H
#define OMID_PLUGINS_KIT_MULTIPART_H

#include "json.h"
#include "text.h"

#define KIT_MULTIPART_MAX_PARTS 1000

/*
 * Writing: begin, fields and files in any order, end. boundary: 1..64 characters of [A-Za-z0-9-], not in any part: a
 * UUID. Names are the program's own: without quotes and line ends.
 *
 *     struct kit_text body = {0};
 *     kit_multipart_file(&body, boundary, "file", "audio.wav", "audio/wav");   the file's bytes follow
 *     kit_wav_write(&body, pcm, samples, rate);
 *     kit_multipart_end(&body, boundary);
 *     kit_multipart_header(header, boundary);         "Content-Type: multipart/form-data; boundary=..."
 */
#define KIT_MULTIPART_HEADER_LEN 128
void kit_multipart_header(char out[KIT_MULTIPART_HEADER_LEN], const char *boundary);
void kit_multipart_field(struct kit_text *body, const char *boundary, const char *name, const char *value);
void kit_multipart_file(struct kit_text *body, const char *boundary, const char *name, const char *file_name,
                        const char *content_type);
void kit_multipart_end(struct kit_text *body, const char *boundary);

/* Reading. Everything points into the body; nothing is copied but names, which are cut. */
struct kit_multipart {
    const char *at, *end;
    char boundary[80]; /* with "\r\n--" before it */
    size_t boundary_len;
    unsigned parts;
};
struct kit_part {
    char name[64];
    char file_name[128]; /* "" : none was given. As the client wrote it: never a path of ours */
    char content_type[64];
    const char *data;
    size_t len;
};

static inline bool kit_multipart_is(const char *content_type)
{
    return __builtin_strncasecmp(content_type, "multipart/form-data", 19) == 0;
}
/* false: a fault. */
bool kit_multipart_open(struct kit_multipart *m, const char *content_type, const void *body, size_t len,
                        struct kit_fault *f);
/* 1: a part; 0: that were all; -1: a fault: no end, more than KIT_MULTIPART_MAX_PARTS, a part without a name. */
int kit_multipart_next(struct kit_multipart *m, struct kit_part *part, struct kit_fault *f);

#endif
