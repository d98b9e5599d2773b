#!/bin/bash
# Each fuzz target for FUZZ_TIME seconds (10): no crash, no sanitizer's finding, no leak. Inputs worth keeping lie in
# tests/fuzz/corpus/TARGET/; what made a target fail is kept in $O/fuzz/found/.
# limit: 7200
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/tap.sh"
cd "$top" || exit 1
O=${O:-build}
case $O in */asan | */tsan) O=${O%/*} ;; esac
TMP=$(mktemp -d /tmp/fuzz.XXXXXX)
trap 'rm -rf "$TMP"' EXIT
mkdir -p "$O/fuzz/found"

fuzz() { # NAME
	local name=$1 found corpus
	found=$(cd "$O/fuzz/found" && pwd)
	corpus=tests/fuzz/corpus/$name
	mkdir -p "$TMP/$name"
	[ -d "$corpus" ] || corpus=
	# shellcheck disable=SC2086
	"$O/fuzz/tests/fuzz/$name" -max_total_time="${FUZZ_TIME:-10}" -max_len=65536 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
		-artifact_prefix="$found/$name-" "$TMP/$name" $corpus 2>&1 | tail -n 25
	return "${PIPESTATUS[0]}"
}

for src in tests/fuzz/fuzz_*.c; do
	name=$(basename "$src" .c)
	if [ -x "$O/fuzz/tests/fuzz/$name" ]; then check "$name holds for ${FUZZ_TIME:-10} s" fuzz "$name"; else
		not_ok "$name is built" "make fuzz-build"
	fi
done
tap_end
