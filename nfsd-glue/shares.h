/*
 * Share reservations (NLM SHARE, UNSHARE): who opened a file for what, and what he denies to others meanwhile, as DOS and Windows programs do it. They are
 * advisory: they conflict with each other only; neither reads and writes nor locks look at them.
 *
 * A reservation belongs to an owner (host and its opaque name) and a file; an owner has one per file, and asks anew to change it. Pure table with a mutex. `record` is
 * called under it before each change, so that the order of the records is that of the changes; its error prevents the change.
 */
#ifndef NFSD_GLUE_SHARES_H
#define NFSD_GLUE_SHARES_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/lock.h"

enum { SHARES_MAX = 1 << 16, SHARES_FILE_MAX = 1024 };	/* in all, and of one file; more get -ENOLCK */

/* NLM's fsa_* and fsm_*: bit 0 reading, bit 1 writing. */
enum { SHARE_READ = 1, SHARE_WRITE = 2, SHARE_BITS = 3 };

struct share {
	uint64_t id;			/* the file */
	uint64_t key;			/* whose: number of an identity */
	struct lock_who *who;		/* behind KEY; borrowed in calls, the table holds a reference of its own */
	uint8_t access, deny;		/* SHARE_* */
};
/* SET: there is S now; else it is gone. *SEQ: the caller's. */
typedef int (*share_record_fn)(void *arg, const struct share *s, bool set, uint64_t *seq);

struct shares;
int shares_new(share_record_fn record, void *arg, struct shares **out);		/* RECORD may be NULL */
void shares_free(struct shares *t);

/* SEQ is handed to RECORD. 0; -EAGAIN: somebody denies it, or has what would be denied; -ENOLCK; what RECORD returned. */
int shares_set(struct shares *t, const struct share *s, uint64_t *seq);
/* 0 also when there is none. What RECORD returned. */
int shares_clear(struct shares *t, uint64_t id, uint64_t key, uint64_t *seq);
/* All that MATCH says yes to. SEQ not NULL: each is recorded, or stays: the first error is returned. */
int shares_drop(struct shares *t, bool (*match)(void *arg, const struct share *s), void *arg, uint64_t *seq);
/* What was recorded elsewhere: no look for conflicts, no record. -ENOLCK: no memory. */
int shares_apply(struct shares *t, const struct share *s, bool set);
/* FN for each, all under the mutex, at last FN(arg, NULL); its first nonzero ends it and is returned. */
int shares_each(struct shares *t, int (*fn)(void *arg, const struct share *s), void *arg);
unsigned shares_count(struct shares *t);

#endif
