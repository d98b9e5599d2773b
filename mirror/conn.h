/*
 * Connections: TCP, with TLS 1.3 and an external pre-shared key unless the volume says `security = none`. And framed reading and writing
 * on them. Blocking calls with a timeout; one thread may read while one other writes.
 *
 * A stranger learns nothing (the handshake fails before a byte of ours is sent) and changes nothing.
 */
#ifndef MIRROR_CONN_H
#define MIRROR_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mirror/wire.h"

enum { CONN_KEY_LEN = 32 };

struct conn_security;			/* shared by all connections of a volume */
/* KEY NULL: no TLS. UUID is the PSK identity. */
int conn_security_new(const unsigned char key[CONN_KEY_LEN], const unsigned char uuid[UUID_LEN], struct conn_security **out);
void conn_security_free(struct conn_security *s);

struct conn;
/* "host:port" or "[v6]:port". A listening socket, non-blocking, or -errno. */
int conn_listen(const char *address);
int conn_dial(struct conn_security *s, const char *address, const char *from, unsigned timeout_ms, struct conn **out);
/* Takes FD (from accept) over, also on error; does the handshake. */
int conn_accept(struct conn_security *s, int fd, unsigned timeout_ms, struct conn **out);
/* Wakes every thread in a call on C, which then gets -ECONNABORTED. Any thread. */
void conn_shutdown(struct conn *c);
/* After all users are gone. */
void conn_free(struct conn *c);
const char *conn_peer(const struct conn *c);	/* "address:port", for logs */

/* All bytes, or -ETIMEDOUT, -ECONNRESET (also at a clean end), -ECONNABORTED. TIMEOUT 0 = none. */
int conn_read(struct conn *c, void *buf, size_t len, unsigned timeout_ms);
int conn_writev(struct conn *c, const struct iovec *iov, int n, unsigned timeout_ms);
uint64_t conn_bytes_in(const struct conn *c);
uint64_t conn_bytes_out(const struct conn *c);

/* A whole frame, checked (header, bounds, checksum, decompressed). META and DATA point into *BLK (new, owned by the caller). */
int frame_read(struct conn *c, struct frame_header *h, struct blk **blk, const void **meta, const void **data, unsigned timeout_ms);
/* Computes the checksum, compresses DATA where it pays. MORE: the caller has another frame at once (small ones are coalesced; flushed
 * with the first call without it). */
int frame_write(struct conn *c, struct frame_header *h, const void *meta, const void *data, bool more, unsigned timeout_ms);
/* One control message. */
int msg_write(struct conn *c, const struct msg *m, unsigned timeout_ms);
int msg_read(struct conn *c, struct msg *m, unsigned timeout_ms);

#endif
