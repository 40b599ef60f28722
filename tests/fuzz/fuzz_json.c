/* JSON of strangers: read, written, and read again it is the same. */
#include <string.h>

#include "base/json.h"
#include "fuzz.h"

static void look(yajl_val v)
{
    (void)json_str(v, "type");
    (void)json_num(v, "n", 0);
    (void)json_int(v, "n", 0);
    (void)json_bool(v, "b", false);
    (void)json_object(v, "o");
    yajl_val a = json_array(v, "a");
    for (size_t i = 0; i < json_len(a); i++)
        (void)json_at(a, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[128] = "";
    yajl_val v = json_parse((const char *)data, size, 65536, err, sizeof(err));
    FUZZ_CHECK((v == NULL) == (err[0] != '\0'));
    if (v == NULL)
        return 0;
    look(v);
    struct buf once = BUF_INIT(0), twice = BUF_INIT(0);
    struct json_w w;
    json_w_start(&w, &once);
    json_w_tree(&w, v);
    bool written = json_w_end(&w);
    json_free(&v);
    if (written) {
        v = json_parse(once.data, once.len, 0, err, sizeof(err));
        FUZZ_CHECK(v != NULL);
        json_w_start(&w, &twice);
        json_w_tree(&w, v);
        FUZZ_CHECK(json_w_end(&w) && once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
        json_free(&v);
    }
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
