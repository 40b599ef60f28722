/* Inside the requests of a lane: shared by request.c, easy.c, redirect.c and draft.c. */
#ifndef OMID_LANE_HTTP_REQUEST_INT_H
#define OMID_LANE_HTTP_REQUEST_INT_H

#include "base/buf.h"
#include "lane/http/lane_int.h"

#define REQUEST_MAGIC UINT32_C(0x68747470)
#define MAX_METHOD 32u
#define LANE_CODINGS "gzip, deflate" /* compressions that are taken of an answer */

/* A curl handle and what it is set to: what the next request needs alike is not set again. Lane thread. */
struct lane_easy {
    CURL *curl;
    struct lane_http *r; /* whose it is now */
    char *url;
    size_t url_size;
    char method[MAX_METHOD + 1];
    bool sends_body, closes;
    uint32_t timeout_ms, connect_ms;
    uint64_t outside; /* id of the conf_outside it is set to; 0: none */
    bool certificate; /* of it */
    bool sign;        /* it has a key */
    char text[CURL_ERROR_SIZE];
};

enum request_state { REQUEST_NEW, REQUEST_WAITING, REQUEST_RUNNING, REQUEST_HOPPING, REQUEST_OVER };

struct lane_http {
    uint32_t magic;
    atomic_uint refs;
    struct lane *lane; /* with a reference */
    struct loop_msg start, cancel, answer;

    /* the caller's end */
    struct loop *loop;
    omid_http_cb cb;
    void *arg;
    bool cancelled, answering;

    /* const once started; all behind this struct, in its own memory */
    const char *url, *method, *latest_key;
    const char *key; /* of the target; NULL for a bad URL */
    struct curl_slist *headers;
    const char *aws_sigv4, *aws_key_id, *aws_secret; /* NULL: not signed */
    const char *body;
    size_t body_len, max_body;
    uint32_t timeout_ms;
    unsigned flags;
    uint64_t begun_ms;

    /* the lane's end; what a redirect changes of the above, too */
    enum request_state state;
    struct waiter w;
    struct list running;
    bool in_latest;
    struct lane_easy *easy;
    uint64_t went_ms;     /* this attempt */
    uint64_t deadline_ms; /* from the first attempt on: of all hops together */
    unsigned hops;        /* redirects followed */
    unsigned follow;      /* and how many at most: the first target's word */
    char *hop_url;        /* what url is, after the first of them */
    bool left_origin;     /* a redirect has led elsewhere: no certificate is shown any more */
    bool bodyless;        /* a redirect has made it a GET */
    struct buf in;
    size_t seen, head_seen;
    unsigned codings;      /* compressions of the answer */
    bool aged;             /* it may say how long it is good for */
    bool blocked, dialled; /* an address was refused by the guard; one was not */
    bool local, enough;
    const char *bad_head; /* what is wrong with the answer's; NULL: nothing */

    /* the answer: the lane's until posted, then the caller's */
    struct omid_http_response res;
    char text[256];
};

/* ---- request.c ---- */
/* Texts come from curl and, through it, from peers. */
void request_set_text(struct lane_http *r, const char *text);

/* ---- easy.c: curl handles. Lane thread ---- */
bool easy_is_own_fault(long os_errno);
/* Set for the request, and in the multi: requests_done() follows. false: no memory. timeout_ms: of this attempt. */
bool easy_begin(struct lane_http *r, uint32_t timeout_ms);
/* Out of the multi, for the next request. */
void easy_end(struct lane_http *r);

/* ---- redirect.c: lane thread ---- */
enum hop {
    HOP_NONE,   /* no redirect, or none to follow: it is the answer */
    HOP_TAKEN,  /* url, method and headers are those of the next hop, key is its target's */
    HOP_REFUSED /* *error and the request's text say why */
};
/* After an answer, while its handle still has it. */
enum hop redirect_take(struct lane_http *r, int status, char *key, size_t key_size, enum omid_http_error *error);

/* ---- draft.c ---- */
/* One piece of memory, as it is made on one thread and freed on another. Any thread; NULL: no memory. */
struct lane_http *request_draft(const struct omid_http_request *req);
bool request_method_ok(const char *method);

#endif
