#!/bin/bash
# Direction of includes: each file may include only headers of rooms below its own (docs/ARCHITECTURE.md, "Rooms"); libfuse is seen by
# fs/fuse*.c only, libnfs by nfsd-glue/ only; test tools include nothing of the product.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/tap.sh"
cd "${1:-$top}" || exit 1

# The room of a path, and its height. Same room: always allowed.
room_of() {
	case $1 in
	fs/base/*) echo base ;;
	handles/*) echo handles ;;
	fs/cmd/*) echo cmd ;;
	fs/layer.h | fs/lock*.[ch] | fs/observe.[ch] | fs/objlock.[ch]) echo contract ;;
	fs/local* | fs/fault*) echo local ;;
	fs/fuse*) echo fuse ;;
	mirror/*) echo mirror ;;
	resync/*) echo resync ;;
	nfsd-glue/*) echo nfsd ;;
	tests/tools/*) echo tools ;;
	tests/*) echo tests ;;
	*) echo none ;;
	esac
}
# Which rooms a room may use. mirror and resync reach the local layer through its header, fs/local.h.
may_use() {
	case $1 in
	base) echo "" ;;
	handles) echo "base" ;;
	contract) echo "handles base" ;;
	local) echo "contract handles base" ;;
	fuse) echo "contract handles base" ;;
	mirror) echo "contract handles base local.h" ;;
	resync) echo "mirror contract handles base local.h" ;;
	nfsd) echo "mirror contract handles base" ;;
	cmd) echo "base handles contract local fuse mirror resync nfsd" ;;
	tests) echo "base handles contract local fuse mirror resync nfsd cmd tools" ;;
	tools) echo "" ;;
	*) echo "" ;;
	esac
}
# FILE INCLUDED: nothing, or what is wrong.
judge() {
	local from to
	from=$(room_of "$1") to=$(room_of "$2")
	[ "$from" != none ] || { echo "$1 lies in no room"; return; }
	[ "$to" != none ] || { echo "$1 includes $2, which lies in no room: write includes from the top"; return; }
	[ "$from" != "$to" ] || return 0
	case " $(may_use "$from") " in *" $to "*) return 0 ;; esac
	case "$2 $(may_use "$from") " in "fs/local.h "*" local.h "*) return 0 ;; esac
	echo "$1 ($from) includes $2 ($to)"
}

problems=$(
	git ls-files '*.c' '*.h' 2>/dev/null | while IFS= read -r f; do
		[ -f "$f" ] || continue
		sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*"\([^"]*\)".*/\1/p' "$f" | while IFS= read -r h; do
			case $f:$h in tests/*:*/*) ;; tests/*:*) [ -f "$(dirname "$f")/$h" ] && continue ;; esac
			judge "$f" "$h"
		done
	done
)
is "includes point down the list of rooms" "$problems" ""
is "only fs/fuse*.c sees libfuse" "$(git grep -lE '#[[:space:]]*include[[:space:]]*<fuse' -- '*.[ch]' | grep -v -e '^fs/fuse' -e '^tests/' | tr '\n' ' ')" ""
is "only nfsd-glue sees libnfs" "$(git grep -lE '#[[:space:]]*include[[:space:]]*<nfsc' -- '*.[ch]' | grep -v -e '^nfsd-glue/' -e '^tests/' | tr '\n' ' ')" ""
top_level=$(git ls-files | cut -d/ -f1 | sort -u | grep -v '^\.' | tr '\n' ' ')
is "the top level holds nothing else" "$(for f in $top_level; do case " fs mirror handles resync nfsd-glue tests docs Makefile README.md LICENSE " in *" $f "*) ;; *) echo "$f" ;; esac; done)" ""

# The check itself must see an upward include.
if [ $# = 0 ]; then
	t=$(mktemp -d /tmp/includes.XXXXXX)
	trap 'rm -rf "$t"' EXIT
	(cd "$t" && git init -q . && mkdir -p fs/base mirror && printf '#include "mirror/wire.h"\n' >fs/base/x.c && : >mirror/wire.h && git add -A)
	check_fails "an upward include is found" "$0" "$t"
fi
tap_end
