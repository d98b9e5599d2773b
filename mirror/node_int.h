/* What the files of the node share. */
#ifndef MIRROR_NODE_INT_H
#define MIRROR_NODE_INT_H

#include <pthread.h>

#include "mirror/node.h"

enum {
	NODE_TICK_MS = 20,
	NODE_ROOM_TICKS = 10,			/* free space is looked at every so many ticks */
	ACK_DELAY_MS = 2, ACK_BYTES = 1 << 20,
	RECV_LIST_BYTES_MAX = 64 << 20,		/* received and not applied yet */
	DRAIN_QUIET_MS = 20, DRAIN_MAX_MS = 200,	/* what is still in the socket when a stream ends is waited for so long */
	NODE_TEXT_MAX = 512,
	NODE_JOBS_MAX = 4096,			/* actions that wait; a peer whose messages bring more is cut off */
};

/* An action that waits for the worker. */
struct job { struct job *next; struct core_action a; };

/* A stream to a peer: the thread ends by itself when the queue is detached or the connection fails. */
struct sender {
	struct node *n;
	unsigned peer;
	uint64_t token;				/* 0 = none is wanted */
	struct conn *conn;			/* NULL until it is up; guarded by node.stream_mu */
	pthread_t thread;
	bool running;				/* the thread must be joined */
};

/* A frame that was received. */
struct received { struct received *next; struct frame_header h; struct blk *blk; const void *meta, *data; };

/* The stream that we follow. */
struct receiver {
	struct node *n;
	unsigned peer;
	uint64_t token;
	bool full, keep_lost;
	struct conn *conn;			/* guarded by node.stream_mu */
	pthread_t reader, applier;
	bool running;

	pthread_mutex_t mu;			/* guards what follows */
	pthread_cond_t changed;
	struct received *first, **last;
	size_t bytes;
	bool eof;				/* nothing more will come */
	bool ending;				/* no more is wanted: apply the rest */
	bool abandoned;				/* an op failed: don't apply the rest */
	uint64_t expect;			/* next seq */
};

/* The state that is being taken from a peer. */
struct take {
	unsigned peer;
	uint64_t id;				/* of the question; 0 = none */
	struct part *first, **last;		/* owned */
	size_t bytes;
	bool ended;				/* nothing more is accepted */
};

struct node {
	struct node_config cfg;
	struct interpose *ip;
	struct apply *apply;
	struct node_resync resync;
	struct links *links;
	uint64_t instance;

	pthread_mutex_t core_mu;		/* guards core, saved/started, answers */
	pthread_cond_t core_changed;
	struct core core;
	int hand_state;				/* a person here wants the role given up: 0 no, 1 under way, 2 done, 3 failed */
	char hand_text[NODE_TEXT_MAX];
	uint64_t asked;				/* number of the FRAME_SWITCHOVER that a person here waits for, 0 = none */
	int asked_state;			/* as hand_state */
	char asked_text[REASON_MAX];
	uint64_t rec_started, rec_saved;	/* records begun and ended (with success) by the recorder */
	struct state saving;			/* the recorder's copy */
	bool mark_due;				/* the data were unknown at the start: marks are made when they no longer are */
	bool closed;				/* stopped: nobody waits for anything any more */
	bool epoch_waiting, epoch_ok;
	int promote_state;			/* 0 none, 1 under way, 2 ok, 3 refused */
	char promote_text[NODE_TEXT_MAX];
	_Atomic bool frozen;
	_Atomic bool serving;			/* the worker has opened this node for changes, and not shut it */
	bool changing;				/* NODE_ROLE_CHANGING was told, and nothing since; the worker's */

	pthread_mutex_t job_mu;			/* guards what follows */
	pthread_cond_t job_cond, tick_cond, record_cond, settle_cond, hook_cond, hand_cond;
	struct core_action hand_job;		/* ACT_PREPARE, ACT_SHUT, ACT_MARK for the hander */
	bool hand_wanted;
	bool record_wanted;
	struct job *jobs, **jobs_last;
	_Atomic unsigned njobs;
	uint64_t give[NODE_MAX + 1];		/* questions for our state, by peer; 0 = none */
	bool give_due;				/* there is one */
	uint64_t settle_wanted;			/* number of the newest ACT_SETTLE; 0 = none */
	unsigned fence_hooks;			/* that run: they answer to us */
	bool worker_stop, recorder_stop;
	_Atomic bool stopping;			/* written under job_mu */
	pthread_t worker, recorder, ticker, acker, settler, hander;
	unsigned threads;			/* how many were started, in the order of node_threads */

	pthread_mutex_t stream_mu;		/* guards senders' and receiver's conn and token */
	struct sender sender[NODE_MAX + 1];
	struct receiver *receiver;		/* NULL = none; replaced by the worker only */

	pthread_mutex_t answer_mu;		/* held while an answer is put into the outbox: it goes to whom it is for, with its numbers */
	unsigned stream_peer;			/* whose stream our positions and barriers belong to; 0 = none. Guarded by answer_mu */

	pthread_mutex_t take_mu;		/* guards take; a leaf */
	pthread_cond_t take_cond;
	struct take take;

	/* where the stream is: written by the applier, or under the queue's order */
	_Atomic uint64_t base_seq;		/* seq of the current epoch's LSN 0 */
	_Atomic uint64_t recv_seq, applied_seq, recv_bytes;	/* standby */
	_Atomic uint64_t mark_seq;		/* primary: seq of our handover, 0 = none */
	_Atomic uint64_t from_instance;		/* the primary's daemon in whose stream we hold all up to applied_seq; 0 = we don't */
	_Atomic uint64_t full_instance;		/* the same once the comparison under way has ended well */
	_Atomic uint64_t barriers[NODE_MAX + 1];	/* answered, by peer: progress */
	_Atomic uint64_t free_bytes, free_inodes;
	_Atomic uint64_t peer_free_bytes[NODE_MAX + 1], peer_free_inodes[NODE_MAX + 1];
	/* Acknowledgements (node_ack_thread). */
	_Atomic uint64_t ack_wanted;		/* bumped by reader and applier */
	_Atomic uint64_t acked_bytes;		/* of recv_bytes */
	_Atomic bool ack_napping;		/* one goes out soon by itself */
	bool ack_prompt;			/* one must go out now; guarded by ack_mu */
	pthread_mutex_t ack_mu;
	pthread_cond_t ack_cond;
};

/* Fills in time and random, steps the core, queues its actions. */
void node_event(struct node *n, struct core_event *e);
/* The same, with core_mu held. */
void node_step_locked(struct node *n, struct core_event *e);
/* As node_event, and waits until a record that was begun after it is durable. 0 or -ETIMEDOUT, -ESHUTDOWN. */
int node_event_recorded(struct node *n, struct core_event *e);

/* node_stream.c: from the worker only, but for node_stream_ready */
void stream_open(struct node *n, const struct core_action *a);
void stream_close(struct node *n, unsigned peer);
void stream_follow(struct node *n, const struct core_action *a);
/* Ends the stream that we follow; what was received is applied first. COMPLETE: nothing more is on its way. */
void stream_unfollow(struct node *n, bool complete);
void node_stream_ready(void *node, unsigned peer, uint64_t token, struct conn *c);
void node_stream_opened(struct node *n, unsigned peer, const struct opened_msg *m);
void *node_ack_thread(void *node);
/* There is something to acknowledge: soon, or now when PROMPT. */
void node_ack_poke(struct node *n, bool prompt);
/* Sends M to the node whose stream is being applied. 0, -ENOTCONN. */
int stream_answer(struct node *n, const struct msg *m);

/* node_take.c. From the worker: */
void take_state(struct node *n);
void give_due(struct node *n);
/* From the links: a question, an answer. */
void give_asked(struct node *n, unsigned peer, uint64_t id);
void take_heard(struct node *n, unsigned peer, const struct state_msg *m);

/* node_hand.c: giving the role up */
void *node_hand_thread(void *node);
void node_hand_job(struct node *n, const struct core_action *a);
/* Gives the role up to whoever is promoted. 0 or -EBUSY; TEXT says why not. */
int node_give_up(struct node *n, bool stopping, char *text, size_t size);
void node_handed(struct node *n, const struct core_action *a);
void node_switched(struct node *n, const struct switched_msg *m);

/* node.c */
void node_tell_role(struct node *n, enum node_role_event e);
uint64_t node_lsn(struct node *n);
const char *node_name(const struct node *n, unsigned p);
/* A connected node that says of itself that it is primary; 0 = none. With core_mu. */
unsigned node_primary_heard(const struct node *n);

/* node_hook.c */
void hook_fence(struct node *n, unsigned peer, uint64_t number, bool stop);	/* answers with EV_FENCED */
/* Ends all fence hooks that run, and waits for them; n->stopping is set. */
void hooks_stop(struct node *n);
void hook_state(struct node *n, const char *what, const char *which);

#endif
