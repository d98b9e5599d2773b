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
/* KEY NULL: no TLS. UUID is the PSK identity; a node that joins doesn't know it yet and says zeros, which the key's other holders accept. */
int conn_security_new(const unsigned char key[CONN_KEY_LEN], const unsigned char uuid[UUID_LEN], struct conn_security **out);
void conn_security_free(struct conn_security *s);

struct conn;
/* "host:port" or "[v6]:port". A listening socket, non-blocking, or -errno. */
int conn_listen(const char *address);
/* FROM: "host:port" to come from, or NULL. -EPROTO: the handshake failed (another key, another volume, no TLS there). */
int conn_dial(struct conn_security *s, const char *address, const char *from, unsigned timeout_ms, struct conn **out);
/* Takes FD (from accept) over, also on error; does the handshake. */
int conn_accept(struct conn_security *s, int fd, unsigned timeout_ms, struct conn **out);
/* The same, and every wait ends with -ECONNABORTED when WATCH_FD (borrowed, -1 = none) becomes readable, until conn_unwatch(). */
int conn_dial_watch(struct conn_security *s, const char *address, const char *from, unsigned timeout_ms, int watch_fd, struct conn **out);
int conn_accept_watch(struct conn_security *s, int fd, unsigned timeout_ms, int watch_fd, struct conn **out);
void conn_unwatch(struct conn *c);
/* The writer of C: compress data from now on where it pays (off at first; costs CPU). Reading always understands both. */
void conn_set_compress(struct conn *c, bool on);
/* Wakes every thread in a call on C, which then gets -ECONNABORTED. Any thread. */
void conn_shutdown(struct conn *c);
/* Ends in order: everything written reaches the peer, what it sends is thrown away until it ends too or TIMEOUT. Only user of C. */
void conn_finish(struct conn *c, unsigned timeout_ms);
/* After all users are gone. NULL is allowed. */
void conn_free(struct conn *c);
enum { CONN_NAME_MAX = 64 };
const char *conn_peer(const struct conn *c);	/* "address:port", for logs */
/* The same of a socket. */
void conn_name(int fd, char out[CONN_NAME_MAX]);

/* All bytes, or -ETIMEDOUT, -ECONNRESET (also at a clean end), -ECONNABORTED. TIMEOUT 0 = none. */
int conn_read(struct conn *c, void *buf, size_t len, unsigned timeout_ms);
int conn_writev(struct conn *c, const struct iovec *iov, int n, unsigned timeout_ms);
/* Waits until something may be read, WAKE_FD (-1 = none) is readable, or TIMEOUT (milliseconds; 0 = don't wait). Returns a sum of CONN_*, 0 = timeout, or
 * -ECONNABORTED. For a reader that uses msg_try_read() until it says -EAGAIN. */
enum { CONN_READABLE = 1, CONN_WOKEN = 2 };
int conn_wait(struct conn *c, int wake_fd, unsigned timeout_ms);
/* Payload, without TLS. */
/* Would a small write go out at once, without waiting for the peer? */
bool conn_writable(const struct conn *c);
uint64_t conn_bytes_in(const struct conn *c);
uint64_t conn_bytes_out(const struct conn *c);

/* A whole frame, checked (header, bounds, checksum, decompressed; data_len is then raw_len). META and DATA (page-aligned, NULL when none) point into
 * *BLK (new, owned by the caller). Beside the errors of conn_read: -EBADMSG, -EPROTONOSUPPORT, -ENOMEM; no further call makes sense then. */
int frame_read(struct conn *c, struct frame_header *h, struct blk **blk, const void **meta, const void **data, unsigned timeout_ms);
/* The caller fills kind, seq, meta_len, data_len of H; the rest is computed, DATA compressed where it pays. MORE: the caller has another frame at once (small ones are coalesced; flushed
 * with the first call without it). */
int frame_write(struct conn *c, struct frame_header *h, const void *meta, const void *data, bool more, unsigned timeout_ms);
/* One control message. */
int msg_write(struct conn *c, const struct msg *m, unsigned timeout_ms);
int msg_read(struct conn *c, struct msg *m, unsigned timeout_ms);
/* Never waits: -EAGAIN when no whole message is there yet. */
int msg_try_read(struct conn *c, struct msg *m);

#endif
