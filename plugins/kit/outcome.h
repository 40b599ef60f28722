/* What became of a request to a partner, in few words; and the URLs that lead there. */
#ifndef OMID_KIT_OUTCOME_H
#define OMID_KIT_OUTCOME_H

#include <omid/plugin.h>

enum kit_outcome {
    KIT_OK,
    KIT_UNREACHED,  /* no connection, or it broke */
    KIT_TIMEOUT,    /* no whole answer in time */
    KIT_BUSY,       /* our own lane is full or its breaker open, or the partner says so: 429, 503 */
    KIT_REFUSED,    /* any other 4xx, and what is neither success nor failure */
    KIT_SERVER,     /* any other 5xx */
    KIT_BAD_ANSWER, /* no HTTP, too much, or not what was asked for */
    KIT_STOPPED,    /* the daemon goes away */
    KIT_OUTCOMES
};
extern const char *const kit_outcome_names[KIT_OUTCOMES]; /* "ok", "unreached", ...: for metrics */

/* Looks at error, status and truncated; a body is the caller's to judge. text gets why ("HTTP status 500"), "" when
 * OK; it holds nothing of the answer. */
enum kit_outcome kit_outcome_of(const struct omid_http_response *res, char *text, size_t size);
/* The same as an omid_result: what an asker is told. */
int kit_outcome_result(enum kit_outcome outcome);

/* NULL, or what is wrong with a URL of the configuration: "expected http:// or https:// and a host". */
const char *kit_url_fault(const char *url);
/* base, whose slashes at the end count for nothing, and behind it path, which begins with one. The caller's to free;
 * NULL: no memory. */
char *kit_url_join(const char *base, const char *path);

#endif
