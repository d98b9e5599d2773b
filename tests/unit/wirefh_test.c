/* The file handle of NFS clients: its bytes are promised, and nothing but what was given out is accepted. */
#include "handles/wirefh.h"

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char golden[] = "010046104d0000000500100000000100101112131415161718191a1b1c1d1e1f72bc15157692d474";

static struct wirefh_codec w;
static const struct wirefh h = { .export_id = 4166, .gen = 77, .id = UINT64_C(0x1000000100005) };
static unsigned char bytes[WIREFH_SIZE];

static void setup(void)
{
	unsigned char uuid[UUID_LEN], key[WIREFH_KEY_LEN];

	for (unsigned i = 0; i < 16; i++) {
		uuid[i] = (unsigned char)(0x10 + i);
		key[i] = (unsigned char)(0x40 + i);
	}
	wirefh_init(&w, uuid, key);
	wirefh_encode(&w, &h, bytes);
}

START_TEST(the_bytes_are_those_of_the_document)
{
	char hex[2 * WIREFH_SIZE + 1], *line = NULL;
	size_t cap = 0;
	bool shown = false;

	for (size_t i = 0; i < WIREFH_SIZE; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	ck_assert_str_eq(hex, golden);
	FILE *f = fopen("docs/formats.md", "r");
	ck_assert_msg(f != NULL, "docs/formats.md: tests are run from the top folder");
	while (getline(&line, &cap, f) > 0)
		shown = shown || strstr(line, golden);
	fclose(f);
	free(line);
	ck_assert_msg(shown, "docs/formats.md shows other bytes");
}
END_TEST

START_TEST(what_was_encoded_is_decoded)
{
	const struct wirefh some[] = { h, { 1, 0, 1 }, { UINT16_MAX, UINT32_MAX, UINT64_MAX }, { 0x0102, 0x03040506, UINT64_C(0x0708090a0b0c0d0e) } };
	struct wirefh got;

	for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) {
		wirefh_encode(&w, &some[i], bytes);
		ck_assert_int_eq(wirefh_decode(&w, bytes, WIREFH_SIZE, &got), 0);
		ck_assert_uint_eq(got.export_id, some[i].export_id);
		ck_assert_uint_eq(got.gen, some[i].gen);
		ck_assert_uint_eq(got.id, some[i].id);
	}
	ck_assert_uint_eq(w.malformed + w.foreign + w.forged, 0);
}
END_TEST

START_TEST(every_changed_byte_is_refused)
{
	struct wirefh got;
	uint64_t refused = 0;

	for (size_t i = 0; i < WIREFH_SIZE; i++)
		for (unsigned x = 1; x < 256; x++) {
			bytes[i] ^= (unsigned char)x;
			int r = wirefh_decode(&w, bytes, WIREFH_SIZE, &got);
			bytes[i] ^= (unsigned char)x;
			ck_assert_int_eq(r, i < 2 ? -EINVAL : i >= 16 && i < 32 ? -ESTALE : -EBADMSG);
			refused++;
		}
	ck_assert_uint_eq(w.malformed, 2 * 255);
	ck_assert_uint_eq(w.foreign, 16 * 255);
	ck_assert_uint_eq(w.malformed + w.foreign + w.forged, refused);
	ck_assert_int_eq(wirefh_decode(&w, bytes, WIREFH_SIZE, &got), 0);
}
END_TEST

START_TEST(other_lengths_are_refused)
{
	unsigned char longer[WIREFH_MAX + 1] = { 0 };
	struct wirefh got;

	memcpy(longer, bytes, sizeof bytes);
	for (size_t len = 0; len <= WIREFH_MAX; len++)
		ck_assert_int_eq(wirefh_decode(&w, longer, len, &got), len == WIREFH_SIZE ? 0 : -EINVAL);
	ck_assert_uint_eq(w.malformed, WIREFH_MAX);
}
END_TEST

START_TEST(other_keys_make_other_handles)
{
	unsigned char uuid[UUID_LEN], key[WIREFH_KEY_LEN], other[WIREFH_SIZE];
	struct wirefh_codec x;
	struct wirefh got;

	for (unsigned bit = 0; bit < 8 * WIREFH_KEY_LEN; bit++) {
		for (unsigned i = 0; i < 16; i++) {
			uuid[i] = (unsigned char)(0x10 + i);
			key[i] = (unsigned char)(0x40 + i);
		}
		key[bit / 8] ^= (unsigned char)(1u << bit % 8);
		wirefh_init(&x, uuid, key);
		wirefh_encode(&x, &h, other);
		ck_assert(memcmp(other + WIREFH_SIZE - 8, bytes + WIREFH_SIZE - 8, 8) != 0);
		ck_assert_int_eq(wirefh_decode(&w, other, WIREFH_SIZE, &got), -EBADMSG);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("wirefh");
	TCase *t = tcase_create("wirefh");

	tcase_add_checked_fixture(t, setup, NULL);
	tcase_add_test(t, the_bytes_are_those_of_the_document);
	tcase_add_test(t, what_was_encoded_is_decoded);
	tcase_add_test(t, every_changed_byte_is_refused);
	tcase_add_test(t, other_lengths_are_refused);
	tcase_add_test(t, other_keys_make_other_handles);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
