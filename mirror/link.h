/*
 * Links: for each peer the control connection, kept up by dialling (the node with the higher number dials) or accepting, its heartbeats, and on
 * demand a stream connection. The I/O shell below the decision core: it decides nothing.
 *
 * Threads: one per peer for its control connection (it reads, writes the outbox, sends heartbeats; real-time priority where allowed; takes no
 * lock but its outbox's), one listener, and one for each connection while it shakes hands or its stream callback runs. Callbacks come from these
 * threads and, stream apart, must not block. The calls for one peer (up, message, heartbeat, down) come in their order from one thread.
 *
 * Strangers (wrong key, another volume, an incompatible version, an unknown node, a node that is connected already with another instance) and
 * malformed frames: connection closed, logged (rate-limited), counted, nothing else.
 */
#ifndef MIRROR_LINK_H
#define MIRROR_LINK_H

#include "mirror/conn.h"

enum { LINK_BACKLOG_MAX = 4096 };	/* messages waiting in an outbox; more: the link is dropped */

struct link_peer { unsigned node; const char *name; const char *address; };	/* address NULL: not in the configuration */

struct links_config {
	unsigned node;
	const char *listen;		/* this node's address; "" = there are no peers */
	struct link_peer peers[NODE_MAX + 1];	/* by node number; name NULL = no such node */
	struct conn_security *security;
	unsigned char uuid[UUID_LEN];
	uint64_t instance;
	unsigned peer_timeout_ms;	/* heartbeats every fifth of it */
	bool compress;			/* data on streams, where it pays */
	/* Fills what we say of ourselves. Called at every hello and heartbeat; must be quick and lock-free or nearly so. */
	void (*self_hello)(void *arg, struct hello *h);
	void (*self_heartbeat)(void *arg, struct heartbeat *h);
	/* The peer's hello was right in form, volume, version and node. */
	void (*up)(void *arg, unsigned peer, const struct hello *h);
	void (*down)(void *arg, unsigned peer, const char *why);
	void (*message)(void *arg, unsigned peer, const struct msg *m);		/* all but heartbeats */
	void (*heartbeat)(void *arg, unsigned peer, const struct heartbeat *h);
	/* A stream connection asked for by link_stream() here or there is ready; the callee owns it. Called on both ends; from a
	 * thread of its own, may block. */
	void (*stream)(void *arg, unsigned peer, uint64_t token, struct conn *c);
	/* A node asks to join (HELLO_JOIN): fill the answer. */
	void (*join)(void *arg, const struct join_msg *j, struct joined_msg *answer);
	void *arg;
};

struct links;
/* Listens and starts to dial. *OUT is set before the first callback comes (which may be before this returns). CFG is copied, its strings too; security stays borrowed. -EADDRINUSE etc. */
int links_start(const struct links_config *cfg, struct links **out);
/* Sends what is in the outboxes (a goodbye), ends all control connections without calling down, and waits for all threads: so stream callbacks have
 * to return (conn_shutdown their connections first). Not from a callback. */
void links_stop(struct links *l);
/* As links_stop, but L stays: calls find no link up. links_stop must follow. */
void links_end(struct links *l);
/* Queues a message; -ENOTCONN (also when the outbox is full: the link is being dropped), -ENOMEM. Never blocks. */
int link_send(struct links *l, unsigned peer, const struct msg *m);
/* As link_send, but waits while half of the outbox is full: for what comes in floods. Not from the links' own callbacks. */
int link_send_wait(struct links *l, unsigned peer, const struct msg *m);
/* Gets a stream connection for TOKEN made (dials when this node is the dialler, otherwise the peer does on FRAME_OPEN, which the caller has
 * sent before). 0, -ENOTCONN, -ENOMEM. When the dialler can't make it, the link is reset; a token that nobody comes for is forgotten after a
 * while or when the link goes down. The token's connection may come in a little before this call: it is held for 5 s. */
int link_stream(struct links *l, unsigned peer, uint64_t token);
/* Drops the control connection (it will be dialled again). */
void link_reset(struct links *l, unsigned peer, const char *why);
/* When PEER was last heard (clock_mono_ms), 0 = never. Lock-free. */
uint64_t link_last_heard(const struct links *l, unsigned peer);
bool link_is_up(const struct links *l, unsigned peer);
enum { LINK_FAILURE_MAX = 128 };
struct link_stats {
	uint64_t refused, malformed, bytes_in, bytes_out, rtt_ns;
	char failure[LINK_FAILURE_MAX];		/* why the last attempt to dial it failed; empty: none since the link was last up */
};
void link_stats(const struct links *l, unsigned peer, struct link_stats *out);	/* peer 0: strangers */
/* For `init --join`: asks ADDRESS, blocking. */
int link_join(struct conn_security *s, const char *address, const struct hello *h, const struct join_msg *j, struct joined_msg *out);

#endif
