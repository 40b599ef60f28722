/*
 * The plugin summary: conversations and days summarised by a language model over the OpenAI chat-completions API.
 *
 *   plugin.c       options, life
 *   work.c         one question: prepared on an executor, in parts when it is long, joined, checked, repaired once
 *   call.c         one request, and what its answer's status means
 *   transcript.c   a conversation, or a day's, as lines of text, cut into parts
 *   prompt.c       request bodies
 *   completion.c   the API's answer: its text, its tokens
 *   check.c        the model's JSON, member by member
 */
#ifndef OMID_SUMMARY_SUMMARY_H
#define OMID_SUMMARY_SUMMARY_H

#include <omid/plugin.h>

#include "plugins/kit/json.h"
#include "plugins/kit/text.h"

#define SUMMARY_MAX_PARTS 64

enum outcome { OUT_OK, OUT_UNREACHED, OUT_TIMEOUT, OUT_BUSY, OUT_REFUSED, OUT_SERVER, OUT_BAD_ANSWER, OUTCOMES };
enum question_end { Q_ANSWERED, Q_REPAIRED, Q_NOTHING, Q_UNUSABLE, Q_FAILED, Q_FULL, QUESTION_ENDS };

struct settings {
    struct omid_module *mod;
    const struct omid_host *host;
    char *url;           /* of chat completions */
    char *authorization; /* the header line; NULL: none */
    const char *model;
    double temperature; /* below 0: not sent */
    int64_t max_tokens;
    const char *max_tokens_name;
    bool response_format;
    size_t prompt_size;
    unsigned max_parts, parts_at_once, max_questions;
    uint32_t deadline_ms, retry_after_ms;
    struct omid_counter *requests[OUTCOMES], *questions[QUESTION_ENDS], *prompt_tokens, *completion_tokens, *parts_sent,
        *parts_left_out;
};

struct instance {
    struct omid_instance *inst;
    const struct settings *set;
    struct work *work; /* all of them, linked */
    unsigned n_work;
    bool draining;
};

/* ---- transcript.c: any thread ---- */
struct transcript {
    char *part[SUMMARY_MAX_PARTS]; /* whole lines; the whole text where there is one */
    unsigned n;
    unsigned left_out; /* parts from the middle of what is too long even so */
    char *began;       /* RFC 3339; "" unknown */
    bool photos;       /* there are some, though nothing is to be read */
};
/* n 0: there is nothing to read in it. false: a fault. */
bool transcript_read(enum omid_summary_kind kind, const char *json, size_t len, size_t part_size, unsigned max_parts,
                     struct transcript *t, struct kit_fault *f);
void transcript_free(struct transcript *t);

/* ---- prompt.c ---- */
struct prompt {
    enum omid_summary_kind kind;
    const char *language, *began, *now;
    const char *nonce; /* what the text between the marks can't know */
    const char *text;
    bool notes;                 /* text is notes of parts, not the transcript itself */
    unsigned part, parts;       /* of a part: 1..parts; 0: the whole */
    const char *answer, *fault; /* of a repair: what it said, and what is wrong with it */
};
void prompt_write(const struct settings *set, const struct prompt *p, struct kit_text *out);

/* ---- completion.c ---- */
struct completion {
    char *content; /* trimmed, without a fence around it; the caller frees */
    bool cut;      /* it ran into the bound of tokens */
    int64_t prompt_tokens, completion_tokens;
};
bool completion_read(const char *body, size_t len, struct completion *c, struct kit_fault *f);

/* ---- check.c ---- */
/* Appends the object with the members that are known, and no others. false: a fault, which says what and where. */
bool check_summary(enum omid_summary_kind kind, const char *text, size_t len, struct kit_text *out,
                   struct kit_fault *f);

/* ---- call.c ---- */
struct call_result {
    int result;       /* OMID_OK, or what the question's answer is to be */
    const char *text; /* why not; never holds the key */
    struct completion completion;
};
struct call {
    struct instance *in;
    struct omid_http *http;
    struct omid_timer *wait; /* Retry-After */
    struct kit_text body;
    bool waited;
    uint64_t until_ms;                              /* monotonic: the question's deadline */
    void (*done)(void *arg, struct call_result *r); /* r->completion.content may be taken (null it) */
    void *arg;
};
/* Takes over body. done() comes once, not within this call, unless call_cancel() comes first. false: not begun, text
 * says why. */
bool call_start(struct call *c, struct instance *in, struct kit_text *body, uint64_t until_ms,
                void (*done)(void *arg, struct call_result *r), void *arg, const char **text);
void call_cancel(struct call *c);

/* ---- work.c ---- */
int work_summarize(struct instance *in, const struct omid_summary_request *req, struct omid_ask *ask);
void work_stop_all(struct instance *in);

#endif
