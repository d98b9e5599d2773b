#!/bin/bash
# The comparer itself: two equal trees are equal; each kind of difference, planted alone, is found and named.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
. "$top/tests/tap.sh"
O=${O:-build}
case $O in /*) ;; *) O=$top/$O ;; esac
CMP=$O/tests/tools/cmptree
TMP=$(mktemp -d /tmp/cmptree.XXXXXX)
mkdir "$TMP/a.mnt" "$TMP/b.mnt"
cleanup() {
	chattr -R -i -a "$TMP"/?.mnt 2>/dev/null
	umount "$TMP/a.mnt" "$TMP/b.mnt" 2>/dev/null
	rm -rf "$TMP"
}
trap cleanup EXIT
for s in a b; do
	truncate -s 64M "$TMP/$s.img"
	mkfs.ext4 -q -F -U 11111111-2222-3333-4444-555555555555 -E hash_seed=11111111-2222-3333-4444-555555555555 "$TMP/$s.img"
	mount -o loop "$TMP/$s.img" "$TMP/$s.mnt" || { skip "cmptree finds differences" "no loop mounts here"; tap_end; exit; }
done

plant() { # a tree with every kind of object, made the same way on both sides
	(
		cd "$1" || exit
		mkdir t t/dir t/dir/deep t/empty .tandemfs
		echo hello >t/file
		echo twin >t/two
		head -c 300000 /dev/zero | tr '\0' x >t/big
		truncate -s 1M t/sparse
		printf data | dd of=t/sparse bs=4096 seek=10 conv=notrunc status=none
		ln t/file t/link
		ln t/two t/two2
		ln -s target t/sym
		mkfifo t/fifo
		mknod t/null c 1 3
		mknod t/blk b 7 200
		perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("t/sock"))'
		setfattr -n user.a -v 1 t/file
		setfattr -h -n trusted.b -v 2 t/sym
		setfattr -n trusted.b -v 2 t/fifo
		setfattr -n trusted.tandemfs -v "$RANDOM" t/file
		setfacl -m u:1000:r t/big
		setfacl -d -m u:1000:rwx t/dir
		chattr +d t/two
		echo deep >t/dir/deep/file
		find t -exec touch -h -d '2024-05-06 07:08:09.123456789' {} +
	)
}
for s in a b; do plant "$TMP/$s.mnt"; done
find "$TMP/a.mnt/t" "$TMP/b.mnt/t" -depth -exec touch -h -d '2024-05-06 07:08:09.123456789' {} +

A=$TMP/a.mnt/t B=$TMP/b.mnt/t
compare() { "$CMP" "$@" "$A" "$B" 2>&1; }
check "equal trees are equal" "$CMP" --order --holes "$A" "$B"
check "backing roots leave out .tandemfs and lost+found" "$CMP" --backing "$TMP/a.mnt" "$TMP/b.mnt"

# differs NAME KIND "how to plant" "how to undo": on side B.
stamp='2024-05-06 07:08:09.123456789'
differs() {
	local name=$1 kind=$2 plant=$3 undo=$4 opts=${5:-} out
	(cd "$B" && set -e && eval "$plant") >/dev/null 2>"$TMP/err"
	[ $? = 0 ] || { not_ok "$name is found" "could not plant: $plant: $(cat "$TMP/err")"; return; }
	# shellcheck disable=SC2086
	out=$(compare $opts)
	if printf '%s\n' "$out" | cut -f2 | grep -qx "$kind"; then ok "$name is found"; else not_ok "$name is found" "$out"; fi
	(cd "$B" && eval "$undo") >/dev/null 2>&1
	find "$B" -depth -exec touch -h -d "$stamp" {} +
}
differs "a missing name" name 'mv empty ../gone' 'mv ../gone empty'
differs "an extra name" name 'touch extra' 'rm extra'
differs "another name" name 'mv file File' 'mv File file'
differs "a name missing deep down" name 'mv dir/deep/file ..' 'mv ../file dir/deep/file'
differs "another type" type 'mv fifo ../gone; touch fifo' 'mv ../gone fifo'
differs "a directory for a file" type 'mv big ../gone; mkdir big' 'rmdir big; mv ../gone big'
differs "one changed byte" contents 'printf y | dd of=big bs=1 seek=299999 conv=notrunc' 'printf x | dd of=big bs=1 seek=299999 conv=notrunc'
differs "one changed byte deep down" contents 'printf D >dir/deep/file; printf "eep\n" >>dir/deep/file' 'echo deep >dir/deep/file'
differs "another size" size 'truncate -s 299999 big' 'printf x >>big'
differs "a longer sparse file" size 'truncate -s 2M sparse' 'truncate -s 1M sparse'
differs "the mode" mode 'chmod 640 file' 'chmod 644 file'
differs "a setuid bit" mode 'chmod u+s file' 'chmod u-s file'
differs "a directory's mode" mode 'chmod 700 dir/deep' 'chmod 755 dir/deep'
differs "the owner" uid 'chown 5 file' 'chown 0 file'
differs "a symlink's owner" uid 'chown -h 5 sym' 'chown -h 0 sym'
differs "the group" gid 'chgrp 5 file' 'chgrp 0 file'
differs "the link count" nlink 'ln file more' 'rm more'
differs "hard links swapped between two objects of equal counts" links \
	'rm link two2; ln two link; ln file two2; echo hello >two' 'rm link two2; ln file link; ln two two2; echo twin >two'
differs "a sub-directory's parent's link count" nlink 'mkdir dir/deep/more' 'rmdir dir/deep/more'
differs "mtime by a nanosecond" mtime 'touch -d "2024-05-06 07:08:09.123456788" big' :
differs "mtime of a symlink" mtime 'touch -h -d "2024-05-06 07:08:08.123456789" sym' :
differs "mtime of a directory" mtime 'touch -d "2024-05-06 07:08:08" dir' :
differs "ctime" ctime : : --ctime
differs "the device number" rdev 'rm null; mknod null c 1 5' 'rm null; mknod null c 1 3'
differs "a block device's number" rdev 'rm blk; mknod blk b 7 201' 'rm blk; mknod blk b 7 200'
differs "the symlink's target" target 'ln -sfn tarGet sym; setfattr -h -n trusted.b -v 2 sym' 'ln -sfn target sym; setfattr -h -n trusted.b -v 2 sym'
differs "an xattr's value" xattr 'setfattr -n user.a -v 2 file' 'setfattr -n user.a -v 1 file'
differs "a missing xattr" xattr 'setfattr -x user.a file' 'setfattr -n user.a -v 1 file'
differs "an extra trusted xattr" xattr 'setfattr -n trusted.c -v 1 file' 'setfattr -x trusted.c file'
differs "a symlink's xattr" xattr 'setfattr -h -n trusted.b -v 3 sym' 'setfattr -h -n trusted.b -v 2 sym'
differs "a FIFO's xattr" xattr 'setfattr -x trusted.b fifo' 'setfattr -n trusted.b -v 2 fifo'
differs "a security xattr" xattr 'setfattr -n security.x -v 1 file' 'setfattr -x security.x file'
differs "an ACL entry" xattr 'setfacl -m u:1001:r big' 'setfacl -x u:1001 big'
differs "a missing ACL" xattr 'setfacl -b big' 'setfacl -m u:1000:r big'
differs "a default ACL" xattr 'setfacl -d -m u:1000:r dir' 'setfacl -d -m u:1000:rwx dir'
differs "a filled hole" holes 'dd if=/dev/zero of=sparse bs=4096 count=1 seek=40 conv=notrunc; sync sparse' \
	'fallocate -p -o 163840 -l 4096 sparse' --holes
differs "a hole in data" holes 'fallocate -p -o 40960 -l 4096 sparse; truncate -s 1M sparse' \
	'printf data | dd of=sparse bs=4096 seek=10 conv=notrunc' --holes
differs "the append-only flag" flags 'chattr +a two' 'chattr -a two'
differs "the immutable flag" flags 'chattr +i two' 'chattr -i two'
differs "the nodump flag" flags 'chattr -d two' 'chattr +d two'
differs "the inode number" ino 'cp -a big big2; mv big2 big' : --ino
check "and with all undone the trees are equal again" "$CMP" "$A" "$B"

# Directory order: the same names in another order, on file systems with another hash.
umount "$TMP/b.mnt"
mkfs.ext4 -q -F -U 99999999-2222-3333-4444-555555555555 -E hash_seed=99999999-2222-3333-4444-555555555555 "$TMP/b.img"
mount -o loop "$TMP/b.img" "$TMP/b.mnt"
for s in a b; do
	rm -rf "$TMP/$s.mnt/t"
	mkdir "$TMP/$s.mnt/t"
	for i in $(seq 40); do : >"$TMP/$s.mnt/t/f$i"; done
	find "$TMP/$s.mnt/t" -exec touch -d "$stamp" {} +
done
differs "another directory order" order : : --order
check "which without --order is no difference" "$CMP" "$A" "$B"
check_fails "a missing tree is an error" "$CMP" "$A" "$TMP/nothing"
tap_end
