/*
 * The send queue: ops in their order, kept once, with a cursor per peer; and the table of who has confirmed what.
 *
 * seq counts the ops of this daemon's life as primary: 1, 2, 3, … without gaps over changes of epoch. (LSN = seq - base of its epoch: an
 * OP_EPOCH has LSN 0.) An entry is freed when every peer that is still owed it has confirmed it, or when the queue is over its bound and
 * only absent peers want it (they then need a comparison).
 *
 * Bounds: `queue` bytes. queue_admit() makes writers wait while a connected peer is that far behind; it is called before any object lock
 * is taken, so that a waiting writer holds nothing. What a comparison states has its turn among them, however much room it wants, and it can make
 * writers wait for its peer sooner (queue_restrain), or in any case (queue_hold). Neither lets a peer that never becomes level keep them from writing.
 */
#ifndef MIRROR_QUEUE_H
#define MIRROR_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "mirror/op.h"

struct queue;

struct qentry {
	_Atomic uint32_t refs;
	uint64_t seq;
	uint16_t peers;			/* bit n: goes to node n; others get an OP_NOP in its place */
	uint8_t type;			/* enum op_type */
	unsigned char *meta;		/* encoded op, owned */
	size_t meta_len;
	const void *data;
	size_t data_len;
	struct blk *owner;		/* holds a reference; keeps data */
	uint64_t born_ns;
	size_t cost;			/* bytes that it counts towards the bound: struct, meta, data or the block that the data pin */
	uint64_t end;			/* sum of the costs up to and with this entry */
};

enum queue_confirm { CONFIRM_RECEIVED, CONFIRM_APPLIED, CONFIRM_DURABLE };

int queue_new(size_t max_bytes, struct queue **out);
void queue_free(struct queue *q);

/* Waits until there is room for BYTES more, which is not reserved: the bound may be exceeded by what the callers under way
 * bring. 0; -ESHUTDOWN after queue_stop. */
int queue_admit(struct queue *q, size_t bytes);
/* The same for a comparison's statement, or for an eighth of the bound when BYTES is more: no restraint applies, and while it waits for its room,
 * writers are admitted with no more than it wants itself, or small changes would take each bit that comes free. */
int queue_admit_statement(struct queue *q, size_t bytes);
/* From now on queue_admit also waits while PEER has more than BEHIND bytes to apply (UINT64_MAX: not any more). In any case writers may bring half as much
 * as PEER applies, and go on when it has applied nothing for 1 s. For as long as PEER is attached, at most. Ends its hold, too. */
void queue_restrain(struct queue *q, unsigned peer, uint64_t behind);
/* queue_admit waits for the next MS in any case, as long as PEER is attached: 0. Or, since a hold is on, or was, and the rest from it, eight times as
 * long, isn't over: the ms until one may be asked for again. */
uint64_t queue_hold(struct queue *q, unsigned peer, unsigned ms);
/* Gives OP the next seq and puts it into the order. Called under the op's object locks. PEERS: bitmap, 0xffff = all. The data are shared
 * when op->data_owner is set and they are a good part of it, else copied. -ENOMEM: nothing happened (the caller then has to have its
 * objects stated again); -ESHUTDOWN after queue_stop. An OP_FSYNC must be followed by queue_wait(CONFIRM_DURABLE) or queue_forget. */
int queue_append(struct queue *q, const struct op *op, uint16_t peers, uint64_t *seq);
uint64_t queue_last(struct queue *q);		/* newest seq, 0 = none */
uint64_t queue_first(struct queue *q);		/* oldest that is still kept; last + 1 when empty */
/* Is anybody streaming, or in the set of those on whom acknowledgements rest? Lock-free. */
bool queue_has_peers(struct queue *q);

/* ---- senders: one thread per streaming peer ---- */
/* PEER wants entries from FROM on (FROM = first..last+1) and confirms all before it; -ESTALE when they are gone. Entries are kept from
 * now on for this peer: while attached without bound (queue_admit sees to it), afterwards up to the bound. */
int queue_attach(struct queue *q, unsigned peer, uint64_t from);
void queue_detach(struct queue *q, unsigned peer);
/* The next entry for PEER, waiting for it; a reference. 0; -ESHUTDOWN after detach or stop; -EAGAIN when WAIT is false and there is none. */
int queue_next(struct queue *q, unsigned peer, bool wait, struct qentry **out);
void qentry_unref(struct qentry *e);

/* ---- confirmations ---- */
void queue_acked(struct queue *q, unsigned peer, uint64_t recv_seq, uint64_t applied_seq);
void queue_barrier_done(struct queue *q, unsigned peer, uint64_t seq, int err);
/* The peers on which acknowledgements rest (bit n = node n), as recorded durably. */
void queue_set_ackset(struct queue *q, uint16_t set);
uint16_t queue_ackset(struct queue *q);
/* While frozen nothing is acknowledged (a failed flush): who waits gets -EIO. (Not a wait without end: a process in a FUSE request can't be killed.) */
void queue_freeze(struct queue *q, bool frozen);
/* Waits until all of the ack set (as it is then) have confirmed SEQ. For CONFIRM_DURABLE SEQ is that of an OP_FSYNC.
 * 0; -ESHUTDOWN (role lost, stop); -EAGAIN (CONFIRM_DURABLE only): a peer of the set came back behind SEQ without having answered it:
 * the caller appends a new barrier. A peer whose barrier failed does not count as having confirmed. */
int queue_wait(struct queue *q, uint64_t seq, enum queue_confirm what);
/* The same until UNTIL (clock_mono): -ETIMEDOUT. NULL = without limit. */
int queue_wait_until(struct queue *q, uint64_t seq, enum queue_confirm what, const struct timespec *until);
/* Nobody will wait for the barrier SEQ. */
void queue_forget(struct queue *q, uint64_t seq);
/* Wakes all waiters with -ESHUTDOWN and refuses more, until queue_restart (which also empties it, detaches all and starts at seq 1 again;
 * the ack set and frozen stay as they are). */
void queue_stop(struct queue *q);
void queue_restart(struct queue *q);

struct queue_peer_stat { uint64_t sent_seq, recv_seq, applied_seq, bytes_behind, oldest_ns; bool attached; };
void queue_peer_stat(struct queue *q, unsigned peer, struct queue_peer_stat *out);
uint64_t queue_bytes(struct queue *q);
/* Does somebody wait for a barrier of PEER, of the ack set, for longer than LIMIT and than twice the caller's own flush (from the append to the wait)? */
bool queue_barrier_overdue(struct queue *q, unsigned peer, uint64_t limit_ns);

#endif
