#include "lane_peers.h"

#include <poll.h>
#include <string.h>

void serve_ok(struct peer *p, int fd)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_ok(fd, "hello")) {
    }
}

void serve_hang(struct peer *p, int fd)
{
    char head[4096];
    if (peer_read_request(p, fd, head, sizeof head) && peer_hold(p, fd))
        peer_ok(fd, "late");
}

void peer_drip(struct peer *p, int fd, const char *text)
{
    for (; *text && peer_write(fd, text, 1); text++) {
        if (poll(&(struct pollfd){.fd = fd, .events = POLLRDHUP}, 1, 20) > 0)
            return;
    }
    peer_hold(p, fd);
}

void serve_drip_body(struct peer *p, int fd)
{
    char head[4096], slow[2048] = "";
    memset(slow, 'a', sizeof slow - 1);
    if (peer_read_request(p, fd, head, sizeof head) &&
        peer_puts(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"))
        peer_drip(p, fd, slow);
}

void serve_text(struct peer *p, int fd, const char *answer)
{
    char head[4096];
    while (peer_read_request(p, fd, head, sizeof head) && peer_puts(fd, answer)) {
    }
}

void serve_500(struct peer *p, int fd)
{
    serve_text(p, fd, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nRetry-After: 17\r\n\r\noops");
}

void serve_404(struct peer *p, int fd)
{
    serve_text(p, fd, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
}
