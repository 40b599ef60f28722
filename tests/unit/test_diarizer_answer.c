/* What an embedding service may answer, and what not; and what the plugin sends it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/wav.h"
#include "plugins/diarizer/answer.h"
#include "plugins/kit/multipart.h"
#include "unit.h"

static const char *read_text(const char *body, size_t len, size_t *n, float *last)
{
    static char err[96];
    float *v = NULL;
    err[0] = '\0';
    *n = 0;
    if (!answer_vector(body, len, &v, n, err, sizeof(err))) {
        CU_ASSERT_PTR_NULL(v);
        return err;
    }
    *last = v[*n - 1];
    free(v);
    return "";
}

static void test_good(void)
{
    static const char *const good[] = {"[1,2.5]", "{\"embedding\":[1,2.5]}",
                                       " { \"model\":{\"embedding\":[9,9,9]}, "
                                       "\"embedding\" : [ 1 , 2.5e0 ] , \"x\":[[[]]] } ",
                                       "{\"embedding\":[7,7,7,7],\"embedding\":[0,2.5]}"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        size_t n;
        float last = 0;
        CU_ASSERT_STRING_EQUAL(read_text(good[i], strlen(good[i]), &n, &last), "");
        CU_ASSERT_EQUAL(n, 2);
        CU_ASSERT_EQUAL(last, 2.5F);
    }
}

static void test_bad(void)
{
    static const struct {
        const char *body, *why;
    } bad[] = {
        {"", "it is not JSON"},
        {"<html>", "it is not JSON"},
        {"[1,NaN]", "it is not JSON"},
        {"[1,2", "it is not JSON"},
        {"[1,2]]", "it is not JSON"},
        {"[1,null]", "a value of the vector is no number"},
        {"[1,\"2\"]", "a value of the vector is no number"},
        {"[1,[2]]", "a value of the vector is no number"},
        {"[{}]", "a value of the vector is no number"},
        {"[1,true]", "a value of the vector is no number"},
        {"[1,1e99]", "a value of the vector is too large"},
        {"[1,-1e400]", "a value of the vector is too large"},
        {"[0,0,-0.0]", "the vector is all zeros"},
        {"[]", "the vector has fewer than 2 values"},
        {"[1]", "the vector has fewer than 2 values"},
        {"{\"embedding\":[1]}", "the vector has fewer than 2 values"},
        {"{}", "it has no \"embedding\""},
        {"{\"e\":{\"embedding\":[1,2]}}", "it has no \"embedding\""},
        {"{\"embedding\":\"x\"}", "\"embedding\" is no array"},
        {"{\"embedding\":{\"embedding\":[1,2]}}", "\"embedding\" is no array"},
        {"{\"embedding\":null}", "\"embedding\" is no array"},
        {"7", "it is neither an array nor an object"},
        {"null", "it is neither an array nor an object"},
        {"{\"a\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}", "it is nested too deep"},
        {"[1,0.00000000000000000000000000000000000000000000000000000000000000000001]",
         "a number of the vector is too long"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        size_t n;
        float last;
        const char *why = read_text(bad[i].body, strlen(bad[i].body), &n, &last);
        if (strcmp(why, bad[i].why) != 0)
            fprintf(stderr, "%s: %s\n", bad[i].body, why);
        CU_ASSERT_STRING_EQUAL(why, bad[i].why);
    }
}

static void test_many(void)
{
    size_t len = 2 * 1000000 + 1, n;
    char *body = malloc(len);
    float last;
    for (size_t i = 0; i < len; i++)
        body[i] = i == 0 ? '[' : i == len - 1 ? ']' : i % 2 ? '1' : ',';
    CU_ASSERT_STRING_EQUAL(read_text(body, len, &n, &last), "the vector has more than 65536 values");
    body[2 * ANSWER_MAX_VALUES] = ']';
    CU_ASSERT_STRING_EQUAL(read_text(body, 2 * ANSWER_MAX_VALUES + 1, &n, &last), "");
    CU_ASSERT_EQUAL(n, ANSWER_MAX_VALUES);
    free(body);
}

static void test_multipart(void)
{
    static const int16_t pcm[] = {1, -2, 32767, -32768};
    struct kit_multipart m;
    char header[96];
    kit_multipart_begin(&m, "0123");
    kit_multipart_field(&m, "model", "x");
    unsigned char *wav = kit_multipart_file(&m, "file", "a.wav", "audio/wav", wav_size(4));
    CU_ASSERT_PTR_NOT_NULL_FATAL(wav);
    wav_write(wav, pcm, 4, 16000);
    CU_ASSERT(kit_multipart_end(&m));
    kit_multipart_header(&m, header, sizeof(header));
    CU_ASSERT_STRING_EQUAL(header, "Content-Type: multipart/form-data; boundary=----omid-0123");
    static const char before[] = "------omid-0123\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nx\r\n"
                                 "------omid-0123\r\nContent-Disposition: form-data; name=\"file\"; "
                                 "filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n",
                      after[] = "\r\n------omid-0123--\r\n";
    static const unsigned char file[] = "RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0"
                                        "data\x08\0\0\0\x01\0\xfe\xff\xff\x7f\0\x80";
    size_t n = sizeof(before) - 1, f = sizeof(file) - 1, a = sizeof(after) - 1;
    CU_ASSERT_EQUAL_FATAL(m.len, n + f + a);
    CU_ASSERT(memcmp(m.data, before, n) == 0);
    CU_ASSERT(memcmp(m.data + n, file, f) == 0);
    CU_ASSERT(memcmp(m.data + n + f, after, a) == 0);
    kit_multipart_free(&m);
}

int main(void)
{
    CU_TestInfo tests[] = {
        {"what is a vector", test_good},  {"what is none", test_bad}, {"a million values", test_many},
        {"what is sent", test_multipart}, CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = {{"diarizer_answer", NULL, NULL, NULL, NULL, tests}, CU_SUITE_INFO_NULL};
    return unit_run(suites);
}
