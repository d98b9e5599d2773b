#!/bin/bash
# Documents: the man pages are well-formed, hold the texts of the tables of options and sub-commands, and the example configuration is
# accepted and shows every option.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/tap.sh"
cd "$top" || exit 1
O=${O:-build}
BIN=$O/tandemfs
TMP=$(mktemp -d /tmp/documents.XXXXXX)
trap 'rm -rf "$TMP"' EXIT

for page in docs/*.[1-9]; do
	check "$page passes mandoc's lint" mandoc -T lint -W warning "$page"
done
check "man pages hold what the tables say (make docs refreshes them)" tests/lint/mandoc-tables.sh "$BIN"

sed -e 's|^fence_peer *=.*|fence_peer = none|' -e "s|^# key_file.*|key_file = $TMP/key|" docs/tandemfs.conf.example >"$TMP/x.conf"
TANDEMFS_NODE=alpha "$BIN" -c "$TMP/x.conf" key --generate x >"$TMP/fingerprint"
check "the example configuration is accepted" env TANDEMFS_NODE=alpha "$BIN" -c "$TMP/x.conf" check-config x
missing=$("$BIN" help config | sed -n 's/^  \([a-z_]*\)$/\1/p' | while read -r o; do grep -q "^#* *$o *=" docs/tandemfs.conf.example || echo "$o"; done)
is "the example configuration shows every option" "$missing" ""
for f in README.md LICENSE docs/ARCHITECTURE.md docs/protocol.md docs/formats.md; do
	check "$f is there" test -s "$f"
done
tap_end
