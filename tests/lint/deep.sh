#!/bin/bash
# The slow part of `make lint`: clang-tidy, cppcheck, shellcheck where it is installed. Findings are errors.
set -u
cd "$(dirname "$0")/../.." || exit 1
status=0
mapfile -t sources < <(git ls-files 'fs/*.c' 'handles/*.c' 'mirror/*.c' 'resync/*.c' 'nfsd-glue/*.c')
# shellcheck disable=SC2086
printf '%s\0' "${sources[@]}" | xargs -0 -n 4 -P "$(nproc)" sh -c 'clang-tidy --quiet "$@" -- -std=gnu11 $CPPFLAGS 2>/dev/null' sh || status=1
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -I. -D_GNU_SOURCE \
	--suppress=missingIncludeSystem --suppress=unusedStructMember --suppress=*:/usr/include/* -j "$(nproc)" "${sources[@]}" || status=1
if command -v shellcheck >/dev/null; then
	mapfile -t scripts < <(git ls-files '*.sh' .ci tests/run)
	shellcheck -S warning -x "${scripts[@]}" || status=1
fi
exit $status
