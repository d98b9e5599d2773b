/*
 * The node's durable state: who it is, what it holds, on whom acknowledgements rested. One record in the file `state` of the
 * state directory, and the mark of the data in an xattr of the backing root.
 *
 * The file has two preallocated slots of STATE_SLOT bytes; a save writes the older one with one O_DSYNC write, so that a torn write leaves the record
 * before it. The slot with the higher sequence number and a right checksum counts. docs/formats.md has the bytes.
 *
 * Marks: each start and each clean stop writes the same (incarnation, epoch, LSN, nonce) into the state and then into the xattr
 * `trusted.tandemfs.volume` of the backing root. The state keeps its last two marks; an xattr that matches neither means that one of
 * the two was restored or rolled back: the data are *unknown*.
 */
#ifndef MIRROR_STATE_H
#define MIRROR_STATE_H

#include "fs/local.h"
#include "mirror/wire.h"

enum { STATE_SLOT = 16 << 10, STATE_VERSION = 1 };

/* How a peer left the sync set. */
enum dropped_how {
	DROPPED_NOT,			/* it is in the set, or never was */
	DROPPED_OUTDATED,		/* it recorded that it is outdated */
	DROPPED_FENCED,			/* the fence hook succeeded, or a person said so */
	DROPPED_RISK,			/* fence_peer = none: a person took the risk */
};

struct data_mark { uint64_t incarnation, lsn, nonce; struct epoch epoch; };

struct state {
	/* identity: written by init, constant but for the limits */
	unsigned char uuid[UUID_LEN];
	uint8_t node;
	uint32_t generation;
	unsigned char dir_key[16];	/* readdir hash */
	unsigned char mac_key[32];	/* NFS wire handles */
	struct volume_limits limits;

	/* history */
	uint64_t incarnation;		/* of the data: random, changes when they are not what they were */
	bool was_primary;		/* this node was the last primary that it knows of */
	bool primary;			/* ... and had not given the role up in order: what start_as = last resumes */
	bool outdated, inconsistent, handed_over;
	bool keep_lost;			/* a comparison that keeps our versions has begun and not ended */
	uint16_t sync_set;		/* bit n = node n */
	uint8_t dropped[NODE_MAX + 1];	/* enum dropped_how */
	uint32_t nlineage;
	struct lineage_entry lineage[LINEAGE_MAX];	/* oldest first; the last one is the current epoch */

	struct data_mark marks[2];	/* newest first */
	bool clean;			/* the daemon stopped in order */
};

struct state_file;

/* ---- init ---- */
/* What is in the backing root: 0 and its uuid and node; -ENODATA: not a volume; -ENOTSUP: no trusted xattrs. */
int state_root_owner(int root_fd, unsigned char uuid[UUID_LEN], unsigned *node);
/* Creates the state file and the root's mark. -EEXIST: there is a state already, or the root belongs to a volume. Fills random fields that are zero
 * (uuid, generation, dir_key, mac_key, incarnation). Makes .tandemfs, its limbo and lost. */
int state_create(int state_fd, int root_fd, struct state *s);

/* ---- a daemon's life ---- */
/* Loads. UNKNOWN: the marks of state and data disagree. -ENOENT: no volume here; -EPROTONOSUPPORT: written by a newer version; -EBADMSG: both
 * slots are damaged; -EXDEV: the backing directory belongs to another volume or node. */
int state_open(int state_fd, int root_fd, struct state *s, bool *unknown, struct state_file **out);
void state_close(struct state_file *f);
/* Durable when it returns. Thread-safe. */
int state_save(struct state_file *f, const struct state *s);
/* A new mark (nonce) in S, saved, then in the root's xattr. */
int state_mark(struct state_file *f, struct state *s, uint64_t lsn);

/* Random bytes, for tags and keys. */
uint64_t state_random(void);

/* ---- lineage ---- */
static inline struct epoch state_epoch(const struct state *s)
{
	return s->nlineage ? s->lineage[s->nlineage - 1].epoch : (struct epoch){ 0 };
}
/* Ends the current epoch at LAST_LSN and appends E; forgets the oldest entry when full. */
void state_push_epoch(struct state *s, struct epoch e, uint64_t last_lsn);

#endif
