/* Part of omid/plugin.h, which includes it: requests and WebSockets to the outside, through the plugin's lane. */
#ifndef OMID_PLUGIN_OUT_H
#define OMID_PLUGIN_OUT_H

#include <omid/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --------------------------------------------------------------- HTTP, out */

enum omid_http_error {
    OMID_HTTP_OK = 0,        /* there is a status, whatever it is */
    OMID_HTTP_BAD_URL,       /* not http(s), or unparsable */
    OMID_HTTP_FULL,          /* the wait queue is full: refused at once */
    OMID_HTTP_QUEUE_TIMEOUT, /* waited queue_timeout for a slot */
    OMID_HTTP_BREAKER,       /* the target's breaker is open */
    OMID_HTTP_SUPERSEDED,    /* a newer request with the same latest_key replaced this one */
    OMID_HTTP_RESOLVE,
    OMID_HTTP_CONNECT,
    OMID_HTTP_TLS,
    OMID_HTTP_TIMEOUT,  /* the absolute time limit, dripping peers included */
    OMID_HTTP_RESET,    /* the connection broke before the answer was whole */
    OMID_HTTP_PROTOCOL, /* the answer is not HTTP, or redirects without end */
    OMID_HTTP_BLOCKED,  /* the address is not allowed for this URL, or a redirect leads where it must not */
    OMID_HTTP_LOCAL,    /* a fault of our own: memory, descriptors */
    OMID_HTTP_SHUTDOWN,
    OMID_HTTP_ERRORS
};

struct omid_http_request {
    uint32_t size;
    const char *method; /* "GET", "POST", ... */
    const char *url;
    const char *const *headers; /* "Name: value" lines, NULL-terminated; or NULL */
    const void *body;
    size_t body_len;
    uint32_t timeout_ms;    /* 0: the lane's, or the target's own; never longer than that */
    size_t max_body;        /* answer kept up to here, after decompression; 0: 64 KiB. What comes beyond is dropped; the
                               transfer is ended, with its connection, when 256 KiB more have come. An answer that is
                               compressed more than once is refused: OMID_HTTP_PROTOCOL */
    const char *latest_key; /* latest wins among waiting requests of this key; or NULL */
    unsigned flags;         /* enum omid_http_flags */
    /* 1.2. Signed when it is sent, with AWS Signature Version 4: "aws:amz:REGION:SERVICE", and the key. S3 wants the
     * body's SHA-256 in a header x-amz-content-sha256, which is the caller's to give. NULL: not signed. Never logged */
    const char *aws_sigv4, *aws_key_id, *aws_secret;
};
enum omid_http_flags {
    OMID_HTTP_USER_URL = 1u << 0, /* a user registered this URL: private addresses are refused */
};

struct omid_http_response {
    uint32_t size;
    enum omid_http_error error;
    const char *error_text; /* for people, "" without error; never holds the URL's query */
    int status;             /* 0 when error */
    const char *body;       /* NUL-terminated */
    size_t body_len;
    bool truncated;         /* more than max_body came; the rest was dropped */
    uint32_t retry_after_s; /* from Retry-After, seconds or date; 0: absent */
    uint32_t elapsed_ms;    /* from http_start() */
    unsigned redirects;     /* that were followed: the lane's `follow`, 0 if not set. Since 1.1 */
    int64_t max_age_s;      /* 1.1: how long it may be kept, by Cache-Control and Age; 0: not at all; -1: not said */
};
typedef void (*omid_http_cb)(void *arg, const struct omid_http_response *res);

/* ---------------------------------------------------------- WebSocket, out */

/* Why an outgoing WebSocket ended, or never opened. */
enum omid_ws_end {
    OMID_WS_CLOSED,   /* close handshake done; code is the peer's */
    OMID_WS_LOST,     /* reset, end of stream without Close, protocol error */
    OMID_WS_CONNECT,  /* every attempt failed */
    OMID_WS_REJECTED, /* the peer answered the upgrade with http_status (not 101), not worth retrying */
    OMID_WS_BREAKER,  /* the target's breaker is open: no attempt was made */
    OMID_WS_FULL,     /* the lane's streams or queue are full */
    OMID_WS_SHUTDOWN,
};
struct omid_ws_close {
    uint32_t size;
    enum omid_ws_end end;
    uint16_t code;    /* RFC 6455 close code, 1006 when there was none */
    int http_status;  /* of the last rejected upgrade, else 0 */
    const char *text; /* for people */
};

struct omid_ws_request {
    uint32_t size;
    const char *url;            /* ws:// or wss:// */
    const char *const *headers; /* "Name: value" lines, NULL-terminated; or NULL */
    unsigned attempts;          /* connects in one sequence; 0 means 1. The breaker gets one verdict per sequence */
    uint32_t backoff_ms;        /* pause before attempt n (n = 1, 2, ...): min(2^(n-1)*backoff + random*backoff, cap) */
    uint32_t backoff_cap_ms;
    size_t max_message; /* received; beyond it the stream ends with 1009; 0: 1 MiB */
    size_t send_buffer; /* bytes waiting to be sent before ws_send() answers OMID_EFULL; 0: 256 KiB */
};

struct omid_ws_events {
    uint32_t size;
    void (*open)(void *arg, struct omid_ws *ws);
    void (*message)(void *arg, struct omid_ws *ws, enum omid_message type, const void *data, size_t len);
    void (*writable)(void *arg, struct omid_ws *ws); /* after OMID_EFULL: at least half is free again; may be NULL */
    void (*closed)(void *arg, struct omid_ws *ws,
                   const struct omid_ws_close *why); /* the last one; then ws_release() */
};

#ifdef __cplusplus
}
#endif
#endif
