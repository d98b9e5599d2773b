/*
 * Shared by link.c (control threads, the public calls) and link_conn.c (connections that come in, streams that go out). Nobody else's.
 */
#ifndef MIRROR_LINK_IMPL_H
#define MIRROR_LINK_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "mirror/link.h"

enum {
	HANDSHAKE_MS = 2000,		/* TLS, then the hello: each at most */
	HANDSHAKES_MAX = 32,		/* under way at once; one more ends the oldest */
	STREAM_HOLD_MS = 5000,		/* a stream connection waits for its link_stream() */
	STREAM_TOKENS_MAX = 8,		/* expected at once per peer; one more drops the oldest */
	FINISH_MS = 200,
};

struct outmsg { struct outmsg *next; size_t len; unsigned char bytes[]; };

struct peer {
	struct links *l;
	unsigned node;
	char *name, *address;		/* owned; NULL: not configured */
	bool dials;			/* this node dials it */
	bool started;
	pthread_t thread;
	int wake_fd;			/* outbox, handed, reset */
	pthread_mutex_t mu;		/* guards the next block; priority inheriting */
	pthread_cond_t changed;		/* tokens, up */
	bool up;
	uint64_t instance;		/* of the peer, while up */
	struct outmsg *head, **tail;
	unsigned nout;
	bool reset;
	char why[REASON_MAX];
	struct conn *handed;		/* owned: accepted, to be taken by the control thread */
	struct hello handed_hello;
	uint64_t tokens[STREAM_TOKENS_MAX];	/* 0 = free */
	unsigned next_token;
	struct conn *conn;		/* borrowed from the control thread, for counters */
	/* who writes on the connection; priority inheriting; taken before mu, never waited for by senders */
	pthread_mutex_t write_mu;
	struct conn *writable;		/* guarded by write_mu: the connection, while messages may be written on it; borrowed */
	uint64_t past_in, past_out;	/* bytes of earlier connections */
	char failure[LINK_FAILURE_MAX];	/* of dialling, since the link was last up: logged when it changes */
	_Atomic bool is_up;
	_Atomic uint64_t last_heard_ms, refused, malformed, rtt_ns;
	/* the control thread's own */
	uint64_t heard_sent_ns, heard_at_ns;	/* of the newest heartbeat */
};

/* A thread for one connection. */
struct worker {
	struct links *l;
	struct worker *next;
	pthread_t thread;
	int cancel_fd;			/* owned: readable = give up */
	bool shaking;			/* counts as a handshake */
	int fd;				/* accepted; owned until the handshake */
	struct peer *peer;		/* dial: a stream of this peer */
	uint64_t token, instance;
};

struct links {
	struct links_config cfg;
	struct peer peers[NODE_MAX + 1];	/* [0]: strangers' counters */
	int listen_fd, stop_fd;
	_Atomic bool stopping;
	pthread_t listener;
	bool listening;
	pthread_mutex_t mu;		/* guards the next block */
	pthread_cond_t idle;		/* a worker ended or stopped shaking */
	struct worker *workers;		/* newest first */
	struct worker *ended;		/* to be joined */
	unsigned nworkers, nshaking;
	uint64_t log_window_ms;
	unsigned log_lines, log_dropped;
};

/* link.c */
/* Our own hello of KIND. */
void link_hello(struct links *l, enum hello_kind kind, uint64_t token, struct msg *m);
/* Why H is no hello of a node of this volume; NULL: it is. */
const char *link_hello_wrong(const struct links *l, const struct hello *h);
/* Gives C over to the control thread of its peer. NULL, or why not (C stays the caller's). */
const char *link_hand_over(struct links *l, struct conn *c, const struct hello *h);
/* Counts and logs (not too often). NODE 0: a stranger. */
void link_refuse(struct links *l, unsigned node, bool malformed, const char *from, const char *why);
/* For errors of conn. */
const char *link_error(int err);
/* Takes TOKEN from those expected, waiting for it a while. False: refused. */
bool link_take_token(struct peer *p, uint64_t token, uint64_t instance);

/* link_conn.c */
void *link_listener(void *links);
/* Joins the workers that have ended; without WAIT not those that are still on their last steps (a control thread must not wait for them). */
void link_reap(struct links *l, bool wait);
int link_dial_stream(struct peer *p, uint64_t token, uint64_t instance);

#endif
