/*
 * MOUNT version 3 (RFC 1813, appendix I): gives out the first handle of an export, and keeps a list of who asked, for people (showmount).
 *
 * MNT's path is looked for below the innermost export that lists the client. What is below the export's root is walked by lookups: no symlink is followed,
 * `.` and `..` are refused, and, as with knfsd, the way there needs no permission. A client that no export lists gets MNT3ERR_ACCES, whatever is there.
 * Any flavour of credentials is fine: rights follow from the address.
 *
 * Lists are bounded: as many entries as fit in MOUNT3_LIST_MAX bytes. One procedure, MNT, may wait for the disk.
 */
#ifndef NFSD_GLUE_MOUNT3_H
#define NFSD_GLUE_MOUNT3_H

#include "handles/wirefh.h"
#include "nfsd-glue/clients.h"
#include "nfsd-glue/exports.h"
#include "nfsd-glue/rpc.h"

enum { MOUNT3_PROGRAM = 100005, MOUNT3_PATH_MAX = 1024, MOUNT3_LIST_MAX = 512 << 10 };

/* Filled by whoever composes the server; everything is borrowed. */
struct mount3 {
	struct exports *exports;
	struct layer *top;
	const struct wirefh_codec *fh;
	struct clients *clients;
};

/* What to register with the RPC server; M lives as long. */
struct rpc_program mount3_program(struct mount3 *m);

#endif
