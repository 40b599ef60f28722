/* A configuration's text: whatever it is, it gives a configuration or faults that say where. */
#include <string.h>

#include "../unit/conf_fake.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf_faults faults = {.text = BUF_INIT(1u << 20)};
    char *text = strndup((const char *)data, size);
    FUZZ_CHECK(text != NULL);
    struct conf *c = conf_load_text(text, "fuzz.conf", &fake_source, &faults);
    FUZZ_CHECK((c == NULL) == (faults.errors > 0));
    if (faults.errors + faults.warnings > 0)
        FUZZ_CHECK(faults.text.len > 0 && faults.text.data[faults.text.len - 1] == '\n');
    if (c != NULL) {
        /* What is loaded twice is the same. */
        struct conf_faults again = {.text = BUF_INIT(1u << 20)};
        struct conf *d = conf_load_text(text, "fuzz.conf", &fake_source, &again);
        FUZZ_CHECK(d != NULL && d->n_plugins == c->n_plugins && again.warnings == faults.warnings);
        for (size_t i = 0; i < c->n_plugins; i++)
            FUZZ_CHECK(conf_plugin_same(&c->plugin[i], &d->plugin[i]));
        conf_carry(d, c, &again);
        FUZZ_CHECK(again.errors == 0);
        conf_free(&d);
        conf_faults_free(&again);
    }
    conf_free(&c);
    conf_faults_free(&faults);
    free(text);
    return 0;
}
