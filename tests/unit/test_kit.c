/* What the plugins share: text, JSON, multipart, WAV. */
#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plugins/kit/json.h"
#include "plugins/kit/multipart.h"
#include "plugins/kit/parts.h"
#include "plugins/kit/text.h"
#include "plugins/kit/wav.h"
#include "plugins/kit/wav_read.h"

static void test_text(void)
{
    struct kit_text t = {0};
    kit_text_adds(&t, "a");
    kit_text_addf(&t, "%d-%0300d", 5, 7);
    CU_ASSERT_EQUAL(t.len, 303);
    CU_ASSERT_EQUAL(strlen(t.data), 303);
    kit_text_free(&t);
    kit_text_add_json(&t, "q\" b\\ n\n \xc3\xa4 \xff \xed\xa0\x80", 17);
    CU_ASSERT_STRING_EQUAL(t.data, "\"q\\\" b\\\\ n\\u000a \xc3\xa4 \\ufffd \\ufffd\\ufffd\\ufffd\"");
    kit_text_free(&t);
    const double numbers[] = {0.1, 52.5200066, -0.0, 1e300, 3, NAN};
    for (size_t i = 0; i < 6; i++) {
        kit_text_add_number(&t, numbers[i]);
        kit_text_adds(&t, " ");
    }
    CU_ASSERT_STRING_EQUAL(t.data, "0.1 52.5200066 -0 1e+300 3 null ");
    kit_text_free(&t);
    struct kit_text bounded = {.max = 10};
    kit_text_adds(&bounded, "1234567890");
    CU_ASSERT_FALSE(bounded.failed);
    kit_text_adds(&bounded, "1");
    CU_ASSERT_TRUE(bounded.failed && bounded.data == NULL && bounded.len == 0);
    kit_text_adds(&bounded, "1");
    CU_ASSERT_EQUAL(bounded.len, 0);
}

static void refuses(const char *text, size_t len, const char *why)
{
    struct kit_fault f = {""};
    yajl_val v = kit_json_parse(text, len, 4096, &f);
    CU_ASSERT_PTR_NULL(v);
    if (strstr(f.text, why) == NULL)
        fprintf(stderr, "%s: %s\n", text, f.text);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, why));
    kit_json_free(&v);
}

static void test_json_bad(void)
{
    static char deep[4096];
    refuses("", 0, "it is empty");
    refuses("<html>", 6, "no JSON");
    refuses("{} {}", 5, "no JSON");
    refuses("[1", 2, "no JSON");
    refuses("\"\xff\"", 3, "no JSON");
    refuses("[]\0[]", 5, "no JSON, from byte 2");
    refuses("\"a\\u0000b\"", 10, "NUL");
    memset(deep, '[', 70);
    memset(deep + 70, ']', 70);
    refuses(deep, 140, "more than 64 levels");
    memset(deep, ' ', sizeof(deep));
    refuses(deep, 5000, "5000 bytes, more than the 4096");
}

#define FAULT(call, expected)                     \
    do {                                          \
        struct kit_fault f = {""};                \
        CU_ASSERT_FALSE(call);                    \
        CU_ASSERT_STRING_EQUAL(f.text, expected); \
    } while (0)

static void test_json_members(void)
{
    static const char text[] = "{\"s\":\"x\",\"n\":1.5,\"i\":7,\"b\":true,\"a\":[1],\"o\":{\"k\":null},\"big\":1e999}";
    struct kit_fault none = {""};
    yajl_val v = kit_json_parse(text, sizeof(text) - 1, 1000, &none), m;
    const char *s;
    double d;
    int64_t i;
    bool b;
    CU_ASSERT_PTR_NOT_NULL_FATAL(v);
    CU_ASSERT_TRUE(kit_json_string(v, "", "s", &s, &none) && strcmp(s, "x") == 0);
    CU_ASSERT_TRUE(kit_json_number(v, "", "n", &d, &none) && d == 1.5);
    CU_ASSERT_TRUE(kit_json_number(v, "", "i", &d, &none) && d == 7);
    CU_ASSERT_TRUE(kit_json_integer(v, "", "i", &i, &none) && i == 7);
    CU_ASSERT_TRUE(kit_json_bool(v, "", "b", &b, &none) && b);
    CU_ASSERT_TRUE(kit_json_array(v, "", "a", &m, &none) && kit_json_len(m) == 1);
    CU_ASSERT_TRUE(kit_json_number(kit_json_at(m, 0), "a[0]", NULL, &d, &none) && d == 1);
    CU_ASSERT_TRUE(kit_json_object(v, "", "o", &m, &none));
    CU_ASSERT_STRING_EQUAL(none.text, "");
    FAULT(kit_json_string(m, "o", "k", &s, &f), "o.k: expected a string, found null");
    FAULT(kit_json_string(v, "", "n", &s, &f), "n: expected a string, found a number");
    FAULT(kit_json_string(v, "", "zz", &s, &f), "zz: expected a string, found nothing");
    FAULT(kit_json_integer(v, "here", "n", &i, &f), "here.n: expected an integer, found a number");
    FAULT(kit_json_number(v, "", "big", &d, &f), "big: a number beyond all bounds");
    FAULT(kit_json_array(v, "", NULL, &m, &f), "expected an array, found an object");
    FAULT(kit_json_string(kit_json_get(v, "a"), "a", "k", &s, &f), "a: expected an object, found an array");
    kit_json_free(&v);
}

static void test_multipart(void)
{
    struct kit_multipart body;
    char header[128];
    kit_multipart_begin(&body, "0000-b");
    kit_multipart_field(&body, "language", "en");
    unsigned char *file = kit_multipart_file(&body, "file", "audio.wav", "audio/wav", 7);
    CU_ASSERT_PTR_NOT_NULL_FATAL(file);
    memcpy(file, "R\r\n-\0-F", 7);
    CU_ASSERT_TRUE(kit_multipart_end(&body));
    kit_multipart_header(&body, header, sizeof(header));
    CU_ASSERT_STRING_EQUAL(header, "Content-Type: multipart/form-data; boundary=----omid-0000-b");
    struct kit_parts m;
    struct kit_part part;
    struct kit_fault f = {""};
    CU_ASSERT_TRUE_FATAL(kit_parts_open(&m, header + 14, body.data, body.len, &f));
    CU_ASSERT_EQUAL(kit_parts_next(&m, &part, &f), 1);
    CU_ASSERT_STRING_EQUAL(part.name, "language");
    CU_ASSERT_TRUE(part.len == 2 && memcmp(part.data, "en", 2) == 0 && part.file_name[0] == '\0');
    CU_ASSERT_EQUAL(kit_parts_next(&m, &part, &f), 1);
    CU_ASSERT_STRING_EQUAL(part.name, "file");
    CU_ASSERT_STRING_EQUAL(part.file_name, "audio.wav");
    CU_ASSERT_STRING_EQUAL(part.content_type, "audio/wav");
    CU_ASSERT_TRUE(part.len == 7 && memcmp(part.data, "R\r\n-\0-F", 7) == 0);
    CU_ASSERT_EQUAL(kit_parts_next(&m, &part, &f), 0);
    CU_ASSERT_EQUAL(kit_parts_next(&m, &part, &f), 0);
    /* Cut anywhere, it is a fault, and nothing is read beyond its end. */
    for (size_t cut = 0; cut + 4 < body.len; cut++) {
        char *piece = malloc(cut + 1);
        memcpy(piece, body.data, cut);
        struct kit_fault why = {""};
        int r = kit_parts_open(&m, header + 14, piece, cut, &why) ? 1 : -1;
        while (r > 0)
            r = kit_parts_next(&m, &part, &why);
        CU_ASSERT_EQUAL(r, -1);
        CU_ASSERT_NOT_EQUAL(why.text[0], '\0');
        free(piece);
    }
    kit_multipart_free(&body);
}

static int parts(const char *type, const char *body, struct kit_part *last, struct kit_fault *f)
{
    struct kit_parts m;
    int n = 0, r;
    *f = (struct kit_fault){""};
    if (!kit_parts_open(&m, type, body, strlen(body), f))
        return -1;
    struct kit_part p;
    while ((r = kit_parts_next(&m, &p, f)) > 0) {
        *last = p;
        n++;
    }
    return r < 0 ? -1 : n;
}

static void test_multipart_odd(void)
{
    struct kit_part p;
    struct kit_fault f;
    CU_ASSERT_EQUAL(
        parts("Multipart/Form-Data; charset=x; Boundary=\"a b\"",
              "preamble\r\n--a b \r\ncontent-disposition: form-data; filename=\"..\\\"/;name=x\"; name=f\r\n\r\n"
              "\r\n--a b--",
              &p, &f),
        1);
    CU_ASSERT_STRING_EQUAL(p.name, "f");
    CU_ASSERT_STRING_EQUAL(p.file_name, "..\"/;name=x");
    CU_ASSERT_EQUAL(p.len, 0);
    CU_ASSERT_EQUAL(parts("text/plain", "x", &p, &f), -1);
    CU_ASSERT_EQUAL(parts("multipart/form-data", "x", &p, &f), -1);
    CU_ASSERT_EQUAL(parts("multipart/form-data; boundary=", "x", &p, &f), -1);
    CU_ASSERT_EQUAL(parts("multipart/form-data; boundary=b", "nothing of it", &p, &f), -1);
    CU_ASSERT_EQUAL(parts("multipart/form-data; boundary=b", "--b\r\n\r\nno name\r\n--b--", &p, &f), -1);
    CU_ASSERT_PTR_NOT_NULL(strstr(f.text, "no name"));
    struct kit_text many = {0};
    for (int i = 0; i < 10000; i++)
        kit_text_adds(&many, "--b\r\nContent-Disposition: form-data; name=n\r\n\r\nv\r\n");
    kit_text_adds(&many, "--b--");
    CU_ASSERT_EQUAL(parts("multipart/form-data; boundary=b", many.data, &p, &f), -1);
    CU_ASSERT_STRING_EQUAL(f.text, "multipart: more than 1000 parts");
    kit_text_free(&many);
}

static void put_le(unsigned char *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)(v >> (8 * i));
}

/* A WAV with one frame of these bytes. */
static size_t wav_of(unsigned char *out, unsigned format, unsigned channels, unsigned bits, const void *frame,
                     size_t len)
{
    memcpy(out, "RIFF....WAVEfmt ", 16);
    put_le(out + 4, 36 + len, 4);
    put_le(out + 16, 16, 4);
    put_le(out + 20, format, 2);
    put_le(out + 22, channels, 2);
    put_le(out + 24, 44100, 4);
    put_le(out + 28, 44100u * channels * bits / 8, 4);
    put_le(out + 32, channels * bits / 8, 2);
    put_le(out + 34, bits, 2);
    memcpy(out + 36, "data", 4);
    put_le(out + 40, len, 4);
    memcpy(out + 44, frame, len);
    return 44 + len;
}

static void test_wav_forms(void)
{
    const float f32[] = {0.5F, -1.F, NAN, 7.F};
    const double f64[] = {-0.25};
    const struct {
        unsigned format, channels, bits;
        const void *frame;
        size_t len;
        int16_t expected;
    } forms[] = {
        {1, 1, 16, "\x34\x12", 2, 0x1234},
        {1, 2, 16, "\x00\x10\x00\x20", 4, 0x1800},
        {1, 1, 8, "\x80", 1, 0},
        {1, 1, 8, "\x00", 1, -32768},
        {1, 1, 24, "\xff\x34\x12", 3, 0x1235},
        {1, 1, 24, "\x00\x00\x80", 3, -32768},
        {1, 1, 32, "\x00\x00\x34\x12", 4, 0x1234},
        {3, 1, 32, &f32[0], 4, 16384},
        {3, 2, 32, &f32[0], 8, -8192},
        {3, 1, 32, &f32[2], 4, 0},
        {3, 1, 32, &f32[3], 4, 32767},
        {3, 1, 64, &f64[0], 8, -8192},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        unsigned char file[128];
        size_t len = wav_of(file, forms[i].format, forms[i].channels, forms[i].bits, forms[i].frame, forms[i].len);
        struct kit_wav w;
        struct kit_fault f = {""};
        int16_t v = 99;
        CU_ASSERT_TRUE_FATAL(kit_wav_parse(&w, file, len, &f));
        CU_ASSERT_EQUAL(w.frames, 1);
        CU_ASSERT_EQUAL(w.sample_rate, 44100);
        CU_ASSERT_FALSE(w.truncated);
        kit_wav_mono(&w, 0, 1, &v);
        if (v != forms[i].expected)
            fprintf(stderr, "form %zu: %d, expected %d\n", i, v, forms[i].expected);
        CU_ASSERT_EQUAL(v, forms[i].expected);
        /* Cut anywhere: fewer frames or a fault, nothing read beyond the end. */
        for (size_t cut = 0; cut < len; cut++) {
            unsigned char *piece = malloc(cut + 1);
            memcpy(piece, file, cut);
            struct kit_fault why = {""};
            if (kit_wav_parse(&w, piece, cut, &why))
                CU_ASSERT_TRUE(w.frames == 0 && w.truncated)
            else
                CU_ASSERT_NOT_EQUAL(why.text[0], '\0');
            free(piece);
        }
    }
}

static void wav_refused(unsigned format, unsigned channels, unsigned bits, const char *why)
{
    unsigned char file[128];
    struct kit_wav w;
    struct kit_fault f = {""};
    size_t len = wav_of(file, format, channels, bits, "1234567890123456", 16);
    CU_ASSERT_FALSE(kit_wav_parse(&w, file, len, &f));
    CU_ASSERT_STRING_EQUAL(f.text, why);
}

static void test_wav_lies(void)
{
    unsigned char file[128];
    struct kit_wav w;
    struct kit_fault f = {""};
    wav_refused(85, 1, 16, "WAV: format 85 is neither PCM nor float");
    wav_refused(1, 0, 16, "WAV: 0 channels, expected 1 to 64");
    wav_refused(1, 1, 12, "WAV: 12 bits a sample");
    wav_refused(3, 1, 16, "WAV: 16 bits a sample of floats");
    size_t len = wav_of(file, 1, 1, 16, "abcdefg", 7);
    CU_ASSERT_TRUE(kit_wav_parse(&w, file, len, &f) && w.frames == 3 && !w.truncated);
    put_le(file + 40, 1000000, 4);
    CU_ASSERT_TRUE(kit_wav_parse(&w, file, len, &f) && w.frames == 3 && w.truncated);
    put_le(file + 40, UINT32_MAX, 4);
    CU_ASSERT_TRUE(kit_wav_parse(&w, file, len, &f) && w.frames == 3 && !w.truncated);
    put_le(file + 40, 0, 4);
    put_le(file + 4, 0, 4);
    CU_ASSERT_TRUE(kit_wav_parse(&w, file, len, &f) && w.frames == 3 && !w.truncated);
    put_le(file + 4, 43, 4); /* other chunks follow: it means what it says */
    CU_ASSERT_TRUE(kit_wav_parse(&w, file, len, &f) && w.frames == 0 && !w.truncated);
    put_le(file + 34, 8, 2);
    CU_ASSERT_FALSE(kit_wav_parse(&w, file, len, &f));
    CU_ASSERT_STRING_EQUAL(f.text, "WAV: frames of 2 bytes for 1 channels of 8 bits");
}

static void test_wav_write(void)
{
    int16_t pcm[1000], back[1000];
    unsigned char file[2044];
    struct kit_wav w;
    struct kit_fault f = {""};
    for (int i = 0; i < 1000; i++)
        pcm[i] = (int16_t)(i * 65 - 32768);
    CU_ASSERT_EQUAL_FATAL(kit_wav_size(1000), sizeof(file));
    kit_wav_write(file, pcm, 1000, 16000);
    CU_ASSERT_TRUE_FATAL(kit_wav_parse(&w, file, sizeof(file), &f));
    CU_ASSERT_TRUE(w.frames == 1000 && w.sample_rate == 16000 && w.channels == 1 && w.bits == 16 && !w.is_float);
    kit_wav_mono(&w, 0, 1000, back);
    CU_ASSERT_EQUAL(memcmp(pcm, back, sizeof(pcm)), 0);
}

int main(void)
{
    static CU_TestInfo tests[] = {{"text", test_text},
                                  {"JSON that is none", test_json_bad},
                                  {"members of JSON", test_json_members},
                                  {"multipart", test_multipart},
                                  {"odd multipart", test_multipart_odd},
                                  {"forms of WAV", test_wav_forms},
                                  {"WAVs that lie", test_wav_lies},
                                  {"WAV written", test_wav_write},
                                  CU_TEST_INFO_NULL};
    static CU_SuiteInfo suites[] = {{"kit", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed != 0;
}
