#!/bin/bash
# mandoc-tables.sh TANDEMFS [--write]: compares the man pages with the tables that the command is made from; --write puts the tables' texts
# into the pages, between `.\" BEGIN x` and `.\" END x`.
set -eu
bin=$1 write=${2:-}
status=0
TMP=$(mktemp -d /tmp/mandoc-tables.XXXXXX)
trap 'rm -rf "$TMP"' EXIT

one() { # PAGE WHAT
	grep -q "^\.\\\\\" BEGIN $2\$" "$1" || { echo "$1: no line .\\\" BEGIN $2"; status=1; return; }
	"$bin" help "$2" >"$TMP/text"
	awk -v what="$2" -v text="$TMP/text" '
		$0 == ".\\\" END " what { inside = 0 }
		!inside { print }
		$0 == ".\\\" BEGIN " what { inside = 1; while ((getline line < text) > 0) print line }
	' "$1" >"$TMP/page"
	if ! cmp -s "$TMP/page" "$1"; then
		if [ "$write" = --write ]; then cat "$TMP/page" >"$1"; else
			diff -u "$1" "$TMP/page" | head -n 40
			status=1
		fi
	fi
}
one docs/tandemfs.8 mdoc-commands
one docs/tandemfs.conf.5 mdoc-volume
one docs/tandemfs.conf.5 mdoc-node
one docs/tandemfs.conf.5 mdoc-nfs
one docs/tandemfs.conf.5 mdoc-export
exit $status
