/*
 * Tickle: a TCP segment with a sequence number that can't be right, from the service address to a client of the server before. The client's stack answers it
 * with where it thinks that the connection is; we know no such connection, so our stack resets it, and the client connects anew at once instead of waiting for
 * a timer.
 */
#ifndef NFSD_GLUE_TICKLE_H
#define NFSD_GLUE_TICKLE_H

#include <sys/socket.h>

/* A raw socket for FAMILY, or -errno. */
int tickle_open(sa_family_t family);
/* FROM: the service address (which must be here) and the server's port; TO: the client's. Never waits. 0 or -errno. */
int tickle_send(int fd, const struct sockaddr_storage *from, const struct sockaddr_storage *to);

#endif
