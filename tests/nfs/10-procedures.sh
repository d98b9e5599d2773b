#!/bin/bash
# asan
# All procedures of NFS version 3 and MOUNT through libnfs: what they answer is what the mount shows, on the primary, and on the standby for those that read.
. "$(dirname "$0")/nfs.sh"
lab_or_die
nfs_client_up || exit 1
NC_OPTIONS=-w
A=$(mnt alpha) B=$(mnt beta)

# says NAME WANTED COMMAND…: what nfsclient prints on alpha.
says() {
	local name=$1 wanted=$2
	shift 2
	is "$name" "$(nc alpha "$@" 2>&1)" "$wanted"
}
# As `nfsclient stat` prints it. The mount's %A begins with the type.
mount_stat() { # NODE PATH
	stat -c '%.1A %a %h %u %g %s %i %.9Y %.9Z' "$(mnt "$1")/$2"
}
same_stat() { # NAME NODE PATH
	is "$1" "$(nc "$2" stat "$3" 2>&1)" "$(mount_stat "$2" "$3")"
}

check "the server answers" wait_for 20 nfs_serves alpha
check "so does the standby's" wait_for 20 nfs_serves beta
says "NULL" "" null
says "the export is listed" "/ 10.77.0.0/24" exports
same_stat "the root's attributes" alpha ""

# -- making things --
says "MKDIR" "" mkdir d 755
same_stat "a directory's attributes" alpha d
says "MKDIR of a name that is there" EXIST mkdir d 700
says "CREATE" "" create d/f 640
same_stat "a file's attributes" alpha d/f
says "CREATE of a file that is there keeps it" "" create d/f 600
says "CREATE guarded of a name that is there" EXIST guarded d/f 600
says "CREATE guarded" "" guarded d/g 604
says "CREATE exclusive" "" exclusive d/x verifie1
says "CREATE exclusive again, the same verifier" "" exclusive d/x verifie1
says "CREATE exclusive again, another verifier" EXIST exclusive d/x verifie2
says "SYMLINK" "" symlink d/s ../where/ever
is "the mount shows the link" "$(readlink "$A/d/s")" ../where/ever
says "READLINK" ../where/ever readlink d/s
says "READLINK of a file" INVAL readlink d/f
says "MKNOD of a FIFO" "" mknod d/p p 640
says "MKNOD of a socket" "" mknod d/so s 600
says "MKNOD of a device" "" mknod d/c c 660 1 3
is "the mount shows the device" "$(stat -c '%A %t %T' "$A/d/c")" "crw-rw---- 1 3"
for n in f g x s p so c; do same_stat "attributes of $n" alpha d/$n; done
says "LINK" "" link d/f d/f2
same_stat "a linked file's attributes" alpha d/f2
says "LINK of a directory" PERM link d d/d2
says "LINK to a name that is there" EXIST link d/f d/g

# -- contents --
says "WRITE, unstable" "" write d/f 0 unstable hello
says "WRITE, stable" "" write d/f 10 file world
says "COMMIT" "" commit d/f
is "the mount shows what was written" "$(od -An -c "$A/d/f" | tr -d ' \n')" 'hello\0\0\0\0\0world'
is "READ" "$(nc alpha read d/f 10 100)" world
is "READ behind the end" "$(nc alpha read d/f 100 10)" ""
says "READ of a directory" ISDIR read d 0 10
says "WRITE to a directory" ISDIR write d 0 file x
head -c 3000000 /dev/urandom >"$TMP/blob"
check "a large file is written" nc alpha put d/blob <"$TMP/blob"
check "the mount has the same bytes" cmp "$TMP/blob" "$A/d/blob"
nc alpha cat d/blob >"$TMP/blob2"
check "READ gives the same bytes" cmp "$TMP/blob" "$TMP/blob2"
cp "$TMP/blob" "$A/d/blob3"
nc alpha cat d/blob3 >"$TMP/blob2"
check "what the mount wrote is read" cmp "$TMP/blob" "$TMP/blob2"

# -- attributes --
says "SETATTR" "" setattr d/g mode=2751 uid=1000 gid=1001 size=12345 mtime=1000000000.123456789
is "the mount shows them (a new owner has no setuid or setgid program)" "$(stat -c '%a %u %g %s %.9Y' "$A/d/g")" "751 1000 1001 12345 1000000000.123456789"
same_stat "and GETATTR" alpha d/g
says "SETATTR of the setuid bit" "" setattr d/g mode=4711
is "the mount shows it" "$(stat -c %a "$A/d/g")" 4711
says "SETATTR with a wrong guard" NOT_SYNC setattr d/g mode=600 guard=1.1
ctime=$(nc alpha stat d/g | cut -d' ' -f9)
says "SETATTR with the right guard" "" setattr d/g mode=640 "guard=$ctime"
is "its mode is set" "$(stat -c %a "$A/d/g")" 640
before=$(date +%s)
says "SETATTR to the server's time" "" setattr d/g mtime=server atime=server
check "the time is now" [ "$(stat -c %Y "$A/d/g")" -ge $((before - 1)) ]
says "SETATTR of a directory's size" ISDIR setattr d size=0
is "ACCESS for root" "$(nc alpha access d 63)" 31
is "ACCESS for others" "$(NC_OPTIONS='-u 4711 -g 4711' nc alpha access d/g 63)" 0
is "ACCESS for the owner" "$(NC_OPTIONS='-u 1000 -g 5' nc alpha access d/g 63 2>&1)" 13

# -- listings: names, file numbers, cookies in the mount's order --
for i in $(seq 300); do : >"$A/d/name-$i-$(printf "%0$((i % 100))d" 0)"; done
"$TOOLS/dirwalk" list "$A/d" | cut -f1 >"$TMP/order"
nc alpha ls d 4000 >"$TMP/ls"
nc alpha lsplus d 4000 >"$TMP/lsplus"
check "READDIR lists the names in the mount's order" cmp "$TMP/order" <(cut -d' ' -f3 "$TMP/ls")
check "READDIRPLUS too" cmp "$TMP/order" <(cut -d' ' -f3 "$TMP/lsplus")
check "READDIR and READDIRPLUS give the same numbers and cookies" cmp <(cut -d' ' -f1-3 "$TMP/lsplus") "$TMP/ls"
check "READDIRPLUS says of each what the mount says" cmp <(grep -v ' \.\.* ' "$TMP/lsplus" | cut -d' ' -f3- | sort) \
	<(find "$A/d" -mindepth 1 -maxdepth 1 -printf '%f\n' | while read -r n; do echo "$n $(mount_stat alpha "d/$n")"; done | sort)
says "READDIR of a file" NOTDIR ls d/f
says "a count too small for one entry" TOOSMALL ls d 16

# -- the file system --
check "FSSTAT is what statfs says" [ "$(nc alpha fsstat | tr ' ' '\n' | sed -n 's/^tbytes=//p')" = "$(stat -f -c '%b*%S' "$A" | bc 2>/dev/null || echo $(($(stat -f -c '%b*%S' "$A"))))" ]
check "FSINFO: links, symlinks, homogeneous, settable times" grep -q 'properties=27' <(nc alpha fsinfo)
check "FSINFO: reads and writes of 1 MiB" grep -q 'rtmax=1048576 .*wtmax=1048576 ' <(nc alpha fsinfo)
check "PATHCONF" grep -q 'name_max=255 no_trunc=1 chown_restricted=1 case_insensitive=0 case_preserving=1' <(nc alpha pathconf d)

# -- names --
says "RENAME" "" rename d/f2 d/f3
is "the mount shows the new name" "$(cd "$A/d" && ls f2 f3 2>/dev/null)" f3
says "RENAME into another directory, over a file" "" mkdir d/sub 755
says "... there" "" create d/sub/g 600
says "... over it" "" rename d/g d/sub/g
is "... it is that file" "$(stat -c %s "$A/d/sub/g")" 12345
says "RENAME of nothing" NOENT rename d/none d/other
says "RENAME of a directory below itself" INVAL rename d d/sub/d
says "RMDIR of a full directory" NOTEMPTY rmdir d/sub
says "RMDIR of a file" NOTDIR rmdir d/f3
says "REMOVE of a directory" ISDIR remove d/sub
says "REMOVE" "" remove d/sub/g
says "REMOVE of nothing" NOENT remove d/sub/g
says "RMDIR" "" rmdir d/sub
check_fails "the mount shows neither" ls "$A/d/sub"
says "LOOKUP of a name that is too long" NAMETOOLONG stat "$(printf '%0300d' 0)"
says "LOOKUP below a file" NOTDIR stat d/f3/x
says "LOOKUP of .. at the root stays there" "$(mount_stat alpha "")" stat ..
says "the hidden directory can't be seen" NOENT stat .tandemfs

# -- the mount list --
check "DUMP lists the client" grep -q '10.77.0.50 /' <(nc alpha mounts)
says "UMNT" "" umount
says "UMNTALL" "" umountall

# -- the standby: the same handles and attributes, no changes --
settle alpha beta
NC_OPTIONS=
for n in d d/f3 d/s d/c d/blob; do
	same_stat "the standby's attributes of $n" beta "$n"
	is "its handle of $n is the primary's" "$(nc beta fh $n)" "$(nc alpha fh $n)"
done
check "the standby's READDIRPLUS is the primary's" cmp <(nc beta lsplus d 3000) <(nc alpha lsplus d 4000)
nc beta cat d/blob >"$TMP/blob2"
check "the standby reads the same bytes" cmp "$TMP/blob" "$TMP/blob2"
for c in "mkdir n 755" "create n 644" "guarded n 644" "symlink n x" "mknod n p 600" "remove d/f3" "rmdir d" "rename d n" "link d/f3 n" "setattr d mode=700" \
	"write d/f3 0 file x"; do
	# shellcheck disable=SC2086
	is "the standby refuses: ${c%% *}" "$(nc beta $c)" ROFS
done
trees_equal "at the end" alpha beta
tap_end
