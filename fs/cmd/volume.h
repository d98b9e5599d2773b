/*
 * What a volume is on this node, below the mirroring: its state directory, its backing root, its handle table and its local layer. The daemon
 * stands on it, and so does `init` when it adopts a tree.
 *
 * One process at a time: the state directory is locked (flock on `lock`).
 */
#ifndef FS_CMD_VOLUME_H
#define FS_CMD_VOLUME_H

#include "fs/base/conf.h"
#include "fs/local.h"
#include "handles/handles.h"
#include "mirror/state.h"

struct volume {
	int state_fd, root_fd, lock_fd;		/* owned */
	struct state state;
	struct state_file *state_file;		/* owned */
	bool unknown;				/* marks of state and data disagree */
	struct handles *handles;		/* owned */
	struct objlocks *locks;			/* owned */
	struct layer *local;			/* owned */
};

/* Who may adopt what turns up unmarked, and who hears of it: see struct local_config. */
struct volume_hooks {
	bool (*may_adopt)(void *arg);
	void (*adopted)(void *arg, uint64_t parent, uint64_t id);
	void *arg;
};

/* Opens the volume of C. 0, or -errno with one line in ERR that says what is wrong and what to do. */
int volume_open(const struct volume_conf *c, const struct volume_hooks *hooks, struct volume *v, char *err, size_t errlen);
/* In the reverse order; everything durable. */
void volume_close(struct volume *v);

/* Opens (and locks) the state directory and the backing root only: what `init` needs. MAKE: creates the state directory. */
int volume_open_dirs(const struct volume_conf *c, bool make, struct volume *v, char *err, size_t errlen);
/* Removes the mount that a killed daemon left at PATH; false: there is none. */
bool volume_clear_dead_mount(const char *path);
/* Is everything there that a daemon needs: capabilities? 0 or -EPERM with one line in ERR. */
int volume_check_caps(char *err, size_t errlen);

#endif
