/*
 * The parser of command lines: tandemfs [-c FILE] COMMAND, then options and arguments in any order; "--" ends the options. The arguments
 * are moved to the front of argv.
 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/cmd/cmd.h"

int cmd_fail(const char *fmt, ...)
{
	va_list ap;

	fputs("tandemfs: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_FAILED;
}

static int __attribute__((format(printf, 1, 2))) usage_error(const char *fmt, ...)
{
	va_list ap;

	fputs("tandemfs: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(": see `tandemfs help'\n", stderr);
	return EXIT_USAGE;
}

const char *cmd_option(const struct cmd_line *l, const char *name)
{
	unsigned i = 0;

	while (i < OPTIONS_MAX && l->cmd->options[i].name && strcmp(l->cmd->options[i].name, name))
		i++;
	assert(i < OPTIONS_MAX && l->cmd->options[i].name);	/* it is in the table */
	return l->option[i];
}

/* ---- the parser ---- */

struct scan { int argc; char **argv; int i; };		/* argv[i] is the next word */

/* The option that WORD (with its dashes) names: its place, -1 = none. *VALUE: what stands behind '=' or directly behind a letter, or NULL. */
static int find_option(const struct subcmd *cmd, const char *word, const char **value)
{
	bool is_long = word[1] == '-';
	size_t len = is_long ? strcspn(word + 2, "=") : 1;

	*value = NULL;
	for (int i = 0; i < OPTIONS_MAX && cmd->options[i].name; i++) {
		const struct cmd_option *o = &cmd->options[i];
		if (is_long ? strlen(o->name) != len || strncmp(o->name, word + 2, len) : !o->letter || o->letter != word[1])
			continue;
		const char *rest = is_long ? word + 2 + len : word + 2;
		if (*rest)
			*value = is_long ? rest + 1 : rest;
		return i;
	}
	return -1;
}

/* One option, at s->argv[s->i]. 0 or an exit status. */
static int take_option(struct scan *s, struct cmd_line *l)
{
	const char *word = s->argv[s->i++], *value;
	int i = find_option(l->cmd, word, &value);

	if (i < 0)
		return usage_error("%s: no such option of `%s'", word, l->cmd->name);
	const struct cmd_option *o = &l->cmd->options[i];
	if (!o->value && value)
		return usage_error("--%s takes no value", o->name);
	if (o->value && !value) {
		if (s->i == s->argc)
			return usage_error("--%s wants a value: %s", o->name, o->value);
		value = s->argv[s->i++];
	}
	l->option[i] = value ? value : "";
	return 0;
}

static int take_conf_file(struct scan *s, struct cmd_line *l)
{
	const char *word = s->argv[s->i++];

	if (word[2])
		l->conf_file = word + 2;
	else if (s->i < s->argc)
		l->conf_file = s->argv[s->i++];
	else
		return usage_error("-c wants a value: FILE");
	return 0;
}

static bool is_conf_option(const char *word)
{
	return word[0] == '-' && word[1] == 'c';
}

static int find_command(const struct subcmd *table, const char *name, struct cmd_line *l)
{
	static const struct { const char *alias, *name; } aliases[] = {
		{ "--help", "help" }, { "-h", "help" }, { "--version", "version" }, { "-V", "version" }, { "unmount", "umount" },
	};
	for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
		if (!strcmp(aliases[i].alias, name))
			name = aliases[i].name;
	for (l->cmd = table; l->cmd->name; l->cmd++)
		if (!strcmp(l->cmd->name, name))
			return 0;
	return usage_error("%s: no such command", name);
}

int cmdline_parse(const struct subcmd *table, int argc, char **argv, struct cmd_line *l)
{
	struct scan s = { argc, argv, 1 };
	int r = 0;

	while (!r && s.i < argc && is_conf_option(argv[s.i]))
		r = take_conf_file(&s, l);
	if (!r)
		r = s.i < argc ? find_command(table, argv[s.i++], l) : usage_error("which command?");
	l->argv = argv;
	bool only_args = false;
	while (!r && s.i < argc) {
		char *word = argv[s.i];
		if (only_args || word[0] != '-' || !word[1]) {
			l->argv[l->argc++] = word;
			s.i++;
		} else if (!strcmp(word, "--")) {
			only_args = true;
			s.i++;
		} else if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
			l->argv[0] = (char *)l->cmd->name;
			l->argc = 1;
			return find_command(table, "help", l);
		} else {
			r = is_conf_option(word) ? take_conf_file(&s, l) : take_option(&s, l);
		}
	}
	if (!r && (l->argc < l->cmd->min_args || l->argc > l->cmd->max_args))
		r = usage_error("usage: tandemfs %s%s%s", l->cmd->name, *l->cmd->synopsis ? " " : "", l->cmd->synopsis);
	return r;
}
