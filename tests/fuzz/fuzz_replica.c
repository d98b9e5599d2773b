/*
 * What a peer says of the NFS server's state. Input: pieces, each u8 kind (0: a chunk or marker of a snapshot; else a record of that kind, as it rides on an
 * op), u16 length, bytes; chunks and markers are given one snapshot's number. Whatever is accepted can be given to another node, which accepts
 * all of it and is complete.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "mirror/apply.h"
#include "nfsd-glue/clients.h"
#include "nfsd-glue/replica.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

struct node { struct replay *replay; struct replica *r; struct clients *clients; struct replica_part part; };

static int no_emit(void *arg, const void *data, size_t len)
{
	(void)arg, (void)data, (void)len;
	return -1;
}

static void node_make(struct node *n)
{
	const struct clients_config cc = { .emit = no_emit };

	if (replay_new(1 << 20, &n->replay) || clients_new(&cc, &n->clients))
		abort();
	const struct replica_config rc = { .replay = n->replay };
	if (replica_new(&rc, &n->r))
		abort();
	clients_part(n->clients, &n->part);
	replica_register(n->r, REPLICA_CLIENT, &n->part);
}

/* Memory of exactly that length: reading on is caught. */
static void give(struct node *n, unsigned kind, const uint8_t *p, size_t len)
{
	unsigned char *tight = malloc(len ? len : 1);

	memcpy(tight, p, len);
	if (!kind && len > REPLICA_SNAPSHOT_HEAD)
		memcpy(tight + 2, "\1\2\3\4\5\6\7\10", 8);
	if (kind)
		n->part.apply(n->part.arg, tight, len, kind % 2);
	else
		replica_take(n->r, tight, len);
	free(tight);
}

static int pass_on(void *to, const void *data, size_t len)
{
	return replica_take(to, data, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	static const unsigned char begin[] = { 1, 1, 1, 2, 3, 4, 5, 6, 7, 8 };
	static struct node a, b;	/* what was there before is forgotten at the begin marker */

	if (!a.r) {
		log_init("fuzz", LOG_SINK_STDERR, (enum log_level)-1);
		node_make(&a);
		node_make(&b);
	}
	replica_take(a.r, begin, sizeof begin);
	while (size >= 3) {
		size_t len = (size_t)in[1] | (size_t)in[2] << 8, have = size - 3;
		len = len < have ? len : have;
		give(&a, in[0], in + 3, len);
		in += 3 + len;
		size -= 3 + len;
	}
	if (replica_give(a.r, pass_on, b.r) || !replica_complete(b.r))
		abort();
	struct clients_stats x, y;
	clients_stats(a.clients, &x);
	clients_stats(b.clients, &y);
	if (x.conns != y.conns || x.mounts != y.mounts)
		abort();
	return 0;
}
