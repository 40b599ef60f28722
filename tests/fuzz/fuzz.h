/*
 * A fuzzer: one file that defines LLVMFuzzerTestOneInput(), linked with the code it is for. Built by clang with
 * --enable-fuzz it is a libFuzzer program; in every other build tests/fuzz/replay.c gives it a main() that runs its
 * corpus once, as one of the unit tests. A property that does not hold is FUZZ_CHECK's.
 */
#ifndef OMID_TESTS_FUZZ_H
#define OMID_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(what)                                                      \
    do {                                                                      \
        if (!(what)) {                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, \
                    #what); /* NOLINT(bugprone-lambda-function-name) */       \
            abort();                                                          \
        }                                                                     \
    } while (0)

#endif
