/* Inside the decision core: what its files share. core.c: peers, the sync set, promotion, recording. core_hand.c: giving the role up. */
#ifndef MIRROR_CORE_INT_H
#define MIRROR_CORE_INT_H

#include "mirror/core.h"

enum { RETRY_MS = 1000 };		/* between two attempts at a peer that failed, a fence, a record */
enum record_for { FOR_NOTHING = 1, FOR_REIGN = 2, FOR_SHRINK = 4, FOR_GROW = 8, FOR_EPOCH = 16, FOR_ANSWER = 32, FOR_HAND = 64 };
enum { LVL_ERROR, LVL_WARN, LVL_INFO };

#define BIT(n) ((uint16_t)(1u << (n)))

/* What one step needs everywhere. */
struct step { struct core *c; const struct core_event *e; struct core_actions *out; };

struct core_action *core_act(struct step *s, enum core_action_type type, unsigned peer);
void core_act_text(struct step *s, enum core_action_type type, unsigned peer, const char *text);
void core_say(struct step *s, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void core_send_id(struct step *s, unsigned peer, uint8_t kind, uint64_t id);
/* What people call node N. */
const char *core_name_of(const struct core *c, unsigned n);
void core_reason(struct core_peer *p, const char *text);

/* Asks for a record of c->rec; WHAT (enum record_for) waits for it. */
void core_record(struct step *s, unsigned what);
/* Answers N's question of kind WHAT with message KIND as soon as c->rec as it is now is durable. */
void core_answer(struct step *s, unsigned n, enum answer_kind what, uint8_t kind, uint64_t id);

/* The sync set without this node. */
uint16_t core_members(const struct core *c);
/* Is a member of the sync set being left behind? */
bool core_member_leaving(const struct core *c);
enum lineage_relation core_relation(const struct core *c, unsigned peer);
bool core_has_tail(const struct core *c);
/* A connected node that said in its hello that it is primary; 0 = none. */
unsigned core_live_primary(const struct core *c);

/* The connection ends; its next hello says where the peer stands. */
void core_hang_up(struct step *s, unsigned n, const char *why);
/* A peer that we stream to, or that is in the set, is not to be counted on any more. */
void core_peer_lost(struct step *s, unsigned n, const char *why, bool outdated);
/* May acknowledgements rest on what is agreed now? Not while the set changes or an epoch is being opened. */
bool core_settled(const struct core *c);
/* Calls the fence program: stop (promotion), else outdate. */
void core_fence(struct step *s, unsigned n, bool stop);

/* Ends being primary. The connection to KEEP stays (0 = none does). */
void core_become_standby(struct step *s, unsigned keep);
/* The last step of a promotion: drain, then the new reign. */
void core_drain(struct step *s);
/* A promotion that nobody here asked for begins. */
void core_promote_self(struct core *c);
/* A promotion ended: tells the person who asked, or the log. */
void core_promoted(struct step *s, bool ok, const char *text);

/* ---- core_hand.c ---- */
void core_demote(struct step *s);
void core_switchover(struct step *s);
void core_prepared(struct step *s);
void core_shut(struct step *s);
void core_marked(struct step *s);
/* The record that a handover waits for is durable, or failed. */
void core_hand_recorded(struct step *s, bool ok);
/* PEER's connection is gone. */
void core_hand_peer_down(struct step *s, unsigned peer);
/* PEER, which has just said hello to a standby, may know what became of our handover. */
void core_doubt_asks(struct step *s, unsigned peer);
/* PEER reigns: our handover was accepted. True: this node was handing its role over, and is standby now. */
bool core_hand_taken(struct step *s, unsigned peer);
/* The role was lost, in order or not: whoever waits for the handover is told. */
void core_hand_ended(struct step *s, bool ok, const char *text);
void core_hand_tick(struct step *s);
void core_stream_handover(struct step *s);
void core_msg_take_back(struct step *s);
void core_msg_taken_back(struct step *s);

#endif
