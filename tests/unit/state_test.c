/*
 * The node's durable state. Promises: a save that is torn at any byte leaves the record before it or the new one, never anything else;
 * damage is told from absence and from a newer version; an xattr of the root that matches none of the last two marks is noticed.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "mirror/state.h"

static char dir[] = "/tmp/tandemfs-state.XXXXXX";
static int state_fd, root_fd;

static void setup(void)
{
	char p[200];
	strcpy(dir, "/tmp/tandemfs-state.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(p, sizeof p, "%s/s", dir);
	mkdir(p, 0700);
	state_fd = open(p, O_RDONLY | O_DIRECTORY);
	snprintf(p, sizeof p, "%s/r", dir);
	mkdir(p, 0700);
	root_fd = open(p, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(state_fd, 0);
	ck_assert_int_ge(root_fd, 0);
}

static void teardown(void)
{
	char cmd[200];
	close(state_fd);
	close(root_fd);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	ck_assert_int_eq(system(cmd), 0);
}

static struct state made(void)
{
	struct state s = { .node = 3, .limits = { .symlink_max = 1023, .time_max = 99 } };
	ck_assert_int_eq(state_create(state_fd, root_fd, &s), 0);
	return s;
}

START_TEST(create_and_load)
{
	unsigned char uuid[UUID_LEN];
	unsigned node;
	struct state s = made(), again = s, t;
	struct state_file *f;
	bool unknown;

	ck_assert_int_eq(state_create(state_fd, root_fd, &again), -EEXIST);
	ck_assert_int_eq(state_root_owner(root_fd, uuid, &node), 0);
	ck_assert_uint_eq(node, 3);
	ck_assert_mem_eq(uuid, s.uuid, UUID_LEN);
	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), 0);
	ck_assert(!unknown);
	ck_assert_mem_eq(t.uuid, s.uuid, UUID_LEN);
	ck_assert_mem_eq(t.dir_key, s.dir_key, sizeof s.dir_key);
	ck_assert_uint_eq(t.incarnation, s.incarnation);
	ck_assert_uint_ne(t.generation, 0);
	ck_assert_int_eq(faccessat(root_fd, HIDDEN_DIR "/limbo", F_OK, 0), 0);
	state_close(f);
}
END_TEST

START_TEST(every_field_survives)
{
	struct state s = made(), t;
	struct state_file *f;
	bool unknown;

	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	s.was_primary = s.handed_over = s.keep_lost = true;
	s.clean = false;
	s.sync_set = 0x5a5a;
	s.dropped[4] = DROPPED_FENCED;
	for (unsigned i = 1; i < 100; i++)
		state_push_epoch(&s, (struct epoch){ i, i * 7, 2 }, i * 3);
	ck_assert_uint_eq(s.nlineage, LINEAGE_MAX);
	ck_assert_uint_eq(state_epoch(&s).reign, 99);
	ck_assert_uint_eq(s.lineage[LINEAGE_MAX - 2].last_lsn, 99 * 3);
	ck_assert_int_eq(state_save(f, &s), 0);
	state_close(f);
	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), 0);
	ck_assert(t.was_primary && t.handed_over && t.keep_lost && !t.clean && !t.outdated && !t.inconsistent && !t.primary);
	ck_assert_uint_eq(t.sync_set, 0x5a5a);
	ck_assert_uint_eq(t.dropped[4], DROPPED_FENCED);
	ck_assert_uint_eq(t.nlineage, LINEAGE_MAX);
	for (unsigned i = 0; i < LINEAGE_MAX; i++) {
		ck_assert(epoch_eq(t.lineage[i].epoch, s.lineage[i].epoch));
		ck_assert_uint_eq(t.lineage[i].last_lsn, s.lineage[i].last_lsn);
	}
	ck_assert_mem_eq(t.mac_key, s.mac_key, sizeof s.mac_key);
	ck_assert_uint_eq(t.limits.symlink_max, 1023);
	state_close(f);
}
END_TEST

/* The new slot is cut at each of many places, the rest being what stood there before: old record or new, nothing else. */
START_TEST(torn_saves)
{
	static unsigned char before[2 * STATE_SLOT], after[2 * STATE_SLOT];
	struct state s = made(), t;
	struct state_file *f;
	bool unknown;
	int fd = openat(state_fd, "state", O_RDWR);
	unsigned kept = 0, new = 0;

	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	for (unsigned i = 1; i < 9; i++) {
		s.sync_set = (uint16_t)i;
		ck_assert_int_eq(state_save(f, &s), 0);
	}
	ck_assert_int_eq(pread(fd, before, sizeof before, 0), sizeof before);
	s.sync_set = 9;
	ck_assert_int_eq(state_save(f, &s), 0);
	ck_assert_int_eq(pread(fd, after, sizeof after, 0), sizeof after);
	state_close(f);
	for (size_t cut = 0; cut < 600; cut++) {
		for (unsigned slot = 0; slot < 2; slot++) {
			ck_assert_int_eq(pwrite(fd, after + slot * STATE_SLOT, cut, slot * STATE_SLOT), (ssize_t)cut);
			ck_assert_int_eq(pwrite(fd, before + slot * STATE_SLOT + cut, STATE_SLOT - cut, (off_t)(slot * STATE_SLOT + cut)),
					 (ssize_t)(STATE_SLOT - cut));
		}
		ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), 0);
		ck_assert_msg(t.sync_set == 8 || t.sync_set == 9, "cut at %zu: set %u", cut, t.sync_set);
		kept += t.sync_set == 8;
		new += t.sync_set == 9;
		state_close(f);
	}
	ck_assert_uint_gt(kept, 0);
	ck_assert_uint_gt(new, 0);
	close(fd);
}
END_TEST

START_TEST(damage_absence_newer)
{
	struct state t;
	struct state_file *f;
	bool unknown;
	unsigned char junk[16] = "XXXXXXXXXXXXXXX";

	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), -ENOENT);
	made();
	int fd = openat(state_fd, "state", O_RDWR);
	uint16_t newer = STATE_VERSION + 1;
	ck_assert_int_eq(pwrite(fd, &newer, 2, STATE_SLOT + 4), 2);	/* the first record has sequence number 1: slot 1 */
	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), -EPROTONOSUPPORT);
	ck_assert_int_eq(pwrite(fd, junk, sizeof junk, STATE_SLOT), sizeof junk);
	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), -EBADMSG);
	close(fd);
}
END_TEST

START_TEST(marks)
{
	struct state s = made();
	struct state_file *f;
	bool unknown;
	char old[256], two_ago[256];

	ssize_t n0 = fgetxattr(root_fd, "trusted.tandemfs.volume", two_ago, sizeof two_ago);
	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	ck_assert_int_eq(state_mark(f, &s, 5), 0);
	ssize_t n1 = fgetxattr(root_fd, "trusted.tandemfs.volume", old, sizeof old);
	ck_assert_int_eq(state_mark(f, &s, 6), 0);
	state_close(f);
	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	ck_assert(!unknown);
	state_close(f);
	/* the crash between state and xattr: one mark behind is known */
	ck_assert_int_eq(fsetxattr(root_fd, "trusted.tandemfs.volume", old, (size_t)n1, 0), 0);
	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	ck_assert(!unknown);
	state_close(f);
	/* a snapshot from before that is not */
	ck_assert_int_eq(fsetxattr(root_fd, "trusted.tandemfs.volume", two_ago, (size_t)n0, 0), 0);
	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	ck_assert(unknown);
	state_close(f);
	/* nor is a root without a mark */
	ck_assert_int_eq(fremovexattr(root_fd, "trusted.tandemfs.volume"), 0);
	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	ck_assert(unknown);
	state_close(f);
}
END_TEST

START_TEST(other_nodes_data)
{
	struct state s = made(), t;
	struct state_file *f;
	bool unknown;

	ck_assert_int_eq(state_open(state_fd, root_fd, &s, &unknown, &f), 0);
	s.node = 4;
	ck_assert_int_eq(state_save(f, &s), 0);
	state_close(f);
	ck_assert_int_eq(state_open(state_fd, root_fd, &t, &unknown, &f), -EXDEV);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("state");
	TCase *t = tcase_create("state");
	if (geteuid()) {
		printf("ok - state # SKIP needs root for trusted xattrs\n");
		return 0;
	}
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, create_and_load);
	tcase_add_test(t, every_field_survives);
	tcase_add_test(t, torn_saves);
	tcase_add_test(t, damage_absence_newer);
	tcase_add_test(t, marks);
	tcase_add_test(t, other_nodes_data);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad != 0;
}
