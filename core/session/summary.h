/* What conversations and days share of their summaries: an answer of the role, and the account of local ones. */
#ifndef OMID_SESSION_SUMMARY_H
#define OMID_SESSION_SUMMARY_H

#include <omid/plugin.h>

/* Why a summary is made here; labels of omi_fallback_total. */
#define SUMMARY_NO_PLUGIN "no_plugin"
#define SUMMARY_FAILED "failed"
#define SUMMARY_TIMEOUT "timeout"
#define SUMMARY_INVALID "invalid"

#define SUMMARY_OF_CONVERSATION "summary"
#define SUMMARY_OF_DAY "day_summary"

/* The `structured` object of an answer, labelled with its source; the caller frees. NULL: *fault says what is wrong
 * with it. */
char *summary_take(const struct omid_answer *a, const char **fault);
/* component and reason as above. Any thread. */
void summary_count_fallback(const char *component, const char *reason);
void summary_metrics(void); /* on the page from the start */

#endif
