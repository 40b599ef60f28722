/*
 * Summarises as the conversation's text says: with "nothing" there is nothing to process, with "never" it is never
 * served, "fails" fails each time, "silent" is never answered, "array" is answered with what is no object, "untitled"
 * without a title; anything else with a title.
 */
#include <string.h>

#include "plain.h"

static int summarize(void *state, const struct omid_summary_request *req, struct omid_ask *ask)
{
    static const char good[] = "{\"title\":\"By the plugin\",\"overview\":\"It was said.\",\"source\":\"forged\"}";
    static const char untitled[] = "{\"overview\":\"It was said.\"}";
    struct plain *p = state;
    struct omid_answer a = {.size = sizeof a, .mode = "test", .json = good};
    if (strstr(req->json, "nothing"))
        return OMID_ENOTSUP;
    if (strstr(req->json, "never"))
        return OMID_EINVAL;
    if (strstr(req->json, "silent"))
        return OMID_OK;
    if (strstr(req->json, "fails"))
        a = (struct omid_answer){.size = sizeof a, .result = OMID_ERR, .text = "on demand"};
    else if (strstr(req->json, "array"))
        a.json = "[1, 2]";
    else if (strstr(req->json, "untitled"))
        a.json = untitled;
    a.json_len = a.json ? strlen(a.json) : 0;
    p->host->answer(&ask, &a);
    return OMID_OK;
}

static const struct omid_summarize_role role = {.size = sizeof role, .summarize = summarize};

OMID_EXPORT const struct omid_plugin omid_plugin = {OMID_PLUGIN_HEAD, .name = "sums", .summarize = &role, PLAIN};
