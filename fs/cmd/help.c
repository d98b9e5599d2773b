/*
 * Help, from the two tables: sub-commands (main.c) and options of the configuration (fs/base/conf.c).
 *
 * `help mdoc-commands` and `help mdoc-options` print the same as mdoc; `make docs` puts that into the man pages between their
 * markers, and the lint check fails when a page is behind its table.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "fs/cmd/cmd.h"

#ifndef TANDEMFS_VERSION
#define TANDEMFS_VERSION "0.1"
#endif

int cmd_version(const struct cmd_line *l, const struct volume_conf *c)
{
	(void)l, (void)c;
	puts("tandemfs " TANDEMFS_VERSION);
	return EXIT_OK;
}

/* TEXT in lines of at most 78 columns, each indented by INDENT. */
static void print_wrapped(const char *text, int indent)
{
	int col = 0;

	while (*text) {
		int len = (int)strcspn(text, " ");
		if (!col || col + 1 + len > 78) {
			printf("%s%*s", col ? "\n" : "", indent, "");
			col = indent;
		} else {
			putchar(' ');
			col++;
		}
		printf("%.*s", len, text);
		col += len;
		text += len;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static void print_summary(void)
{
	puts("tandemfs mirrors a directory, live, between servers.\n\nusage: tandemfs [-c FILE] COMMAND ...\n");
	for (const struct subcmd *s = subcmds; s->name; s++)
		printf("  %s%s%s\n", s->name, *s->synopsis ? " " : "", s->synopsis);
	puts("\nNAME is a volume's name: its configuration is /etc/tandemfs/NAME.conf, or FILE.\n"
	     "`tandemfs help COMMAND' explains a command, `tandemfs help config' the configuration;\n"
	     "tandemfs(8) and tandemfs.conf(5) say more.");
}

static void print_command(const struct subcmd *s)
{
	printf("usage: tandemfs %s %s\n\n", s->name, s->synopsis);
	print_wrapped(s->help, 2);
	for (const struct cmd_option *o = s->options; o->name; o++) {
		char letter[8] = "";
		if (o->letter)
			snprintf(letter, sizeof letter, "-%c, ", o->letter);
		printf("\n  %s--%s%s%s\n", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
		print_wrapped(o->help, 6);
	}
}

/* What values O takes, in a few words. */
static void describe_range(const struct conf_option *o, char *out, size_t size)
{
	size_t len = 0;

	if (o->type == CONF_T_CHOICE) {
		for (int i = 0; o->choices[i] && len < size; i++)
			len += (size_t)snprintf(out + len, size - len, "%s%s", i ? " | " : "", o->choices[i]);
		return;
	}
	char lo[32], hi[32];
	snprintf(out, size, "%s", conf_type_name(o->type));
	if (!o->max)
		return;
	conf_format_number(o, o->min, lo);
	conf_format_number(o, o->max, hi);
	snprintf(out, size, "%s, %s to %s", conf_type_name(o->type), lo, hi);
}

static const char *default_text(const struct conf_option *o)
{
	return !o->dflt ? "must be given" : *o->dflt ? o->dflt : "none; must be given when there are peers";
}

static void print_config(void)
{
	size_t n;
	const struct conf_option *o = conf_options(&n);
	const char *section = "";
	char range[128];

	for (size_t i = 0; i < n; i++, o++) {
		if (strcmp(section, o->section))
			printf("%s[%s%s]\n", i ? "\n" : "", o->section, strcmp(o->section, "node") && strcmp(o->section, "export") ? "" : " NAME");
		section = o->section;
		describe_range(o, range, sizeof range);
		printf("\n  %s\n      (%s; default: %s)\n", o->name, range, default_text(o));
		print_wrapped(o->help, 6);
	}
}

/* ---- mdoc ---- */

/* TEXT as mdoc: a sentence a line, with what would be taken for a macro or an escape protected. */
static void mdoc_text(const char *text)
{
	bool line_start = true;

	for (const char *p = text; *p; p++) {
		bool sentence_ends = *p == ' ' && p > text && p[-1] == '.';
		if (line_start && (*p == '.' || *p == '\''))
			fputs("\\&", stdout);
		switch (*p) {
		case '\\': fputs("\\e", stdout); break;
		case '`': fputs("\\(oq", stdout); break;
		case '\'': fputs("\\(cq", stdout); break;
		case '-': fputs("\\-", stdout); break;
		default: putchar(sentence_ends ? '\n' : *p);
		}
		line_start = sentence_ends;
	}
	putchar('\n');
}

static void mdoc_option(const struct cmd_option *o)
{
	printf(".It Fl ");
	if (o->letter)
		printf("%c , Fl ", o->letter);
	printf("\\-%s", o->name);
	printf(o->value ? " Ar %s\n" : "\n", o->value);
	mdoc_text(o->help);
}

/* A synopsis such as "[--join PEER] NAME" as mdoc macros. */
static void mdoc_synopsis(const char *s)
{
	for (; *s; s += *s ? 1 : 0) {
		if (*s == ' ')
			continue;
		if (*s == '[') {
			printf(" Oo");
			continue;
		}
		size_t len = strcspn(s, " ]");
		if (*s == ']') {
			printf(" Oc");
			len = 1;
		} else if (*s == '|')
			printf(" |");
		else if (!strncmp(s, "--", 2))
			printf(" Fl \\-%.*s", (int)len - 2, s + 2);
		else if (*s == '-')
			printf(" Fl %.*s", (int)len - 1, s + 1);
		else
			printf(isupper((unsigned char)*s) ? " Ar %.*s" : " Cm %.*s", (int)len, s);
		s += len - 1;
	}
	putchar('\n');
}

static void mdoc_commands(void)
{
	for (const struct subcmd *s = subcmds; s->name; s++) {
		printf(".It Cm %s", s->name);
		mdoc_synopsis(s->synopsis);
		mdoc_text(s->help);
		if (!s->options[0].name)
			continue;
		puts(".Bl -tag -width 4n -compact");
		for (const struct cmd_option *o = s->options; o->name; o++)
			mdoc_option(o);
		puts(".El");
	}
}

static void mdoc_config(const char *section)
{
	size_t n;
	const struct conf_option *o = conf_options(&n);
	char range[128];

	for (size_t i = 0; i < n; i++, o++) {
		if (strcmp(section, o->section))
			continue;
		describe_range(o, range, sizeof range);
		printf(".It Ic %s\n", o->name);
		printf(".Pq %s; default: %s\n.br\n", range, default_text(o));
		mdoc_text(o->help);
	}
}

int cmd_help(const struct cmd_line *l, const struct volume_conf *c)
{
	(void)c;
	const char *what = l->argc ? l->argv[0] : "";

	if (!*what)
		print_summary();
	else if (!strcmp(what, "config"))
		print_config();
	else if (!strcmp(what, "mdoc-commands"))
		mdoc_commands();
	else if (!strcmp(what, "mdoc-volume") || !strcmp(what, "mdoc-node") || !strcmp(what, "mdoc-nfs") || !strcmp(what, "mdoc-export"))
		mdoc_config(what + 5);
	else {
		for (const struct subcmd *s = subcmds; s->name; s++)
			if (!strcmp(s->name, what)) {
				print_command(s);
				return EXIT_OK;
			}
		cmd_fail("help: no command is called %s: see `tandemfs help'", what);
		return EXIT_USAGE;
	}
	return EXIT_OK;
}
