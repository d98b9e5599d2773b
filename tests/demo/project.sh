#!/bin/bash
# project.sh DIR [FILES]: writes a small C project of FILES modules (default 60) and a makefile: sorting networks, hashes and matrices that a
# program adds up; the result is known, so that whoever built it can check it. `make -C DIR && DIR/app` prints "the sum is N".
set -eu
dir=$1 files=${2:-60}
mkdir -p "$dir/src" "$dir/include"
{
	echo '#ifndef MODULES_H'
	echo '#define MODULES_H'
	for i in $(seq "$files"); do echo "unsigned long module_$i(unsigned long seed);"; done
	echo '#endif'
} >"$dir/include/modules.h"
for i in $(seq "$files"); do
	cat >"$dir/src/module_$i.c" <<C
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "modules.h"

static int compare(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
	return x < y ? -1 : x > y;
}

static double multiply(unsigned long s)
{
	double a[8][8], b[8][8], sum = 0;
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < 8; j++) {
			a[i][j] = (double)((s + (unsigned long)(i * j)) % 17);
			b[i][j] = (double)((s * $i + (unsigned long)(i + j)) % 13);
		}
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < 8; j++)
			for (int k = 0; k < 8; k++)
				sum += a[i][k] * b[k][j];
	return sum;
}

unsigned long module_$i(unsigned long seed)
{
	unsigned long v[$((50 + i))], sum = 0;
	char text[64];
	for (unsigned k = 0; k < sizeof v / sizeof *v; k++)
		v[k] = (seed = seed * 6364136223846793005ul + $i) >> 33;
	qsort(v, sizeof v / sizeof *v, sizeof *v, compare);
	for (unsigned k = 0; k < sizeof v / sizeof *v; k++)
		sum = sum * 31 + v[k];
	snprintf(text, sizeof text, "%lu", sum);
	return sum % 1000003 + strlen(text) + (unsigned long)multiply(sum);
}
C
done
{
	echo '#include <stdio.h>'
	echo '#include "modules.h"'
	echo 'int main(void)'
	echo '{'
	echo '	unsigned long sum = 0;'
	for i in $(seq "$files"); do echo "	sum += module_$i($i);"; done
	echo '	printf("the sum is %lu\n", sum);'
	echo '	return 0;'
	echo '}'
} >"$dir/src/main.c"
cat >"$dir/Makefile" <<'M'
OBJ := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
app: $(OBJ)
	$(CC) -o $@ $(OBJ) -lm
obj/%.o: src/%.c include/modules.h
	@mkdir -p obj
	$(CC) -O2 -g -Wall -Iinclude -c -o $@.tmp $<
	@mv $@.tmp $@
M
