/*
 * Observers of changes: whoever caches something (the kernel behind FUSE, the NFS server) registers here and is told of every
 * change that did not come in through itself. Told under the objects' locks: an observer only queues, it never waits.
 */
#ifndef FS_OBSERVE_H
#define FS_OBSERVE_H

#include <stdint.h>

#include "fs/layer.h"

enum change_kind {
	CHANGE_ATTR,		/* attributes or xattrs of ID */
	CHANGE_DATA,		/* contents of ID in [off, off+len) (len 0 = to the end), attributes too */
	CHANGE_ENTRY,		/* NAME in directory ID now names something else, or nothing; CHILD lost it (0 = unknown) */
};
struct change {
	enum change_kind kind;
	enum call_origin origin;
	uint64_t id, off, len, child;
	const char *name;	/* borrowed for the call */
};
typedef void (*observe_fn)(void *arg, const struct change *c);

enum { OBSERVERS_MAX = 4 };

struct observers {
	unsigned n;
	struct { observe_fn fn; void *arg; } o[OBSERVERS_MAX];
};
/* Before the volume serves; asserts that there is room. */
void observers_add(struct observers *os, observe_fn fn, void *arg);
void observers_tell(const struct observers *os, const struct change *c);

#endif
