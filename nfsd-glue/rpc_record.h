/*
 * Record marking (RFC 5531, section 11): a stream of fragments becomes records. Pure: bytes come in, records come out.
 *
 *   mark: 4 bytes, network order; bit 31: last fragment of its record; the other bits: length of the fragment
 *
 * A record that lies whole and in one fragment in the input is handed out where it lies. Everything else is gathered in a block, which grows with what has
 * really come: who announces a megabyte and sends nothing costs nothing, and only from RECORD_BIG_FROM bytes on the announced length is believed, so that the rest can be
 * read straight into its place.
 *
 * Bounded: a record by RPC_RECORD_MAX, its fragments by RECORD_FRAGMENTS_MAX; fragments without bytes are refused, and so are records.
 */
#ifndef NFSD_GLUE_RPC_RECORD_H
#define NFSD_GLUE_RPC_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/base/blk.h"
#include "nfsd-glue/rpc_msg.h"

enum { RECORD_BIG_FROM = 16 << 10, RECORD_FRAGMENTS_MAX = 1024 };

struct rpc_record {			/* all zero: between records */
	unsigned char mark[RPC_MARK_LEN];
	unsigned nmark;			/* bytes of the current fragment's mark that are there */
	unsigned fragments;		/* of this record, begun */
	uint32_t left;			/* of the current fragment, once the mark is whole */
	bool last, whole;
	struct blk *blk;		/* owned; the record so far is blk->data[0..len) */
	size_t len;
};

/* Takes bytes from IN[0..N), at most to the end of one record; *USED says how many. 1: a record is whole, at *P, *LEN (in the input, 4-byte aligned, or in r->blk, valid until
 * rpc_record_reset(); again the same when called again). 0: all bytes were taken, more are needed. -EBADMSG, -EMSGSIZE, -ENOMEM: give the connection up. */
int rpc_record_take(struct rpc_record *r, const unsigned char *in, size_t n, size_t *used, const unsigned char **p, size_t *len);
/* Where the rest of a big fragment may be read to, instead of passing through rpc_record_take: its length, 0 when there is no such place. */
size_t rpc_record_place(struct rpc_record *r, unsigned char **p);
/* N bytes (up to that length) have been put there. */
void rpc_record_placed(struct rpc_record *r, size_t n);
/* After a record was handled, or at the end: forgets it. */
void rpc_record_reset(struct rpc_record *r);
/* Has a record begun that isn't whole? */
static inline bool rpc_record_begun(const struct rpc_record *r) { return !r->whole && (r->nmark || r->fragments); }

#endif
