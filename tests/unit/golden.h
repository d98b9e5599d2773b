/* Bytes that are promised: by the test itself, and by the examples of docs/protocol.md (hex at the start of an indented line, then two or more spaces and a
 * remark). */
#ifndef TESTS_UNIT_GOLDEN_H
#define TESTS_UNIT_GOLDEN_H

#include <check.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The hex digits of all indented lines, up to their remarks. Owned by the caller. */
static inline char *golden_doc(void)
{
	char line[1024], *out = calloc(1, 1 << 20), *w = out;
	FILE *f = fopen("docs/protocol.md", "r");

	ck_assert_msg(f != NULL, "docs/protocol.md: tests are run from the top folder");
	while (fgets(line, sizeof line, f)) {
		if (strncmp(line, "    ", 4) != 0)
			continue;
		for (char *p = line + 4; *p && !(p[0] == ' ' && p[1] == ' ') && w < out + (1 << 20) - 1; p++)
			if (isxdigit((unsigned char)*p))
				*w++ = *p;
	}
	fclose(f);
	return out;
}

static inline void golden_same(const unsigned char *p, size_t len, const char *golden)
{
	char *hex = calloc(1, 2 * len + 1), *want = calloc(1, strlen(golden) + 1), *w = want, *doc = golden_doc();

	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", p[i]);
	for (; *golden; golden++)
		if (*golden != ' ')
			*w++ = *golden;
	ck_assert_str_eq(hex, want);
	ck_assert_msg(strstr(doc, hex) != NULL, "docs/protocol.md shows other bytes");
	free(hex);
	free(want);
	free(doc);
}

#endif
