#!/bin/bash
# The slow part of `make lint`: clang-tidy, cppcheck, shellcheck where it is installed. Findings are errors. (cppcheck doesn't follow ownership
# through our callbacks and scope attributes: the leak checker of the sanitizers' builds does.)
set -u
cd "$(dirname "$0")/../.." || exit 1
status=0
mapfile -t sources < <(git ls-files 'fs/*.c' 'handles/*.c' 'mirror/*.c' 'resync/*.c' 'nfsd-glue/*.c')
FLAGS="-std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. $(pkg-config --cflags fuse3)"
export FLAGS
# shellcheck disable=SC2086
printf '%s\0' "${sources[@]}" | xargs -0 -n 4 -P "$(nproc)" sh -c 'clang-tidy --quiet "$@" -- $FLAGS 2>/dev/null' sh || status=1
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -I. -D_GNU_SOURCE \
	--suppress=missingIncludeSystem --suppress=unusedStructMember --suppress='*:/usr/include/*' \
	--suppress=memleak --suppress=autoVariables --suppress=internalAstError --suppress=unknownMacro -j "$(nproc)" "${sources[@]}" || status=1
if command -v shellcheck >/dev/null; then
	mapfile -t scripts < <(git ls-files '*.sh' .ci tests/run)
	shellcheck -s bash -S error "${scripts[@]}" || status=1
fi
exit $status
