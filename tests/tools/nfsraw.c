/* nfsraw: NFSv3 calls that must not be made twice, sent again with the very same bytes; nothing is mounted.
 *
 *   nfsraw HOST PORT EXPORT record DIR FILE    makes directory DIR below EXPORT, and there every kind of change, successes and failures; calls and answers
 *                                              go into FILE. Behind each, things are changed so that the same call, executed again, would have
 *                                              another outcome
 *   nfsraw HOST PORT EXPORT storm DIR FILE N   N changes of each kind, all independent, 32 under way at a time, until they are all answered or the connection
 *                                              breaks; says "under way" when 100 are answered. What was sent and not answered is in FILE without an answer
 *   nfsraw HOST PORT EXPORT twice DIR N        N creations and removals there, each sent by two connections at the same moment: both get the same answer, a success
 *   nfsraw HOST PORT EXPORT replay FILE        sends all calls of FILE again, from another port. An answer must be the first one, byte by byte; a
 *                                              call that was never answered must succeed now, as if made for the first time
 *
 * Status 1 and a line per difference when something is not so; a line of totals. */
#include <stddef.h>
#include "tests/tools/nfswire.h"

enum { TIMEOUT_MS = 60000, REPLY_MAX = 1 << 20, WINDOW = 32, UNDER_WAY = 100, NAME_LEN = 48, PREPARED = 3, MODE_FIFO = 7 };

static struct {
	const char *host, *export;
	int port;
} opt;
static const struct rpc_who root_user = { 0, 0, "raw" }, plain_user = { 1000, 1000, "raw" };
static const struct rpc_who *who = &root_user;
static int fd = -1;
static uint32_t xid;
static struct xw call, reply;
static FILE *out;
static unsigned wrong, kept;

/* ---- calls ---- */

static void connect_or_die(void)
{
	fd = tcp_connect(opt.host, opt.port, 0, TIMEOUT_MS);
	if (fd < 0) {
		errno = -fd;
		die("%s port %d", opt.host, opt.port);
	}
}

static void begin(uint32_t proc) { rpc_begin(&call, who, ++xid, NFS_PROG, 3, proc); }

static bool exchange(void)
{
	return tcp_move(fd, call.data, call.len, true, TIMEOUT_MS) && record_read(fd, &reply, REPLY_MAX, TIMEOUT_MS);
}

/* The results of the reply that came; its status. */
static uint32_t results(struct xr *r)
{
	uint32_t got;

	if (!rpc_reply_open(reply.data, reply.len, &got, r) || got != get_u32(call.data + 4)) {
		errno = EPROTO;
		die("the reply to %08x", get_u32(call.data + 4));
	}
	return xr_u32(r);
}

static uint32_t ask(struct xr *r)
{
	rpc_end(&call);
	if (!exchange())
		die("no reply to %08x", get_u32(call.data + 4));
	return results(r);
}

static void write_block(const void *p, size_t len)
{
	uint32_t n = (uint32_t)len;

	if (fwrite(&n, sizeof n, 1, out) != 1 || (len && fwrite(p, len, 1, out) != 1))
		die("writing");
}

static void save(const char *name, const unsigned char *c, size_t c_len, const void *answer, size_t a_len)
{
	write_block(name, strlen(name));
	write_block(c, c_len);
	write_block(answer, a_len);
	kept++;
}

static void expect(const char *name, uint32_t got, uint32_t want)
{
	if (got == want)
		return;
	printf("%s: %s (%u) where %s was due\n", name, nfs_status_name(got), got, nfs_status_name(want));
	wrong++;
}

/* The call in the making is made and saved. */
static void keep(const char *name, uint32_t want)
{
	struct xr r;
	char text[NAME_LEN];

	snprintf(text, sizeof text, "%s: %s", name, nfs_status_name(want));
	expect(text, ask(&r), want);
	save(text, call.data, call.len, reply.data, reply.len);
}

/* ... not saved; a handle that the answer of a creation has. */
static struct nfs_fh quiet(const char *name)
{
	struct nfs_fh fh = { 0 };
	struct xr r;

	expect(name, ask(&r), NFS_OK);
	xr_post_fh(&r, &fh);
	return fh;
}

/* ---- what is called ---- */

static void dirop(uint32_t proc, const struct nfs_fh *dir, const char *name)
{
	begin(proc);
	xw_dirop(&call, dir, name);
}

static void create(const struct nfs_fh *dir, const char *name, uint32_t how)
{
	dirop(P_CREATE, dir, name);
	xw_u32(&call, how);
	if (how == CREATE_EXCLUSIVE)
		xw_u64(&call, 0x1122334455667788u);
	else
		xw_sattr_mode(&call, 0644);
}

static void make_dir(const struct nfs_fh *dir, const char *name)
{
	dirop(P_MKDIR, dir, name);
	xw_sattr_mode(&call, 0755);
}

static void make_link(const struct nfs_fh *dir, const char *name)
{
	dirop(P_SYMLINK, dir, name);
	xw_sattr_mode(&call, 0777);
	xw_str(&call, "some/where");
}

static void make_fifo(const struct nfs_fh *dir, const char *name)
{
	dirop(P_MKNOD, dir, name);
	xw_u32(&call, MODE_FIFO);
	xw_sattr_mode(&call, 0644);
}

static void rename_to(const struct nfs_fh *dir, const char *from, const char *to)
{
	dirop(P_RENAME, dir, from);
	xw_dirop(&call, dir, to);
}

static void link_to(const struct nfs_fh *fh, const struct nfs_fh *dir, const char *name)
{
	begin(P_LINK);
	xw_fh(&call, fh);
	xw_dirop(&call, dir, name);
}

static void set_mode(const struct nfs_fh *fh, uint32_t mode, bool guarded)
{
	begin(P_SETATTR);
	xw_fh(&call, fh);
	xw_sattr_mode(&call, mode);
	xw_u32(&call, guarded);
	if (guarded)
		xw_u64(&call, 12345);	/* a ctime that it never had */
}

static void write_text(const struct nfs_fh *fh, const char *text, uint32_t stable)
{
	begin(P_WRITE);
	xw_fh(&call, fh);
	xw_u64(&call, 0);
	xw_u32(&call, (uint32_t)strlen(text));
	xw_u32(&call, stable);
	xw_str(&call, text);
}

static struct nfs_fh mount_root(void)
{
	struct nfs_fh fh = { 0 };
	struct xr r;

	rpc_begin(&call, who, ++xid, MOUNT_PROG, 3, MOUNT_MNT);
	xw_str(&call, opt.export);
	expect("MNT", ask(&r), 0);
	xr_fh(&r, &fh);
	return fh;
}

static struct nfs_fh make_base(const char *name)
{
	struct nfs_fh root = mount_root();

	make_dir(&root, name);
	return quiet(name);
}

/* ---- record ---- */

/* Each kind of creation: it succeeds, then the name is there; then it isn't any more. */
static void creations(const struct nfs_fh *d)
{
	static void (*const make[])(const struct nfs_fh *, const char *) = { make_dir, make_link, make_fifo };
	static const char *const names[] = { "MKDIR", "SYMLINK", "MKNOD" };

	create(d, "guarded", CREATE_GUARDED), keep("CREATE guarded", NFS_OK);
	create(d, "guarded", CREATE_GUARDED), keep("CREATE guarded", NFSERR_EXIST);
	dirop(P_REMOVE, d, "guarded"), quiet("REMOVE");
	create(d, "unchecked", CREATE_UNCHECKED), keep("CREATE unchecked", NFS_OK);
	dirop(P_REMOVE, d, "unchecked"), quiet("REMOVE");
	create(d, "exclusive", CREATE_EXCLUSIVE), keep("CREATE exclusive", NFS_OK);
	dirop(P_REMOVE, d, "exclusive"), quiet("REMOVE");
	for (size_t i = 0; i < sizeof make / sizeof *make; i++) {
		make[i](d, names[i]), keep(names[i], NFS_OK);
		make[i](d, names[i]), keep(names[i], NFSERR_EXIST);
		dirop(i ? P_REMOVE : P_RMDIR, d, names[i]), quiet("REMOVE");
	}
}

static void names_of_things(const struct nfs_fh *d)
{
	struct nfs_fh f;

	create(d, "l0", CREATE_GUARDED), f = quiet("CREATE");
	link_to(&f, d, "l1"), keep("LINK", NFS_OK);
	link_to(&f, d, "l1"), keep("LINK", NFSERR_EXIST);
	dirop(P_REMOVE, d, "l1"), quiet("REMOVE");
	create(d, "r0", CREATE_GUARDED), quiet("CREATE");
	rename_to(d, "r0", "r1"), keep("RENAME", NFS_OK);
	rename_to(d, "r0", "r1"), keep("RENAME", NFSERR_NOENT);
	rename_to(d, "r1", "r0"), quiet("RENAME");
	create(d, "x", CREATE_GUARDED), quiet("CREATE");
	dirop(P_REMOVE, d, "x"), keep("REMOVE", NFS_OK);
	dirop(P_REMOVE, d, "x"), keep("REMOVE", NFSERR_NOENT);
	create(d, "x", CREATE_GUARDED), quiet("CREATE");
	make_dir(d, "y"), f = quiet("MKDIR");
	create(&f, "in", CREATE_GUARDED), quiet("CREATE");
	dirop(P_RMDIR, d, "y"), keep("RMDIR", NFSERR_NOTEMPTY);
	dirop(P_REMOVE, &f, "in"), keep("REMOVE in a directory that goes", NFS_OK);
	dirop(P_RMDIR, d, "y"), keep("RMDIR", NFS_OK);
	dirop(P_RMDIR, d, "y"), keep("RMDIR", NFSERR_NOENT);
	make_dir(d, "y"), quiet("MKDIR");
}

static void contents(const struct nfs_fh *d)
{
	struct nfs_fh f, gone;

	create(d, "file", CREATE_GUARDED), f = quiet("CREATE");
	set_mode(&f, 0600, false), keep("SETATTR", NFS_OK);
	set_mode(&f, 0640, true), keep("SETATTR guarded", 10002 /* NOT_SYNC */);
	write_text(&f, "first", UNSTABLE), keep("WRITE unstable", NFS_OK);
	write_text(&f, "second", FILE_SYNC), keep("WRITE stable", NFS_OK);
	write_text(&f, "the last word", FILE_SYNC), quiet("WRITE");
	set_mode(&f, 0644, false), quiet("SETATTR");
	create(d, "gone", CREATE_GUARDED), gone = quiet("CREATE");
	set_mode(&gone, 0600, false), keep("SETATTR of what goes", NFS_OK);
	write_text(&gone, "text", FILE_SYNC), keep("WRITE to what goes", NFS_OK);
	dirop(P_REMOVE, d, "gone"), quiet("REMOVE");
}

/* What a plain user may not, and may afterwards. */
static void permissions(const struct nfs_fh *d)
{
	struct nfs_fh p, f;

	make_dir(d, "p"), p = quiet("MKDIR");
	create(&p, "f", CREATE_GUARDED), f = quiet("CREATE");
	who = &plain_user;
	create(&p, "new", CREATE_GUARDED), keep("CREATE as another", NFSERR_ACCES);
	make_dir(&p, "new"), keep("MKDIR as another", NFSERR_ACCES);
	dirop(P_REMOVE, &p, "f"), keep("REMOVE as another", NFSERR_ACCES);
	rename_to(&p, "f", "g"), keep("RENAME as another", NFSERR_ACCES);
	link_to(&f, &p, "g"), keep("LINK as another", NFSERR_ACCES);
	write_text(&f, "text", FILE_SYNC), keep("WRITE as another", NFSERR_ACCES);
	set_mode(&f, 0777, false), keep("SETATTR as another", NFSERR_PERM);
	who = &root_user;
	set_mode(&p, 0777, false), quiet("SETATTR");
	set_mode(&f, 0666, false), quiet("SETATTR");
}

static void record(const char *dir)
{
	struct nfs_fh d = make_base(dir);

	creations(&d);
	names_of_things(&d);
	contents(&d);
	permissions(&d);
	printf("%u calls are recorded\n", kept);
}

/* ---- storm ---- */

struct sent { unsigned char *data; size_t len; unsigned char *answer; size_t answer_len; char name[NAME_LEN]; };
static struct sent *sent;
static unsigned nsent, nanswered;

/* Takes one reply off the connection. False: it broke. */
static bool take_reply(void)
{
	if (!record_read(fd, &reply, REPLY_MAX, TIMEOUT_MS))
		return false;
	for (unsigned i = nsent; i-- > 0;)
		if (reply.len >= 4 && get_u32(sent[i].data + 4) == get_u32(reply.data)) {
			struct xr r;
			uint32_t got;
			sent[i].answer = xmalloc(reply.len);
			memcpy(sent[i].answer, reply.data, reply.len);
			sent[i].answer_len = reply.len;
			expect(sent[i].name, rpc_reply_open(reply.data, reply.len, &got, &r) ? xr_u32(&r) : UINT32_MAX, NFS_OK);
			break;
		}
	if (++nanswered == UNDER_WAY) {
		printf("under way\n");
		fflush(stdout);
	}
	return true;
}

/* The call in the making goes off; answers are taken when too many are missing. */
static bool send_off(const char *name, unsigned n)
{
	struct sent *s = &sent[nsent];

	rpc_end(&call);
	*s = (struct sent){ .data = xmalloc(call.len), .len = call.len };
	memcpy(s->data, call.data, call.len);
	snprintf(s->name, sizeof s->name, "%s %u", name, n);
	nsent++;
	if (!tcp_move(fd, call.data, call.len, true, TIMEOUT_MS))
		return false;
	return nsent - nanswered < WINDOW || take_reply();
}

static bool storm_round(const struct nfs_fh *d, const struct nfs_fh *files, unsigned i)
{
	char a[NAME_LEN], b[NAME_LEN];
	bool up = true;
#define NAMES(x, y) (snprintf(a, sizeof a, x "%u", i), snprintf(b, sizeof b, y "%u", i))

	NAMES("c", "-"), create(d, a, CREATE_GUARDED), up = up && send_off("CREATE", i);
	NAMES("d", "-"), make_dir(d, a), up = up && send_off("MKDIR", i);
	NAMES("s", "-"), make_link(d, a), up = up && send_off("SYMLINK", i);
	NAMES("old0.", "-"), dirop(P_REMOVE, d, a), up = up && send_off("REMOVE", i);
	NAMES("old1.", "n"), rename_to(d, a, b), up = up && send_off("RENAME", i);
	NAMES("l", "-"), link_to(&files[i], d, a), up = up && send_off("LINK", i);
	return up;
}

static void storm(const char *dir, unsigned n)
{
	struct nfs_fh d = make_base(dir), *files = xcalloc(n, sizeof *files);
	unsigned i = 0;
	char name[NAME_LEN];

	for (unsigned k = 0; k < PREPARED; k++)
		for (unsigned j = 0; j < n; j++) {
			snprintf(name, sizeof name, "old%u.%u", k, j);
			create(&d, name, CREATE_GUARDED);
			files[j] = quiet(name);
		}
	printf("prepared\n");
	fflush(stdout);
	sent = xcalloc((size_t)n * 6 + 1, sizeof *sent);
	while (i < n && storm_round(&d, files, i))
		i++;
	while (nanswered < nsent && take_reply())
		;
	for (unsigned k = 0; k < nsent; k++)
		save(sent[k].name, sent[k].data, sent[k].len, sent[k].answer, sent[k].answer_len);
	printf("%u calls are sent, %u without an answer\n", nsent, nsent - nanswered);
}

/* ---- twice ---- */

/* The call in the making goes off on FD and on OTHER. */
static void both(const char *name, int other)
{
	struct xw first = { 0 };
	struct xr r;

	rpc_end(&call);
	if (!tcp_move(fd, call.data, call.len, true, TIMEOUT_MS) || !tcp_move(other, call.data, call.len, true, TIMEOUT_MS))
		die("%s: not sent", name);
	if (!record_read(other, &first, REPLY_MAX, TIMEOUT_MS))
		die("%s: the second one has no answer", name);
	if (!record_read(fd, &reply, REPLY_MAX, TIMEOUT_MS))
		die("%s: the first one has no answer", name);
	expect(name, results(&r), NFS_OK);
	if (first.len != reply.len || memcmp(first.data, reply.data, reply.len) != 0) {
		printf("%s: the answers differ\n", name);
		wrong++;
	}
	free(first.data);
}

static void twice(const char *dir, unsigned n)
{
	struct nfs_fh d = make_base(dir);
	int first = fd;

	connect_or_die();
	for (unsigned i = 0; i < n; i++) {
		create(&d, "twice", CREATE_GUARDED), both("CREATE", first);
		dirop(P_REMOVE, &d, "twice"), both("REMOVE", first);
	}
	printf("%u calls were sent twice, %u answers are wrong\n", 2 * n, wrong);
}

/* ---- replay ---- */

static bool read_block(FILE *in, struct xw *to)
{
	uint32_t n;

	to->len = 0;
	if (fread(&n, sizeof n, 1, in) != 1)
		return false;
	xw_room(to, n + 1);
	to->len = n;
	to->data[n] = 0;
	if (n && fread(to->data, n, 1, in) != 1)
		die("reading");
	return true;
}

static void compare(const char *name, const struct xw *first)
{
	size_t at = 0;
	struct xr r;

	if (!first->len) {
		expect(name, results(&r), NFS_OK);
		return;
	}
	while (at < first->len && at < reply.len && first->data[at] == reply.data[at])
		at++;
	if (first->len == reply.len && at == first->len)
		return;
	printf("%s: another answer (%s, %zu bytes) than the first one (%zu bytes), from byte %zu on\n", name, nfs_status_name(results(&r)), reply.len,
	       first->len, at);
	wrong++;
}

static void replay(FILE *in)
{
	struct xw name = { 0 }, first = { 0 };
	unsigned n = 0;

	while (read_block(in, &name) && read_block(in, &call) && read_block(in, &first)) {
		if (!exchange())
			die("%s: no reply", (char *)name.data);
		compare((char *)name.data, &first);
		n++;
	}
	printf("%u calls were sent again, %u answers differ\n", n, wrong);
	if (!n)
		wrong++;
}

static FILE *open_file(const char *path, const char *how)
{
	FILE *f = fopen(path, how);

	if (!f)
		die("%s", path);
	return f;
}

int main(int argc, char **argv)
{
	const char *what = argc > 4 ? argv[4] : "";

	if (!(argc == 7 && !strcmp(what, "record")) && !(argc == 8 && !strcmp(what, "storm")) && !(argc == 6 && !strcmp(what, "replay")) &&
	    !(argc == 7 && !strcmp(what, "twice"))) {
		fprintf(stderr, "usage: nfsraw HOST PORT EXPORT (record DIR FILE | storm DIR FILE N | twice DIR N | replay FILE)\n");
		return 2;
	}
	opt.host = argv[1];
	opt.port = atoi(argv[2]);
	opt.export = argv[3];
	xid = (uint32_t)time(NULL) << 12 ^ (uint32_t)getpid() << 24;
	connect_or_die();
	if (!strcmp(what, "replay")) {
		replay(open_file(argv[5], "r"));
		return wrong ? 1 : 0;
	}
	if (!strcmp(what, "twice")) {
		twice(argv[5], (unsigned)atoi(argv[6]));
		return wrong ? 1 : 0;
	}
	out = open_file(argv[6], "w");
	if (!strcmp(what, "record"))
		record(argv[5]);
	else
		storm(argv[5], (unsigned)atoi(argv[7]));
	if (fclose(out))
		die("%s", argv[6]);
	return wrong ? 1 : 0;
}
