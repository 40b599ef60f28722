/* Assertions and magic numbers: a pointer of the wrong type or a freed object stops the daemon at the door
 * of the module, not three calls later. Active in release builds too: a compare costs nothing here. */
#ifndef OMID_BASE_MAGIC_H
#define OMID_BASE_MAGIC_H

#include <stdint.h>

/* Logs file, line and expression to stderr, then abort(). Never returns. */
void omid_assert_failed(const char *expr, const char *file, int line) __attribute__((noreturn, cold));

#define omid_assert(expr) ((expr) ? (void)0 : omid_assert_failed(#expr, __FILE__, __LINE__))

/* Every long-lived struct begins with `uint32_t magic`, set at creation to a value of its own and to
 * OMID_MAGIC_DEAD when it is freed. */
#define OMID_MAGIC_DEAD UINT32_C(0xdeadf00d)
#define CHECK_MAGIC(obj, value) omid_assert((obj) != NULL && (obj)->magic == (value))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
