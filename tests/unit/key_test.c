/* Key files: made once, private, well-formed; everything else is refused with a remedy. */
#include "fs/base/key.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[128], err[512];
static unsigned char key[KEY_LEN];

static void setup(void)
{
	strcpy(dir, "/tmp/key_test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/k", dir);
}

static void teardown(void)
{
	unlink(path);
	rmdir(dir);
}

static void put(const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
	ck_assert_int_eq(chmod(path, mode), 0);
}

#define DIGITS "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

START_TEST(a_key_is_64_digits)
{
	put(DIGITS "\n", 0600);
	ck_assert_msg(!key_read(path, key, err, sizeof err), "%s", err);
	for (unsigned char i = 0; i < KEY_LEN; i++)
		ck_assert_uint_eq(key[i], i);
	put(DIGITS, 0400);
	ck_assert(!key_read(path, key, err, sizeof err));
}
END_TEST

START_TEST(a_new_key_is_private_random_and_never_replaced)
{
	unsigned char again[KEY_LEN];
	struct stat st;
	umask(0);
	ck_assert_msg(!key_generate(path, err, sizeof err), "%s", err);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(st.st_size, 65);
	ck_assert(!key_read(path, key, err, sizeof err));
	ck_assert_int_eq(key_generate(path, err, sizeof err), -EEXIST);
	ck_assert(!key_read(path, again, err, sizeof err));
	ck_assert_mem_eq(key, again, KEY_LEN);
	unlink(path);
	ck_assert(!key_generate(path, err, sizeof err));
	ck_assert(!key_read(path, again, err, sizeof err));
	ck_assert_mem_ne(key, again, KEY_LEN);
}
END_TEST

START_TEST(keys_that_others_may_access_are_refused)
{
	static const mode_t modes[] = { 0640, 0604, 0610, 0601, 0660, 0666 };
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		put(DIGITS "\n", modes[i]);
		ck_assert_int_eq(key_read(path, key, err, sizeof err), -EPERM);
		ck_assert_ptr_nonnull(strstr(err, "chmod 0600"));
	}
	if (geteuid() == 0) {
		put(DIGITS "\n", 0600);
		ck_assert_int_eq(chown(path, 1000, 1000), 0);
		ck_assert_int_eq(key_read(path, key, err, sizeof err), -EPERM);
		ck_assert_ptr_nonnull(strstr(err, "chown root"));
	}
}
END_TEST

START_TEST(what_is_no_key_is_refused)
{
	static const char *const texts[] = { "", "\n", "00\n", DIGITS "0\n", DIGITS "\n\n", " " DIGITS "\n",
		"g00102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n" };
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		put(texts[i], 0600);
		ck_assert_int_eq(key_read(path, key, err, sizeof err), -EINVAL);
		ck_assert_ptr_nonnull(strstr(err, "64 hexadecimal digits"));
	}
	unlink(path);
	ck_assert_int_eq(key_read(path, key, err, sizeof err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "key --generate"));
	ck_assert_int_eq(key_read(dir, key, err, sizeof err), -EPERM);
}
END_TEST

START_TEST(fingerprints_tell_keys_apart)
{
	char a[KEY_FINGERPRINT_LEN], b[KEY_FINGERPRINT_LEN];
	memset(key, 7, sizeof key);
	key_fingerprint(key, a);
	key_fingerprint(key, b);
	ck_assert_str_eq(a, b);
	ck_assert_uint_eq(strlen(a), 19);
	key[31] ^= 1;
	key_fingerprint(key, b);
	ck_assert_str_ne(a, b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("key");
	TCase *t = tcase_create("key");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_key_is_64_digits);
	tcase_add_test(t, a_new_key_is_private_random_and_never_replaced);
	tcase_add_test(t, keys_that_others_may_access_are_refused);
	tcase_add_test(t, what_is_no_key_is_refused);
	tcase_add_test(t, fingerprints_tell_keys_apart);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
