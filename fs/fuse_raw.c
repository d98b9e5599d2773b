/*
 * What libfuse 3.14 does not speak, done on the raw requests and replies:
 *
 *  - INIT: the reply gets HANDLE_KILLPRIV_V2, SETXATTR_EXT and PARALLEL_DIROPS, as far as the kernel offers them. (libfuse 3.14.0 forgets to
 *    send the last one.)
 *  - WRITE, SETATTR, OPEN: their "clear setuid and setgid" flags go into the worker (kill_priv). With KILLPRIV_V2 the kernel no longer asks
 *    for the attributes before each write, and it is we who clear.
 *  - TMPFILE has CREATE's body; it is renamed CREATE, and the create handler knows it by the worker's tmpfile.
 *  - SETXATTR is answered here: its header grew with SETXATTR_EXT, and libfuse 3.14.0 and 3.14.1 disagree about its length.
 */
#include "fs/fuse_front.h"

#include <errno.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTIFY_INC_EPOCH = 8, MINOR_INC_EPOCH = 44, SETXATTR_IN_OLD = 8 };
static const uint32_t wanted = FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT | FUSE_PARALLEL_DIROPS;

static void reply_raw(struct fuse_front *f, uint64_t unique, int err)
{
	struct fuse_out_header out = { .len = sizeof out, .error = err, .unique = unique };

	/* It fails only when nobody waits for it any more. */
	while (write(f->dev_fd, &out, sizeof out) < 0 && errno == EINTR)
		;
}

/* ---- SETXATTR ---- */

struct setxattr_args {
	uint32_t size, flags, ext;
	const char *name;
	const void *value;
};

static int setxattr_parse(const struct fuse_front *f, const unsigned char *p, size_t len, struct setxattr_args *a)
{
	size_t head = f->setxattr_ext ? sizeof(struct fuse_setxattr_in) : SETXATTR_IN_OLD, name_len;
	struct fuse_setxattr_in in = { 0 };

	if (len < head)
		return -EBADMSG;
	memcpy(&in, p, head);
	name_len = strnlen((const char *)p + head, len - head);
	if (name_len == len - head || len - head - name_len - 1 < in.size)
		return -EBADMSG;
	*a = (struct setxattr_args){ .size = in.size, .flags = in.flags, .ext = in.setxattr_flags, .name = (const char *)p + head,
				     .value = p + head + name_len + 1 };
	return 0;
}

/* Setting an access ACL takes the setgid bit away from those who are not in the group. */
static int drop_setgid(struct layer *top, struct call *c, uint64_t id)
{
	struct setattr s = { .valid = SET_MODE };
	struct attr a;
	int r = top->ops->getattr(top, c, id, NULL, &a);

	if (r || !(a.mode & S_ISGID))
		return r;
	s.mode = a.mode & 07777 & ~(uint32_t)S_ISGID;
	return top->ops->setattr(top, c, id, NULL, &s, &a);
}

static int do_setxattr(struct fuse_front *f, const struct fuse_in_header *h, const unsigned char *p, size_t len)
{
	struct call c = { .origin = ORIGIN_FUSE, .uid = h->uid, .gid = h->gid, .pid = (pid_t)h->pid };
	struct layer *top = f->cfg.top;
	struct setxattr_args a;
	int r = setxattr_parse(f, p, len, &a);

	if (r)
		return r;
	if (a.size > LAYER_XATTR_MAX)
		return -E2BIG;
	r = top->ops->setxattr(top, &c, h->nodeid, a.name, a.value, a.size, (int)a.flags);
	if (!r && (a.ext & FUSE_SETXATTR_ACL_KILL_SGID) && !strcmp(a.name, "system.posix_acl_access"))
		r = drop_setgid(top, &c, h->nodeid);
	return r == -ENOSYS ? -EOPNOTSUPP : r;
}

/* ---- requests ---- */

static bool kill_priv(uint32_t opcode, const unsigned char *p, size_t len)
{
	if (opcode == FUSE_WRITE && len >= sizeof(struct fuse_write_in))
		return ((const struct fuse_write_in *)p)->write_flags & FUSE_WRITE_KILL_SUIDGID;
	if (opcode == FUSE_SETATTR && len >= sizeof(struct fuse_setattr_in))
		return ((const struct fuse_setattr_in *)p)->valid & FATTR_KILL_SUIDGID;
	if (opcode == FUSE_OPEN && len >= sizeof(struct fuse_open_in))
		return ((const struct fuse_open_in *)p)->open_flags & FUSE_OPEN_KILL_SUIDGID;
	return false;
}

int fuse_raw_request(struct fuse_worker *w, size_t len)
{
	struct fuse_in_header *h = (struct fuse_in_header *)w->blk->data;
	const unsigned char *body = w->blk->data + sizeof *h;

	if (len < sizeof *h || h->len != len)
		return -EBADMSG;
	len -= sizeof *h;
	w->opcode = h->opcode;
	w->tmpfile = h->opcode == FUSE_TMPFILE;
	w->kill_priv = kill_priv(h->opcode, body, len);
	if (h->opcode == FUSE_INIT && len >= 16) {
		w->init_flags = ((const struct fuse_init_in *)body)->flags;
		w->f->proto_minor = ((const struct fuse_init_in *)body)->minor;
	} else if (w->tmpfile) {
		h->opcode = FUSE_CREATE;
	} else if (h->opcode == FUSE_SETXATTR) {
		reply_raw(w->f, h->unique, do_setxattr(w->f, h, body, len));
		return 1;
	}
	return 0;
}

bool fuse_raw_gives_entries(const struct fuse_worker *w)
{
	switch (w->opcode) {
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
	case FUSE_CREATE:
	case FUSE_TMPFILE:
	case FUSE_READDIRPLUS:
		return true;
	default:
		return false;
	}
}

/* ---- replies ---- */

ssize_t fuse_raw_writev(int fd, struct iovec *iov, int count, void *front)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	struct fuse_worker *w = fuse_self;
	struct fuse_front *f = front;
	ssize_t n;

	if (w && w->opcode == FUSE_INIT && !out->error && count >= 2 && iov[1].iov_len >= 16) {
		struct fuse_init_out *init = iov[1].iov_base;

		init->flags |= w->init_flags & wanted;
		f->setxattr_ext = init->flags & FUSE_SETXATTR_EXT;
	}
	while ((n = writev(fd, iov, count)) < 0 && errno == EINTR)
		;
	return n;
}

int fuse_raw_inc_epoch(struct fuse_front *f)
{
	struct fuse_out_header out = { .len = sizeof out, .error = NOTIFY_INC_EPOCH };

	if (f->proto_minor < MINOR_INC_EPOCH)
		return -EOPNOTSUPP;
	return write(f->dev_fd, &out, sizeof out) < 0 ? -errno : 0;
}
