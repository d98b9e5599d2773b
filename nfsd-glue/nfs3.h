/*
 * NFS version 3 (RFC 1813): all 22 procedures over the layer contract, as a program of the RPC server (rpc.h).
 *
 * Changes carry their answer: it is made under the objects' locks, when the operation is done and before its op enters the stream (call.after), goes into the
 * duplicate request cache and rides on the op. A retransmission gets the same bytes, on this node or on the one that carries on.
 */
#ifndef NFSD_GLUE_NFS3_H
#define NFSD_GLUE_NFS3_H

#include "fs/layer.h"
#include "fs/observe.h"
#include "handles/wirefh.h"
#include "nfsd-glue/exports.h"
#include "nfsd-glue/nfsd.h"
#include "nfsd-glue/replica.h"
#include "nfsd-glue/rpc.h"

enum { NFS3_PROGRAM = 100003, NFS3_VERSION = 3, NFS3_PROCS = 22, NFS3_FSINFO_IO = RPC_PAYLOAD_MAX };

struct nfs3_config {			/* all borrowed */
	struct layer *top;
	struct observers *observers;	/* the open files register here; NULL = nobody else changes anything */
	struct exports *exports;
	struct wirefh_codec *handles;
	struct replay *replay;
	struct replica *replica;
	const struct volume_limits *limits;
	uint64_t fsid;
	uint32_t generation;
	void (*settle)(void *arg);	/* see nfsd.h; may be NULL, like flush_range */
	void (*flush_range)(void *arg, uint64_t id, uint64_t off, uint64_t len);
	void *arg;
	unsigned files;			/* open files kept; 0 = NFS_FILES_MAX */
};

struct nfs3;
/* As a standby. */
int nfs3_new(const struct nfs3_config *cfg, struct nfs3 **out);
void nfs3_free(struct nfs3 *s);		/* no call runs any more, and no change is told; NULL is fine */
void nfs3_program(struct nfs3 *s, struct rpc_program *out);
/* The role is lost: changes that were accepted before this are not answered any more, later ones wait. The caller cuts all connections, then says STANDBY. False:
 * it wasn't held, there is nothing to cut. */
bool nfs3_leaving(struct nfs3 *s);
void nfs3_role(struct nfs3 *s, enum nfsd_role role);
/* Another write verifier. */
void nfs3_flush_failed(struct nfs3 *s);
unsigned nfs3_files(struct nfs3 *s);

#endif
