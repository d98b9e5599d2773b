/* Command lines, and what a status means for monitoring. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "fs/cmd/cmd.h"

static const struct subcmd table[] = {
	{ "help", "", "", 0, 1, false, NULL, { { 0 } } },
	{ "do", "[-f] [--with X] NAME", "", 1, 1, true, NULL,
	  { { "force", 'f', NULL, "" }, { "with", 'w', "X", "" } } },
	{ 0 }
};

static char words[10][32];
static char *argv[11];
static struct cmd_line l;

/* Parses TEXT, split at blanks. */
static int parse(const char *text)
{
	int argc = 0;
	char copy[256], *save;

	strcpy(copy, text);
	memset(&l, 0, sizeof l);
	for (char *w = strtok_r(copy, " ", &save); w && argc < 10; w = strtok_r(NULL, " ", &save)) {
		strcpy(words[argc], w);
		argv[argc] = words[argc];
		argc++;
	}
	argv[argc] = NULL;
	return cmdline_parse(table, argc, argv, &l);
}

START_TEST(options_and_arguments_in_any_order)
{
	static const char *const forms[] = { "t do -f --with=y vol", "t do vol --with y --force", "t do -w y -f vol", "t do -wy vol -f",
		"t -c file do --force vol --with y", "t do -cfile --force vol --with y" };
	for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
		ck_assert_msg(!parse(forms[i]), "%s", forms[i]);
		ck_assert_str_eq(l.cmd->name, "do");
		ck_assert_int_eq(l.argc, 1);
		ck_assert_str_eq(l.argv[0], "vol");
		ck_assert_ptr_nonnull(cmd_option(&l, "force"));
		ck_assert_str_eq(cmd_option(&l, "with"), "y");
	}
	ck_assert_str_eq(l.conf_file, "file");
	ck_assert(!parse("t do -- -f"));
	ck_assert_str_eq(l.argv[0], "-f");
	ck_assert_ptr_null(cmd_option(&l, "force"));
}
END_TEST

START_TEST(wrong_usage_ends_with_2)
{
	static const char *const forms[] = { "t", "t nothing", "t do", "t do a b", "t do -x a", "t do --forc a", "t do --forces a", "t do --force=1 a",
		"t do a --with", "t -c", "t do a -c" };
	for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
		ck_assert_msg(parse(forms[i]) == EXIT_USAGE, "%s", forms[i]);
}
END_TEST

START_TEST(help_is_found_everywhere)
{
	ck_assert(!parse("t --help"));
	ck_assert_str_eq(l.cmd->name, "help");
	ck_assert(!parse("t do --help"));
	ck_assert_str_eq(l.cmd->name, "help");
	ck_assert_str_eq(l.argv[0], "do");
}
END_TEST

static const struct { const char *json; enum health health; const char *why; } states[] = {
	{ "{'role':'primary','flags':[],'peers':[{'name':'b','state':'level','connected':true}]}", HEALTH_OK, "all peers are level" },
	{ "{'role':'primary','flags':[],'peers':[]}", HEALTH_OK, "no peers" },
	{ "{'role':'primary','flags':[],'peers':[{'name':'b','state':'down','connected':false,'reason':'silent'}]}", HEALTH_WARNING,
	  "b is not level: down, silent" },
	{ "{'role':'primary','flags':[],'peers':[{'name':'b','state':'resync','connected':true}]}", HEALTH_WARNING, "resync" },
	{ "{'role':'primary','flags':['frozen'],'peers':[{'name':'b','state':'level','connected':true}]}", HEALTH_CRITICAL, "acknowledgements wait" },
	{ "{'role':'primary','flags':[],'peers':[{'name':'b','state':'refused','connected':true,'reason':'split'}]}", HEALTH_CRITICAL, "split" },
	{ "{'role':'standby','flags':['level'],'peers':[{'name':'a','state':'connected','connected':true,'primary':true}]}", HEALTH_OK, "follows" },
	{ "{'role':'standby','flags':[],'peers':[{'name':'a','state':'connected','connected':true,'primary':false}]}", HEALTH_WARNING, "no node is primary" },
	{ "{'role':'standby','flags':['outdated','tail'],'peers':[{'name':'a','state':'connected','connected':true,'primary':true}]}", HEALTH_WARNING,
	  "discard-local" },
	{ "{'role':'standby','flags':[],'peers':[{'name':'a','state':'down','connected':false}]}", HEALTH_WARNING, "no peer" },
	{ "{'role':'standby','flags':['outdated'],'peers':[{'name':'a','state':'down','connected':true}]}", HEALTH_WARNING, "outdated" },
	{ "{'role':'standby','flags':['inconsistent'],'peers':[{'name':'a','state':'resync','connected':true}]}", HEALTH_WARNING, "being made equal" },
	{ "{'role':'standby','flags':['inconsistent'],'peers':[{'name':'a','state':'down','connected':false}]}", HEALTH_CRITICAL, "inconsistent" },
	{ "{'role':'standby','flags':['unknown'],'peers':[{'name':'a','state':'down','connected':true}]}", HEALTH_CRITICAL, "belong together" },
};

static json_t *load(const char *text)
{
	char *copy = strdup(text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	json_t *j = json_loads(copy, 0, NULL);
	free(copy);
	ck_assert_ptr_nonnull(j);
	return j;
}

START_TEST(each_state_has_its_health)
{
	char why[256];
	json_t *j = load(states[_i].json);
	ck_assert_int_eq(status_health(j, why, sizeof why), states[_i].health);
	ck_assert_msg(strstr(why, states[_i].why) != NULL, "`%s' should contain `%s'", why, states[_i].why);
	json_decref(j);
}
END_TEST

START_TEST(a_status_of_any_shape_can_be_printed)
{
	static const char *const shapes[] = { "{}", "{'peers':1,'flags':{},'epoch':[],'risks':'x'}", "{'peers':[1,{},{'resync':{}}],'flags':[1],'risks':[2]}",
		"{'role':'primary','volume':'v','node':'a','sync_set':['a','b'],'epoch':{'reign':'3','node':1},'lsn':'9','queue':{'bytes':1048576,'max':67108864},"
		"'peers':[{'name':'b','state':'down','last_heard_ms':700000},{'name':'c','state':'level','connected':true,'lag_bytes':5}]}" };
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
		char *text;
		size_t size;
		FILE *f = open_memstream(&text, &size);
		json_t *j = load(shapes[i]);
		status_print(j, f);
		json_decref(j);
		fclose(f);
		ck_assert(size > 100);
		if (i == 3) {
			ck_assert_ptr_nonnull(strstr(text, "DEGRADED: v: primary on a: b is not level: down\n"));
			ck_assert_ptr_nonnull(strstr(text, "1.0 MiB of 64.0 MiB"));
			ck_assert_ptr_nonnull(strstr(text, "11 min ago"));
		}
		free(text);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cmdline");
	TCase *t = tcase_create("cmdline");
	tcase_add_test(t, options_and_arguments_in_any_order);
	tcase_add_test(t, wrong_usage_ends_with_2);
	tcase_add_test(t, help_is_found_everywhere);
	tcase_add_loop_test(t, each_state_has_its_health, 0, (int)(sizeof states / sizeof states[0]));
	tcase_add_test(t, a_status_of_any_shape_can_be_printed);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
