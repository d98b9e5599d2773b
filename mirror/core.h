/*
 * The decision core of a node: roles, the sync set, epochs, who may be followed, when acknowledgements may go on. Pure: no sockets, clocks, threads or
 * random numbers inside; `core_step(core, event, actions)`. The same events in the same order give the same decisions, so that a simulator can
 * drive two to four of these from a seed.
 *
 * Role of the node                                    A peer, seen from a primary
 *
 *   STANDBY --promote--> FENCING --> DRAINING             DOWN --hello--> READY --may follow--> OPENING
 *      ^                                 |                  ^                \--may not--> REFUSED  |
 *      |<-another reigns, says OUTDATE-- REIGN              |                                     | stream is up
 *      |                                 |                  |          STREAMING <--from queue----+
 *      +------- superseded ---- PRIMARY <+                  |              |       COMPARING <----+ full comparison
 *                                                           |              +---caught up---+   |
 *      |                        |   ^                  dropped,            v                  v
 *      +-- HANDING <--demote, --+   |                  lost            JOINING (larger set recorded, counts, told LEVEL) --LEVELLED--> LEVEL
 *            |        switchover    |
 *            +---- declined --------+                  (core_hand.c)
 *
 * Invariants (tested by simulation):
 *  1. Nothing is acknowledged without a member of the recorded sync set before that member is outdated, or fenced, or `fence_peer = none`
 *     says that a person takes the risk; and the smaller set is durable here and on the remaining members.
 *  2. A peer counts from before it is told that it is level, and holds then what was acknowledged without it.
 *  3. A node becomes primary only for one of the design's reasons, or by force.
 *  4. A node follows only a lineage that contains its own newest epoch, or after a person gave its versions up.
 *
 * Every durable decision is one ACT_RECORD of the whole state; at most one is under way, and what depends on it waits for EV_RECORDED.
 */
#ifndef MIRROR_CORE_H
#define MIRROR_CORE_H

#include "mirror/state.h"
#include "mirror/wire.h"

enum fence_mode { FENCE_NONE, FENCE_HOOK };

struct core_config {
	unsigned node;
	uint16_t peers;				/* bit n: node n is in the configuration (without ourselves) */
	enum fence_mode fence;
	bool start_last;
	unsigned peer_timeout_ms, congestion_timeout_ms;
	const char *name[NODE_MAX + 1];		/* for messages; borrowed; NULL: its number is said */
};

enum core_role { CORE_STANDBY, CORE_FENCING, CORE_DRAINING, CORE_REIGN, CORE_PRIMARY, CORE_HANDING };
/* How far giving the role up is; the node's role is CORE_HANDING from HAND_RECORDING on. */
enum hand_state { HAND_NOT, HAND_PREPARING, HAND_SHUTTING, HAND_RECORDING, HAND_MARKED };
enum peer_state { PEER_DOWN, PEER_READY, PEER_REFUSED, PEER_OPENING, PEER_STREAMING, PEER_COMPARING, PEER_JOINING, PEER_LEVEL };
/* A member of the sync set that is being left behind. */
enum drop_state { DROP_NOT, DROP_ASKED, DROP_FENCING, DROP_RETRY, DROP_DONE };

enum answer_kind { ANSWER_RECORDED, ANSWER_LEVELLED, ANSWER_OUTDATED, ANSWER_TAKEN_BACK, ANSWER_KINDS };

struct core_peer {
	enum peer_state state;
	enum drop_state drop;
	bool connected;
	uint64_t since_ms;			/* of the drop state */
	uint64_t fence;				/* number of the newest ACT_FENCE */
	uint64_t heard_ms;
	struct hello hello;			/* its last one */
	uint64_t stream_target;			/* STREAMING: level when it has confirmed this */
	uint64_t applied_seq, progress, progress_ms;
	bool outstanding;
	bool full;				/* the open that is under way is a full comparison */
	bool joins;				/* ... goes on from the handover that began our reign */
	bool answered;				/* has said hello since we started */
	bool want_level;			/* caught up; waits for its turn to join the set */
	bool counts;				/* JOINING: acknowledgements rest on it; what came before ends at level_target: */
	uint64_t level_target;			/* it is told that it is level when it has applied all that */
	bool told_level;			/* JOINING: the larger set is durable, it counts, LEVEL was sent */
	bool no_stream;				/* the queue doesn't hold what it lacks after all */
	uint64_t retry_ms;			/* no new attempt before */
	/* standby: answers that go out when what they say is durable, by kind: waiting for a record, or for the one under way */
	struct { bool wait, inflight; uint8_t kind; uint64_t id; } answer[ANSWER_KINDS];
	char reason[REASON_MAX];		/* why it is refused or was dropped */
};

enum core_event_type {
	EV_START, EV_TICK,
	EV_PEER_UP,			/* peer, hello */
	EV_PEER_DOWN,			/* peer, text */
	EV_PEER_FAILED,			/* peer, text: its stream ended, it reported an error, it says goodbye without having recorded */
	EV_GOODBYE,			/* peer, flag: it recorded outdated before; handover in `ok` when it was the primary */
	EV_STREAM_UP,			/* peer: our stream to it is open (it accepted) */
	EV_OPEN_REFUSED,		/* peer, text */
	EV_COMPARED,			/* peer, ok */
	EV_MSG_OPEN, EV_MSG_OUTDATE, EV_MSG_OUTDATED, EV_MSG_RECORD, EV_MSG_RECORDED, EV_MSG_LEVEL, EV_MSG_LEVELLED,	/* peer, msg */
	EV_RECORDED,			/* ok: the ACT_RECORD under way */
	EV_ACKSET,			/* seq: the set of an ACT_ACKSET that is in force now */
	EV_SETTLED,			/* ok: the ACT_SETTLE number seq is done */
	EV_UNSTATED,			/* peer: it lacks something that neither queue nor comparison holds for it */
	EV_FENCED,			/* peer, ok; seq: of the ACT_FENCE */
	EV_DRAINED,			/* lsn, seq: all that was received is applied */
	EV_WANT_EPOCH,			/* the first change since the last one closed */
	EV_STREAM_EPOCH,		/* standby: OP_EPOCH applied (epoch, lsn of the one before) */
	EV_STREAM_HANDOVER,		/* standby: OP_HANDOVER applied (node, seq: its number, lsn: its seq) */
	EV_DIVERGED,			/* standby: data or stream can't be right (text) */
	EV_COMPARING,			/* standby: flag = a comparison began / ended well */
	EV_PROMOTE,			/* person: fenced, force */
	EV_DEMOTE,			/* person: flag: to stop only */
	EV_SWITCHOVER,			/* person: node: the next primary, 0 = the one that is level; peer: who passed this on, 0 = asked here; seq: the request's number */
	EV_PREPARED,			/* ok, or text; seq: of the ACT_PREPARE */
	EV_SHUT,			/* lsn; ok, or text; seq: of the ACT_SHUT */
	EV_MARKED,			/* ok: the handover is in the order (and was waited for); else it is not; seq: of the ACT_MARK */
	EV_MSG_TAKE_BACK, EV_MSG_TAKEN_BACK,	/* peer, msg */
	EV_DISCARD,			/* person: resync --discard-local */
	EV_LIMITS,			/* core.rec.limits were narrowed: record them */
	EV_STOPPING,			/* clean stop of a standby: record outdated; nothing is promoted, followed or levelled any more */
};

struct core_event {
	enum core_event_type type;
	unsigned peer;
	unsigned node;				/* EV_STREAM_HANDOVER, EV_SWITCHOVER: who shall take over */
	uint64_t now_ms;
	uint64_t random;			/* for tags; always given */
	bool ok, flag, fenced, force;
	const struct hello *hello;
	const struct msg *msg;
	const char *text;
	uint64_t lsn, seq;
	struct epoch epoch;
	/* EV_TICK, by peer; also the queue's window */
	const uint64_t *heard_ms;
	const uint64_t *applied_seq, *progress;
	const bool *outstanding;
	const bool *overdue;			/* a barrier that it should have answered (congestion_timeout) */
	uint64_t queue_first, queue_last;
	bool queue_filling;			/* EV_TICK: so full that writers may have to wait soon */
	uint64_t instance;			/* ours, of this life as primary */
};

enum core_action_type {
	ACT_LOG,			/* level, text */
	ACT_RECORD,			/* save core.rec durably, then EV_RECORDED */
	ACT_SEND,			/* peer, msg */
	ACT_RESET,			/* peer, text: drop its connections */
	ACT_OPEN,			/* peer, full, from_seq, keep_lost: open a stream to it; not full: instance, seq: what it applied last */
	ACT_CLOSE,			/* peer: close our stream to it, stop its comparison */
	ACT_COMPARE,			/* peer: start a full comparison on the open stream; or flag: send only the state above, then EV_COMPARED; or stand by to state objects again */
	ACT_FOLLOW,			/* peer, msg (the OPEN): accept the stream that comes */
	ACT_REFUSE,			/* peer, msg (the OPEN), text */
	ACT_UNFOLLOW,			/* stop receiving */
	ACT_SETTLE,			/* seq: make all that was applied durable, then EV_SETTLED */
	ACT_FENCE,			/* peer, seq, flag: stop (promotion), else outdate; then EV_FENCED */
	ACT_NOT_TAKEN,			/* the promotion that was about to end is given up: standby as before */
	ACT_DRAIN,			/* apply all that was received, stop receiving, then EV_DRAINED; flag: nothing follows the handover that was applied */
	ACT_ACKSET,			/* set: acknowledgements rest on these from now on; then EV_ACKSET */
	ACT_BECOME_PRIMARY,		/* the epoch in core.rec is durable: emit it, open for changes */
	ACT_BECOME_STANDBY,		/* shut off changes, wake waiters with an error */
	ACT_PREPARE,			/* seq; flag: let the standbys catch up, write back what the mount's users have mapped; then EV_PREPARED */
	ACT_SHUT,			/* seq; from_seq: time for it in ms: admit no changes (they wait) and wait until the sync set has applied all; then EV_SHUT */
	ACT_MARK,			/* seq, peer: put the handover to PEER (0 = to whoever is promoted) into the order; then EV_MARKED */
	ACT_ADMIT,			/* changes, again */
	ACT_HANDED,			/* answer the person who wanted the role given up: ok, text */
	ACT_EPOCH_OPEN,			/* ... likewise in mid-reign: emit it, let the waiting change go on */
	ACT_EPOCH_WANTED,		/* the next change must ask first */
	ACT_PROMOTED,			/* answer the person: ok, text */
};
struct core_action {
	enum core_action_type type;
	unsigned peer;
	int level;
	bool ok, flag, full, keep_lost;
	uint16_t set;
	uint64_t from_seq, seq;
	uint64_t instance;			/* ACT_FOLLOW: of the daemon that sent the OPEN; ACT_OPEN */
	struct msg msg;
	char text[512];
};
enum { CORE_ACTIONS_MAX = 192 };
struct core_actions { unsigned n; struct core_action a[CORE_ACTIONS_MAX]; };

struct core {
	struct core_config cfg;
	struct state rec;			/* as it should be on disk; the shell saves it on ACT_RECORD */
	bool unknown;				/* marks disagree: neither promoted nor followed without a person or a comparison */
	enum core_role role;
	bool presumed_outdated;			/* since start, until all other members have answered */
	bool level;				/* standby: the primary has told us so, in this life */
	bool discard;				/* a person gave our own versions up */
	bool stopping;				/* a clean stop is under way */
	bool drain_failed;			/* what was received could not be applied, after a promotion had begun */
	int following;				/* node that we follow; 0 = none */
	uint64_t settles;			/* numbers of ACT_SETTLE */
	uint64_t settling, settle_id;		/* the one that a LEVEL of the primary waits for, 0 = none; its request number */
	uint64_t last_contact_ms;		/* with a primary */
	struct epoch open_epoch;		/* of the OPEN that we follow */
	struct core_peer peer[NODE_MAX + 1];

	/* recording: what waits for the next record, what for the one under way (enum record_for) */
	bool recording;
	unsigned rec_pending, rec_inflight;
	uint64_t rec_retry_ms;
	/* the sync set */
	uint16_t ackset;
	bool shrinking;				/* a smaller set is being recorded */
	uint16_t shrink_wait;			/* members that have not confirmed it */
	bool shrink_durable;			/* ... and is, here */
	uint64_t shrink_id, shrink_since_ms;
	unsigned growing;			/* node that joins; 0 = none */
	bool grow_durable;
	uint16_t grow_wait;			/* members that have not confirmed the larger set */
	uint64_t grow_id, grow_since_ms;
	uint64_t set_id;			/* number of the last set that was told to members */
	bool epoch_wanted;			/* opens with the next change */
	bool epoch_asked;			/* a change is waiting for it */
	/* giving the role up (core_hand.c) */
	enum hand_state hand;
	bool hand_stop;				/* to stop the daemon */
	unsigned hand_to;			/* who shall be primary, 0 = whoever is promoted */
	uint64_t hand_number, hand_since_ms;
	unsigned hand_asker;			/* node that passed the request on, 0 = a person here */
	uint64_t hand_asked;			/* number of its request */
	unsigned doubt_of;			/* standby: has this node accepted our handover? 0 = no doubt */
	uint64_t doubt_number, doubt_since_ms, doubt_asked_ms;
	struct { uint64_t instance, seq; } mark;	/* standby: the last handover applied, by its place in the old primary's order; 0 = none */
	struct { uint64_t instance, seq; } joint;	/* primary: who holds everything up to there, holds what we held when our reign began; 0 = nobody knows */
	uint64_t taken_back;			/* standby: the newest handover that must not be accepted any more */
	/* promotion */
	unsigned fencing;			/* node being stopped */
	uint64_t fences;			/* numbers of ACT_FENCE: an answer counts for the newest of its peer only */
	uint64_t reign_first;			/* primary: the reign with which this one's queue began */
	bool promote_fenced, promote_force, promote_self;
	unsigned promote_dead;			/* whom the promotion's fence, or a person's word, has stopped; 0 = nobody */
	struct state before;			/* REIGN: rec without the new reign, should it be given up */
};

/* What a lineage says of another: SAME newest epoch; ours is in theirs (BEHIND); theirs is in ours (AHEAD); each has one that the other lacks (FORK);
 * one has none at all (NEW: theirs, BLANK: ours). */
enum lineage_relation { LINEAGE_SAME, LINEAGE_BEHIND, LINEAGE_AHEAD, LINEAGE_FORK, LINEAGE_NEW, LINEAGE_BLANK };
enum lineage_relation lineage_compare(const struct lineage_entry *ours, uint32_t n, const struct lineage_entry *theirs, uint32_t m);

void core_init(struct core *c, const struct core_config *cfg, const struct state *rec, bool unknown);
/* Appends to OUT (emptied first). */
void core_step(struct core *c, const struct core_event *e, struct core_actions *out);
/* Why a promotion would be refused now, or NULL: one line that says what to do. */
const char *core_promotion_refusal(const struct core *c, bool fenced, bool force, char *buf, size_t size);
/* What we say of ourselves (enum node_flags). */
uint32_t core_flags(const struct core *c);
const char *core_role_name(enum core_role r);
const char *peer_state_name(enum peer_state s);

#endif
