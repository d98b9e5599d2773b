#!/bin/bash
# limit: 300
# A tree with everything in it (sparse files, hard links, xattrs, ACLs, devices, odd names) goes in and out by rsync and tar unchanged.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_extra_cleanup() { umount -l "$TMP/native"; }
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
make_fs ext4 "$IMAGES/native.img" "$TMP/native" 512
S=$TMP/native/source
mkdir -p "$S/d/e/f" "$S/empty"
for i in $(seq 200); do head -c $((RANDOM % 9000)) /dev/urandom >"$S/d/file$i"; done
head -c 3000000 /dev/urandom >"$S/big"
truncate -s 20M "$S/sparse"
for o in 0 5 11 19; do head -c 5000 /dev/urandom | dd of="$S/sparse" bs=1M seek=$o conv=notrunc status=none; done
ln "$S/big" "$S/d/big-link"
ln -s ../big "$S/d/sym"
ln -s nowhere "$S/dangling"
mkfifo "$S/fifo"
mknod "$S/null" c 1 3
printf x >"$S/with space"
printf x >"$S/"$'new\nline'
printf x >"$S/"$'\xff\xfe'
setfattr -n user.color -v blue "$S/big"
setfattr -n trusted.secret -v 42 "$S/d"
setfacl -m u:1000:rw,g:1001:r "$S/d/file1"
setfacl -d -m u:1000:rwx "$S/empty"
chown 1000:1001 "$S/d/file2"
chmod 4755 "$S/d/file3"
chmod 1777 "$S/empty"
find "$S" -depth -exec touch -h -d '2011-12-13 14:15:16.171819202' {} +	# rsync doesn't see differences within a second
touch -h -d '1999-12-31 23:59:59.123456789' "$S/d/sym" "$S/big" "$S/d/file4"
find "$S" -depth -type d -exec touch -d '2001-02-03 04:05:06.789' {} +

same() { check "$1" "$TOOLS/cmptree" --holes=262144 --limit 20 "$S" "$2"; }
check "rsync in" rsync -aHAXS --numeric-ids "$S/" "$A/rsync/"
same "what rsync brought in is the source" "$A/rsync"
is "a second run of rsync finds nothing to do" "$(rsync -aHAXSn --numeric-ids --itemize-changes "$S/" "$A/rsync/" | wc -l)" 0
check "tar in, with xattrs, ACLs and sparse files" sh -c "mkdir '$A/tar' && tar -C '$S' --xattrs --xattrs-include='*' --acls -S -cf - . | tar -C '$A/tar' --xattrs --xattrs-include='*' --acls -S -xpf -"
same "what tar brought in is the source" "$A/tar"
trees_equal "with both copies" alpha beta
mkdir "$TMP/native/out"
check "tar out, of the standby" sh -c "tar -C '$B/tar' --xattrs --xattrs-include='*' --acls -S -cf - . | tar -C '$TMP/native/out' --xattrs --xattrs-include='*' --acls -S -xpf -"
same "what tar took out is the source" "$TMP/native/out"
check "rsync out" rsync -aHAXS --numeric-ids "$A/rsync/" "$TMP/native/out2/"
same "what rsync took out is the source" "$TMP/native/out2"
for i in $(seq 50); do head -c 700 /dev/urandom >"$S/d/file$i"; done
mv "$S/d/e" "$S/d/g"
rm "$S/d/file60" "$S/big"
find "$S" -depth -type d -exec touch -d '2012-02-03 04:05:06.789' {} +
check "rsync with --delete, in place" rsync -aHAX --numeric-ids --delete --inplace "$S/" "$A/rsync/"
check "the copy is the source again" "$TOOLS/cmptree" --limit 20 "$S" "$A/rsync"
check "cp -a within the mount" cp -a "$A/rsync" "$A/copy"
check "the copy is the source" "$TOOLS/cmptree" --limit 20 "$S" "$A/copy"
trees_equal "in the end" alpha beta
tap_end
