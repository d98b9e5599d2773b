/* Service addresses in text: what is right comes out as it went in, everything else is refused with a reason. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/service.h"

static struct service_address all[SERVICE_MAX];
static char why[200];

static unsigned parsed(const char *text)
{
	unsigned n = 99;
	why[0] = 0;
	ck_assert_msg(!service_parse(text, all, &n, why, sizeof why), "%s: %s", text, why);
	return n;
}

START_TEST(test_right)
{
	static const unsigned char v4[4] = { 10, 0, 0, 100 }, v6[16] = { 0xfd, [15] = 1 };
	char out[SERVICE_TEXT_MAX];

	ck_assert_uint_eq(parsed("10.0.0.100/24 dev eth0, fd00::1/64  dev  br-0.7"), 2);
	ck_assert_int_eq(all[0].family, AF_INET);
	ck_assert_mem_eq(all[0].ip, v4, sizeof v4);
	ck_assert_uint_eq(all[0].prefix, 24);
	ck_assert_str_eq(all[0].dev, "eth0");
	ck_assert_int_eq(all[1].family, AF_INET6);
	ck_assert_mem_eq(all[1].ip, v6, sizeof v6);
	ck_assert_str_eq(all[1].dev, "br-0.7");
	service_format(&all[0], out);
	ck_assert_str_eq(out, "10.0.0.100/24 dev eth0");
	service_format(&all[1], out);
	ck_assert_str_eq(out, "fd00::1/64 dev br-0.7");
	ck_assert_uint_eq(parsed(""), 0);
	ck_assert_uint_eq(parsed("1.2.3.4/32 dev a"), 1);
}
END_TEST

static const char *const wrong[] = {
	"10.0.0.100", "10.0.0.100/24", "10.0.0.100 dev eth0", "10.0.0.100/24 dev", "10.0.0.100/24 eth0", "10.0.0.100/24 dev eth0 more", "/24 dev eth0",
	"10.0.0.100/ dev eth0", "10.0.0.100/0 dev eth0", "10.0.0.100/33 dev eth0", "10.0.0.100/-1 dev eth0", "10.0.0.100/24x dev eth0",
	"10.0.0.100/99999999999999999999 dev eth0", "10.0.0.256/24 dev eth0", "10.0.0/24 dev eth0", "host/24 dev eth0", "0.0.0.0/24 dev eth0",
	"127.0.0.1/8 dev lo", "224.0.0.1/24 dev eth0", "255.255.255.255/24 dev eth0", "::/64 dev eth0", "::1/64 dev eth0", "ff02::1/64 dev eth0",
	"fd00::1/129 dev eth0", "fd00::1/24/24 dev eth0", "10.0.0.100/24 dev name-of-16-bytes", "10.0.0.100/24 dev a/b", ",", "10.0.0.100/24 dev a,",
	"10.0.0.100/24 dev a,,10.0.0.101/24 dev a", "10.0.0.100/24 dev a, 10.0.0.100/25 dev b", " ",
	"1.0.0.1/8 dev a,1.0.0.2/8 dev a,1.0.0.3/8 dev a,1.0.0.4/8 dev a,1.0.0.5/8 dev a,1.0.0.6/8 dev a,1.0.0.7/8 dev a,1.0.0.8/8 dev a,1.0.0.9/8 dev a",
};

START_TEST(test_wrong)
{
	unsigned n;

	why[0] = 0;
	ck_assert_msg(service_parse(wrong[_i], all, &n, why, sizeof why) == -EINVAL, "accepted: `%s'", wrong[_i]);
	ck_assert_msg(why[0], "no reason for `%s'", wrong[_i]);
}
END_TEST

START_TEST(test_long)
{
	unsigned n;
	char *text = malloc(100001);

	memset(text, 'a', 100000);
	text[100000] = 0;
	ck_assert_int_eq(service_parse(text, all, &n, why, sizeof why), -EINVAL);
	memcpy(text, "10.0.0.100/24 dev ", 18);
	ck_assert_int_eq(service_parse(text, all, &n, why, sizeof why), -EINVAL);
	free(text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("service");
	TCase *t = tcase_create("text");
	tcase_add_test(t, test_right);
	tcase_add_loop_test(t, test_wrong, 0, (int)ARRAY_LEN(wrong));
	tcase_add_test(t, test_long);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad != 0;
}
