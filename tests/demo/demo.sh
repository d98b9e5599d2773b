#!/bin/bash
# The demonstration: a pair of nodes on this machine, work on the primary, the primary killed in the middle of it, the work going on on
# the other node, the old primary back; then an NFS client that knows nothing of it goes on working through a switchover and a kill; the trees equal.
# Uses configuration files and the command, as anybody would.
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/nfs/nfs.sh
. "$here/../nfs/nfs.sh"
SERVICE=10.77.0.100
nfs_options "service_address = $SERVICE/24 dev eth0"

bold='' plain=''
[ ! -t 1 ] || { bold=$(tput bold) plain=$(tput sgr0); } 2>/dev/null
began=$(now_ms)
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
indent() { sed 's/^/    /'; }
# run NODE COMMAND…: a tandemfs command as a person on that node types it.
run() {
	local n=$1 rc
	shift
	printf '  %s# tandemfs %s %s\n' "$n" "$*" "$VOLUME"
	tfs "$n" "$@" 2>&1 | indent
	rc=${PIPESTATUS[0]}
	return "$rc"
}
fail() {
	printf '\n%sThe demonstration failed: %s%s\n' "$bold" "$*" "$plain"
	for n in "${NODES[@]}"; do
		echo "-- $n"
		tfs "$n" status 2>&1 | indent
		tail -n 20 "$TMP/$n/log" 2>/dev/null | indent
	done
	TAP_FAILED=1
	exit 1
}
count() { find "$1" -name "$2" 2>/dev/null | wc -l; }

say "TandemFS: one directory on two machines, live"
cat <<PICTURE

       applications                          applications (after a failover)
            |                                      |
      alpha: /mnt  ==== every change, in order ==> beta: /mnt (read-only until promoted)
            |             TLS 1.3                  |
        ext4 data                               xfs data

PICTURE
echo "  Two network namespaces play the two machines; both file systems are images in memory or on disk."
lab alpha:ext4 beta:xfs || fail "could not make the namespaces or the file systems (root, loop devices and network namespaces are needed)"
echo "  Their configuration (alpha's):"
grep -v '^$' "$TMP/alpha/etc/$VOLUME.conf" | sed "s|$TMP/||" | indent

say "1. Make the volume on alpha, let beta join"
run alpha key || fail "key"
run alpha init || fail "init"
echo "  alpha# tandemfs mount $VOLUME"
node_start alpha || fail "mount on alpha"
run alpha promote || fail "promote"
run beta init --join alpha || fail "join"
echo "  beta# tandemfs mount $VOLUME"
node_start beta || fail "mount on beta"
wait_for 30 level alpha beta || fail "beta does not become level"
run alpha status

say "2. Work on alpha: unpack and compile a C project, fill an SQLite database"
A=$(mnt alpha) B=$(mnt beta)
"$here/project.sh" "$TMP/project" 80
tar -C "$TMP" -cf "$TMP/project.tar" project
tar -C "$A" -xf "$TMP/project.tar" || fail "tar"
echo "  unpacked $(count "$A/project" '*') files; beta shows $(count "$B/project" '*') of them this very moment"
make -s -j2 -C "$A/project" >"$TMP/make.log" 2>&1 &
maker=$!
setsid "$here/sqlite-writer.sh" "$A/notes.db" "$TMP/acked" &
writer=$!
enough() { [ "$(count "$A/project/obj" '*.o')" -ge 25 ] && [ "$(wc -l <"$TMP/acked")" -ge 100 ]; }
wait_for 40 enough || fail "the work does not advance: $(tail -n 3 "$TMP/make.log")"
lag=$(status alpha '.peers[0] | "\(.lag_ops) operations, \(.lag_ms) ms"')
traffic=$(status alpha '"\(.ops) operations, \(.bytes) bytes"')
echo "  in the middle of it: $(count "$A/project/obj" '*.o') of 81 objects compiled, $(wc -l <"$TMP/acked") transactions committed; beta is behind by $lag"

say "3. Kill alpha's daemon: SIGKILL, while the compiler and the database are writing"
node_kill alpha
killed=$(now_ms)
wait "$maker" 2>/dev/null
wait "$writer" 2>/dev/null
umount -l "$A"
acked=$(wc -l <"$TMP/acked")
echo "  alpha is dead; SQLite had acknowledged $acked transactions"

say "4. Promote beta: a person says that alpha is dead for sure"
asked=$(now_ms)
run beta promote --fenced || fail "promotion"
promoted=$(now_ms)
touch "$B/.writable" && rm "$B/.writable" || fail "beta is not writable"
writable=$(now_ms)

say "5. The same work goes on on beta"
check=$(sqlite3 "$B/notes.db" 'PRAGMA integrity_check;')
rows=$(sqlite3 "$B/notes.db" 'SELECT count(*) FROM notes;')
missing=$(comm -23 <(sort "$TMP/acked") <(sqlite3 "$B/notes.db" 'SELECT n FROM notes;' | sort) | wc -l)
echo "  SQLite: integrity_check says $check; $rows rows, $missing of $acked acknowledged ones are missing"
[ "$check" = ok ] && [ "$missing" = 0 ] || fail "the database is damaged"
setsid "$here/sqlite-writer.sh" "$B/notes.db" "$TMP/acked2" &
writer=$!
echo "  compiled so far: $(count "$B/project/obj" '*.o') objects; make does the rest"
make -s -j2 -C "$B/project" >"$TMP/make2.log" 2>&1 || fail "make on beta: $(tail -n 5 "$TMP/make2.log")"
result=$("$B/project/app") || fail "the program does not run"
"$here/project.sh" "$TMP/reference" 80 && make -s -j2 -C "$TMP/reference" >/dev/null 2>&1
wanted=$("$TMP/reference/app")
echo "  the program built on two machines says: $result"
[ "$result" = "$wanted" ] || fail "the program says '$result', built elsewhere it says '$wanted'"
kill -- "-$writer" 2>/dev/null
wait "$writer" 2>/dev/null

say "6. alpha comes back"
echo "  alpha# tandemfs mount $VOLUME"
node_start alpha || fail "mount on alpha"
run alpha status
run alpha resync --discard-local || fail "resync"
back=$(now_ms)
wait_for 60 level beta alpha || fail "alpha does not become level"
levelled=$(now_ms)
settle beta alpha || fail "alpha does not catch up"
run beta status

say "7. An NFS client: copies files, lists and locks at the service address $SERVICE, as an ordinary user, with libnfs"
nfs_client_up || fail "the client's namespace"
install -d -o 65534 -g 65534 "$B/home" "$TMP/user"
nsenter --net="/run/netns/$ID-client" -- setpriv --reuid=65534 --regid=65534 --clear-groups \
	"$TOOLS/nfsuser" "$SERVICE" 2049 /home work "$TMP/user/progress" >"$TMP/user/totals" 2>"$TMP/user/errors" &
user=$!
user_rounds() { [ ! -s "$TMP/user/progress" ] || awk '{ print $1 }' "$TMP/user/progress"; }
user_pause() { awk '{ print $2 }' "$TMP/user/progress"; }
user_beyond() { [ "$(user_rounds)" -ge "$1" ] || gone $user; } 2>/dev/null
user_works() { # N: rounds more
	local from
	from=$(user_rounds)
	wait_for 60 user_beyond $((${from:-0} + $1)) && ! gone $user || fail "the NFS client stands still: $(tail -n 3 "$TMP/user/errors" "$TMP/user/totals")"
}
user_works 20
echo "  $(user_rounds) rounds so far (lock, copy 256 KiB, fsync, rename, compare, unlock, list, remove); the longest wait for an answer: $(user_pause) ms"
switching=$(now_ms)
run beta switchover || fail "switchover"
switched=$(($(now_ms) - switching))
user_works 20
at_switchover=$(user_pause)
echo "  alpha is primary; the client goes on, the longest wait so far: $at_switchover ms"
wait_for 60 level alpha beta || fail "beta does not become level"
echo "  alpha's daemon is killed"
node_kill alpha
run beta promote --fenced || fail "promotion"
user_works 20
at_kill=$(user_pause)
echo "  beta is primary; the client goes on, the longest wait so far: $at_kill ms"
node_start alpha || fail "mount on alpha"
tfs alpha resync --discard-local >/dev/null || fail "resync"
wait_for 60 level beta alpha || fail "alpha does not become level"
user_works 20
kill -TERM $user
wait $user || fail "the NFS client saw errors: $(cat "$TMP/user/errors")"
echo "  the client: $(cat "$TMP/user/totals")"
settle beta alpha || fail "alpha does not catch up"

say "8. Compare everything: contents, names, owners, modes, times, links, xattrs, inode numbers, directory order"
"$TOOLS/cmptree" --ino --ctime --order "$B" "$A" 2>&1 | indent
[ "${PIPESTATUS[0]}" = 0 ] || fail "the mounts differ"
"$TOOLS/cmptree" --backing "$(back beta)" "$(back alpha)" 2>&1 | indent
[ "${PIPESTATUS[0]}" = 0 ] || fail "the backing directories differ"
echo "  equal."

say "Summary"
cat <<SUMMARY
  carried from alpha to beta before the kill   $traffic
  lag at that time                             $lag
  acknowledged by SQLite, present afterwards   $acked of $acked transactions
  promotion                                    $((promoted - asked)) ms for the command, writable after $((writable - asked)) ms
  from the kill to writable (with the person)  $((writable - killed)) ms
  alpha level again after                      $((levelled - back)) ms
  the switchover                               $switched ms for the command
  the NFS client's longest wait, errors        $at_switchover ms until after the switchover, $at_kill ms until after the kill; no errors
  the whole demonstration                      $((($(now_ms) - began) / 1000)) s
SUMMARY
