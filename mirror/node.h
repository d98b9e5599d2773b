/*
 * A node: the shell around the decision core. It feeds the core with events (links, queue, clock, people), carries out its actions (record,
 * send, open and close streams, fence, drain, flip the role) and owns the threads that move ops.
 *
 *   any thread --node event--> core_step() under core_mu --actions--> one worker, in order
 *   primary:   queue --sender thread per peer--> stream connection
 *   standby:   stream connection --reader--> bounded list --applier--> apply_op();   ack thread: what was received and applied
 *
 * A recorder thread saves the state (the worker may wait for threads that wait for a record), a settler makes the volume durable before this node says that it is
 * level. Fence and state hooks run in threads of their own. Lock order: core_mu is a leaf but for the
 * links' outboxes; it is never held across I/O.
 */
#ifndef MIRROR_NODE_H
#define MIRROR_NODE_H

#include "mirror/apply.h"
#include "mirror/core.h"
#include "mirror/interpose.h"
#include "mirror/link.h"
#include "mirror/queue.h"

/* How the room above (resync) is reached; registered by whoever composes the daemon. */
/* What a peer to which a stream is open gets beside it, before it can be level: everything is compared; only what is not in the tree (the state above);
 * or nothing: it is stood by for restate. */
enum node_compare { NODE_COMPARE_ALL, NODE_COMPARE_STATE, NODE_COMPARE_NOTHING };
struct node_resync {
	int (*start)(void *arg, unsigned peer, enum node_compare what);
	void (*stop)(void *arg, unsigned peer);			/* waits for its thread */
	void (*report)(void *arg, unsigned peer, const struct report *r);
	bool (*restate)(void *arg, unsigned peer, const uint64_t *ids, unsigned n);	/* false: there is no engine for PEER */
	int (*keep_lost)(void *arg, const char *session);	/* before a comparison's first statement; NULL = don't keep */
	bool (*busy)(void *arg, unsigned peer);			/* are statements on their way to PEER, which is level? */
	void *arg;
};

/*
 * What happens to this node's role, in the order of the design; for whoever serves clients (NFS server, service address). Told by the node's worker, one at a
 * time, which waits for the callee: it must be quick, and may not call node_promote, node_demote, node_switchover or node_stop.
 *
 *	standby -> TAKING -> NOT_TAKEN              a promotion begins (received ops are drained meanwhile); it failed: standby as before
 *	                  -> PRIMARY                the new epoch is durable and changes are admitted
 *	primary -> CHANGING -> KEPT                 the role is about to be given up: before changes are shut off; it failed: changes are admitted again
 *	                    -> LEFT                 standby
 *	primary -> LEFT                             superseded, without warning
 */
enum node_role_event {
	NODE_ROLE_TAKING,			/* prepare: look whether the service address is free */
	NODE_ROLE_TAKING_OVER,			/* the same in a switchover: who held the service address has just let it go */
	NODE_ROLE_NOT_TAKEN,
	NODE_ROLE_PRIMARY,			/* fresh write verifier, listen, take the service address, serve */
	NODE_ROLE_CHANGING,			/* service address away, then JUKEBOX for changes */
	NODE_ROLE_KEPT,				/* as primary before: the service address back */
	NODE_ROLE_LEFT,				/* service address away if it isn't, old connections aborted, then read-only */
};

/*
 * The state of a room above, which belongs to the volume (the NFS server's: locks, answers to calls). A node that is to be primary and whose state is not
 * complete (its daemon was restarted, and has followed nobody since) takes it from a level standby first, before it serves: see node_take.c.
 * All from the node's worker.
 */
struct node_above {
	bool (*complete)(void *arg);
	/* All of it, SEND for each part (STATE_PART_MAX). 0 or what SEND returned. */
	int (*give)(void *arg, int (*send)(void *to, const void *data, size_t len), void *to);
	int (*take)(void *arg, const void *data, size_t len);	/* a part of it; -EBADMSG: can't be right */
	void *arg;
};

struct node_config {
	struct core_config core;
	void (*role)(void *arg, enum node_role_event e);	/* NULL = nobody wants to know */
	void *role_arg;
	struct node_above above;		/* all NULL: there is none */
	const char *volume;			/* name, for hooks */
	const char *listen;			/* "" = alone */
	bool compress;				/* data on streams, where it pays */
	bool prompt_acks;			/* what arrives is acknowledged at once: callers of the primary wait for it (`sync`) */
	struct link_peer peers[NODE_MAX + 1];
	struct conn_security *security;		/* borrowed */
	const char *fence_hook, *state_hook;	/* NULL = none */
	unsigned fence_timeout_ms;
	void (*write_back)(void *arg);		/* what the front ends still keep in memory becomes ops, while that is possible; NULL = nothing. ARG: role_arg */
	uint64_t reserve_bytes, queue_bytes;
	struct state_file *state_file;		/* borrowed */
	struct state state;			/* as loaded */
	bool unknown;
	struct volume_limits *limits;		/* the ones that the local layer enforces; borrowed, kept up to date */
	struct handles *handles;		/* borrowed, like all below */
	struct layer *bottom;
	struct queue *queue;
};

struct node;
/* Nothing runs yet: callbacks (node_open_epoch ...) may be given away. */
int node_new(const struct node_config *cfg, struct node **out);
/* Starts to listen, dial and decide. */
int node_start(struct node *n, struct interpose *ip, struct apply *apply, const struct node_resync *r);
/* A clean stop: the role handed over, or "outdated" recorded; goodbye; the state marked clean. The mount must be gone. */
void node_stop(struct node *n);
void node_free(struct node *n);

/* ---- people: TEXT gets one or more lines for them ---- */
int node_promote(struct node *n, bool fenced, bool force, char *text, size_t size);	/* -EPERM: refused */
int node_demote(struct node *n, bool force, char *text, size_t size);			/* -EBUSY: files are open for writing */
/* Makes node TO (0 = the one that is level) primary in this one's, or whoever's, place. -EBUSY: it failed, and TEXT says who is primary now. */
int node_switchover(struct node *n, unsigned to, char *text, size_t size);
int node_resync_local(struct node *n, bool discard, char *text, size_t size);

/* ---- callbacks for interpose_config, apply_config, resync ---- */
int node_open_epoch(void *node);
void node_restate(void *node, const uint64_t *ids, unsigned n);
void node_room(void *node, uint64_t *bytes, uint64_t *inodes);
void node_flush_failed(void *node, uint64_t id, int err);
void node_barrier_done(void *node, uint64_t seq, int err);
void node_report(void *node, const struct report *r);
int node_stream_epoch(void *node, struct epoch e, uint64_t seq, uint64_t prev_lsn);
void node_handover(void *node, unsigned to, uint64_t number, uint64_t seq);
int node_set_inconsistent(void *node, bool inconsistent);
void node_compared(void *node, unsigned peer, int err);
bool node_may_adopt(void *node);			/* only a primary gives strangers an id */

/* ---- status ---- */
struct node_peer_status {
	bool configured, connected;
	enum peer_state state;
	bool in_sync_set, outdated;
	char reason[REASON_MAX];
	uint64_t lag_ops, lag_bytes, lag_ms;
	int64_t last_heard_ms;			/* ago; -1 = never */
	struct link_stats link;
	uint32_t flags;				/* as it said itself */
	enum dropped_how dropped;
};
struct node_status {
	enum core_role role;
	uint32_t flags;				/* enum node_flags */
	bool frozen, level;
	struct epoch epoch;
	uint64_t lsn;
	uint16_t sync_set;
	uint64_t queue_bytes;
	unsigned following;
	unsigned doubt_of;			/* node that may have accepted our handover; 0 = none */
	struct link_stats strangers;
	struct node_peer_status peer[NODE_MAX + 1];
};
void node_status(struct node *n, struct node_status *out);

#endif
