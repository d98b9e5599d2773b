/*
 * The state of the NFS server in the ordered stream: what a client can't do without when another node carries on.
 *
 *	REPLICA_REPLY	an answer of the duplicate request cache (replay.h); rides on the op that it answers, or goes alone
 *	REPLICA_LOCK	byte-range locks, shares, monitored hosts (lockstate.h)
 *	REPLICA_CLIENT	connected clients, mount list (clients.h)
 *	REPLICA_SNAPSHOT	all of that, for one peer, before it counts as level
 *
 * Each kind is a *part*, registered by its owner. Records are attachments of ops (fs/layer.h call.attach), so a standby has exactly those whose ops it has
 * applied, in their order. docs/protocol.md has the bytes.
 *
 * The order: (1) a part changes its table before the record of the change enters the stream; (2) a part whose records delete something emits records and
 * the snapshot's chunks under one mutex that also guards its table, so that chunks and records can't overtake each other. A snapshot is a begin marker, chunks,
 * an end marker. At the begin marker the receiver forgets everything; chunks are *merged*: what a record that came behind the marker has said already is
 * newer, and stays. So nothing is lost that was there when the marker entered the order, and nothing comes back that was deleted since.
 *
 * Complete: this node's state is what it ought to be. Not between a daemon's start, or a begin marker, and an end marker. A daemon that is to be primary again
 * without having followed anybody since it started asks a level standby for the same bytes (mirror/node.h, node_replica).
 *
 * What a peer sends is bounded and checked by the part; what can't be right is logged, counted, not applied, and leaves the state incomplete.
 */
#ifndef NFSD_REPLICA_H
#define NFSD_REPLICA_H

#include "mirror/apply.h"
#include "mirror/interpose.h"
#include "mirror/queue.h"
#include "nfsd-glue/replay.h"

enum replica_kind { REPLICA_REPLY = 1, REPLICA_LOCK, REPLICA_CLIENT, REPLICA_SNAPSHOT, REPLICA_KINDS };
enum {
	REPLICA_RECORD_MAX = 32 << 10,	/* bytes of one record */
	REPLICA_CHUNK_MAX = 60 << 10,	/* and of one chunk of a snapshot: fits into an attachment and into a control message */
	REPLICA_VERSION = 1,		/* first byte of every record and chunk */
	REPLICA_REPLY_HEAD = 51,	/* bytes of an answer's record before the answer */
	REPLICA_SNAPSHOT_HEAD = 10,	/* bytes of a chunk or marker before what it holds */
	REPLICA_REPLY_RECORD_MAX = REPLICA_REPLY_HEAD + REPLAY_REPLY_MAX,
};

struct replica;
struct replica_out;			/* a snapshot being written */

struct replica_part {
	/* A record, as its owner made it: of the stream, or (MERGE) of a snapshot. 0; -EBADMSG: it can't be right; -ENOMEM. */
	int (*apply)(void *arg, const void *data, size_t len, bool merge);
	void (*clear)(void *arg);	/* a snapshot begins: forget what came from the stream */
	/* Writes everything as records: replica_put() for each. While a lock is held that guards table and order: replica_flush() before it is dropped;
	 * when none is held replica_pause() now and then. Errors of these are handed through. */
	int (*each)(void *arg, struct replica_out *out);
	void (*promoted)(void *arg);	/* this node is primary from here on; may be NULL */
	void *arg;
};

struct replica_config {
	struct interpose *ip;
	struct queue *queue;
	struct replay *replay;		/* part REPLICA_REPLY */
};
int replica_new(const struct replica_config *cfg, struct replica **out);
void replica_free(struct replica *r);
/* Before anything runs. */
void replica_register(struct replica *r, enum replica_kind kind, const struct replica_part *part);
/* Takes the attachments of A's ops from now on. */
void replica_follow(struct replica *r, struct apply *a);

/* ---- the primary ---- */
/* Appends one record to a snapshot (LEN <= REPLICA_RECORD_MAX); sends the chunk when it is full. 0 or -errno, which ends the snapshot. Doesn't wait for peers. */
int replica_put(struct replica_out *out, const void *data, size_t len);
int replica_flush(struct replica_out *out);
/* Waits for room in the queue; with no lock held. */
int replica_pause(struct replica_out *out);
/* All parts, for PEER, which is attached to the queue already and not level yet. Waits for room in the queue. 0; -ESHUTDOWN; -ENOMEM. */
int replica_snapshot(struct replica *r, unsigned peer);

/* In call.after: makes BYTES the answer of K and lets its record ride on C's op (lazily when LAZY: nobody waits for the peers because of it). RECORD is the caller's
 * memory, which must live until the call has returned. */
void replica_reply_attach(struct replica *r, struct call *c, const struct replay_key *k, const void *bytes, size_t len, bool lazy,
			  unsigned char record[REPLICA_REPLY_RECORD_MAX]);
/* The same for an answer that was found without any op. Waits as durability asks unless LAZY. 0; an error (-EROFS: not primary): the call was forgotten, and
 * nothing may be said that the next attempt could contradict. */
int replica_reply_alone(struct replica *r, const struct replay_key *k, const void *bytes, size_t len, bool lazy);
/* Encodes an answer's record; the length. */
size_t replica_reply_encode(unsigned char record[REPLICA_REPLY_RECORD_MAX], const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms);

/* ---- the standby, and a primary that was restarted ---- */
/* A chunk or marker from a peer. 0, -EBADMSG. */
int replica_take(struct replica *r, const void *data, size_t len);
/* All of the state, for a node that asks for it: SEND for each chunk and marker. 0 or what SEND returned. */
int replica_give(struct replica *r, int (*send)(void *to, const void *data, size_t len), void *to);
bool replica_complete(const struct replica *r);
/* This node is primary from here on: its state is the state, complete or not. Returns whether it was: if not, clients have to be told (NSM). */
bool replica_promoted(struct replica *r);

struct replica_stats { uint64_t applied, merged, malformed, snapshots_sent, snapshots_taken; bool complete; };
void replica_stats(struct replica *r, struct replica_stats *out);

#endif
