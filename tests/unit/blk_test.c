/* Blocks: counted, page-aligned, and those of the sizes in use come back from the free list, whatever else came before. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/blk.h"

enum { MB = 1 << 20, MANY = 200 };

START_TEST(the_last_reference_frees)
{
	struct blk *b = blk_new(5000), *again = blk_ref(b);

	ck_assert_ptr_eq(b, again);
	ck_assert_uint_ge(b->cap, 5000);
	ck_assert_uint_eq((uintptr_t)b->data % 4096, 0);
	memset(b->data, 1, b->cap);
	blk_unref(b);
	ck_assert_uint_eq(again->data[4999], 1);
	blk_unref(again);
	blk_unref(NULL);
}
END_TEST

static void fill(size_t cap)
{
	struct blk *b[MANY];

	for (unsigned i = 0; i < MANY; i++)
		b[i] = blk_new(cap);
	for (unsigned i = 0; i < MANY; i++)
		blk_unref(b[i]);
}

START_TEST(several_sizes_are_kept)
{
	struct blk *a, *b;

	fill(64 << 10);				/* the list is full of a size that nobody wants any more */
	for (unsigned i = 0; i < MANY; i++) {	/* it gives way */
		a = blk_new(MB);
		b = blk_new(MB + 4096);
		blk_unref(a);
		blk_unref(b);
	}
	a = blk_new(MB);
	b = blk_new(MB + 4096);
	void *pa = a->data, *pb = b->data;
	blk_unref(a);
	blk_unref(b);
	for (unsigned i = 0; i < 10; i++) {	/* by turns, as reads and writes come */
		a = blk_new(MB);
		b = blk_new(MB + 4096);
		ck_assert_uint_eq(a->cap, MB);
		ck_assert_uint_eq(b->cap, MB + 4096);
		ck_assert_ptr_eq(a->data, pa);
		ck_assert_ptr_eq(b->data, pb);
		blk_unref(a);
		blk_unref(b);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("blk");
	TCase *c = tcase_create("all");

	tcase_add_test(c, the_last_reference_frees);
	tcase_add_test(c, several_sizes_are_kept);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
