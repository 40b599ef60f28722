/* What the kernel knows about a connection. Apart, because linux/tcp.h and netinet/tcp.h exclude each other. */
#ifndef OMID_INGRESS_TCP_H
#define OMID_INGRESS_TCP_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of ours that the peer has acknowledged since the connection began; 0 when it can't be told. */
uint64_t tcp_acked_bytes(int fd);
/* Has the peer ended its direction, or reset? Unread bytes don't hide it. Also for unix sockets. */
bool tcp_peer_gone(int fd);

#endif
