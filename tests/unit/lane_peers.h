/* Scripts of HTTP peers that several programs use; each is for peer_start() of lane_rig.h, on a connection's thread. */
#ifndef TESTS_UNIT_LANE_PEERS_H
#define TESTS_UNIT_LANE_PEERS_H

#include "lane_rig.h"

void serve_ok(struct peer *p, int fd); /* 200 to each request */
/* Answers once the gate is open. */
void serve_hang(struct peer *p, int fd);
/* This text, byte by byte, then nothing more. */
void peer_drip(struct peer *p, int fd, const char *text);
void serve_drip_body(struct peer *p, int fd);
/* This answer, to each request. */
void serve_text(struct peer *p, int fd, const char *answer);
void serve_500(struct peer *p, int fd); /* with Retry-After: 17 */
void serve_404(struct peer *p, int fd);

#endif
