#!/bin/bash
# What an answer promises is on the disks: right after it each node's image is copied as it is, as if the power had failed, and looked into. Alpha's file system is
# ext4, beta's xfs: both make what was made durable by flushing its directory. A second pass has many clients at it, who share flushes.
# limit: 600
. "$(dirname "$0")/nfs.sh"
lab_or_die alpha:ext4 beta:xfs
nfs_client_up || exit 1
check "the server answers" wait_for 20 nfs_serves alpha

lab_extra_cleanup() { umount -l "$TMP/cut"; }
mkdir "$TMP/cut"
# on_disk NODE OPTIONS NAME…: have all of them their marks, gone ones ("-NAME") not their names?
on_disk() {
	local node=$1 options=$2 data=$TMP/cut/data name
	shift 2
	cp --sparse=always "$IMAGES/$node.img" "$IMAGES/cut.img" && mount -o "loop,$options" "$IMAGES/cut.img" "$TMP/cut" || return 1
	for name; do
		case $name in
		-*) [ ! -e "$data/${name#-}" ] || echo "${name#-} is there" ;;
		*) getfattr -h -n trusted.tandemfs "$data/$name" >/dev/null 2>&1 || echo "$name isn't there, or has no mark" ;;
		esac
	done
	umount "$TMP/cut" && rm "$IMAGES/cut.img"
}
both() { # TITLE NAME…
	local title=$1
	shift
	is "$title: on alpha's disk" "$(on_disk alpha rw "$@" 2>&1)" ""
	is "$title: on beta's disk" "$(on_disk beta rw,nouuid "$@" 2>&1)" ""
}

nc alpha mkdir /d 755 >/dev/null
both MKDIR d
nc alpha create /d/f 644 >/dev/null
both CREATE d/f
nc alpha exclusive /d/x verifier >/dev/null
both "exclusive CREATE" d/x
nc alpha symlink /d/s target >/dev/null
both SYMLINK d/s
nc alpha rename /d/f /d/g >/dev/null
both RENAME d/g -d/f
nc alpha remove /d/x >/dev/null
both REMOVE -d/x

# Each client notes a name when it has the answer; the notes are read before the disks are copied.
for w in 1 2 3 4 5 6 7 8; do
	(
		for i in $(seq 1000); do
			nc alpha create "/d/$w-$i" 644 >/dev/null && echo "d/$w-$i" >>"$TMP/notes.$w" || break
		done
	) &
	WORKERS+=("$!")
done
for at in 20 60; do
	wait_for 120 eval '[ "$(cat "$TMP"/notes.* | wc -l)" -ge '$at' ]'
	mapfile -t MADE < <(cat "$TMP"/notes.*)
	is "eight clients, $at names and more: on alpha's disk" "$(on_disk alpha rw "${MADE[@]}" 2>&1)" ""
	mapfile -t MADE < <(cat "$TMP"/notes.*)
	is "eight clients, $at names and more: on beta's disk" "$(on_disk beta rw,nouuid "${MADE[@]}" 2>&1)" ""
done
kill "${WORKERS[@]}" 2>/dev/null
wait "${WORKERS[@]}" 2>/dev/null
trees_equal "afterwards" alpha beta
tap_end
