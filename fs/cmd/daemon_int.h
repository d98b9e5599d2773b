/* What the daemon's two files share. */
#ifndef FS_CMD_DAEMON_INT_H
#define FS_CMD_DAEMON_INT_H

#include <pthread.h>

#include "fs/cmd/cmd.h"
#include "fs/cmd/control.h"
#include "fs/cmd/volume.h"
#include "fs/fuse.h"
#include "fs/lock.h"
#include "mirror/node.h"
#include "nfsd-glue/address.h"
#include "nfsd-glue/guardian.h"
#include "nfsd-glue/exports.h"
#include "nfsd-glue/nfsd.h"
#include "resync/resync.h"

/* How the daemon is asked to end: by a signal, the control socket, or an unmount from outside. */
enum { END_NOT, END_STOP, END_FORCE };

struct daemon {
	const struct volume_conf *conf;
	const struct mount_args *args;
	struct volume volume;
	struct conn_security *security;
	struct layer *fault;			/* NULL = none */
	struct observers observers;
	struct queue *queue;
	struct node *node;
	struct interpose *ip;
	struct apply *apply;
	struct resync_sink *sink;
	struct lock_table *flocks;
	struct fuse_front *front;
	struct nfsd *nfsd;			/* NULL = `[nfs] listen' is not set */
	struct exports *exports;		/* what NFS clients may mount; there even without an NFS server */
	struct address *address;		/* service addresses; NULL = none */
	struct guardian *guardian;		/* of them */
	bool taking_over;			/* a promotion by switchover is under way; the node's worker's */
	pthread_mutex_t role_mu;		/* held while a change of role is followed; guards leaving */
	bool leaving;				/* this daemon ends: the role and the service addresses aren't taken up any more */
	bool node_started;
	struct control_server *control;
	uint64_t started_ms;

	pthread_mutex_t resync_mu;		/* guards resync[] */
	struct resync *resync[NODE_MAX + 1];	/* by peer; NULL = none */

	pthread_mutex_t end_mu;			/* guards end */
	pthread_cond_t end_cond;
	int end;				/* END_* */
};

/* Asks the daemon to end; any thread. */
void daemon_end(struct daemon *d, int how);
/* control_fn of the daemon. */
json_t *daemon_control(void *daemon, const json_t *request);

#endif
