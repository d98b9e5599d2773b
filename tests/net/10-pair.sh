#!/bin/bash
# asan
# limit: 300
# A pair, from `init` on: what is done on the primary is on the standby, live, with the same handles; the standby refuses changes; either may be restarted,
# the roles may change hands, and the nodes are equal after each step.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
FH=$TOOLS/fhandle

echo hello >"$A/file"
sync "$A/file"
is "what was fsynced on the primary is on the standby" "$(cat "$B/file")" hello
is "with a byte-identical handle" "$("$FH" get "$B/file")" "$("$FH" get "$A/file")"
is "and the same inode number" "$(stat -c %i "$B/file")" "$(stat -c %i "$A/file")"
is "the data are plain files on both nodes" "$(cat "$(back alpha)/file" "$(back beta)/file")" "hello
hello"

everything() { # one of each kind, in DIR
	mkdir -p "$1/dir/sub" && cd "$1" || return
	echo text >dir/f && ln dir/f dir/link && ln -s f dir/sym && mkfifo dir/fifo && mknod dir/null c 1 3
	perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("sock"))'
	truncate -s 1M sparse && printf x | dd of=sparse bs=1 seek=500000 conv=notrunc status=none
	fallocate -l 100000 allocated && head -c 200000 /dev/zero | tr '\0' y >punched && fallocate -p -o 8192 -l 65536 punched
	cp --reflink=auto punched copied
	setfattr -n user.a -v 1 dir/f && setfattr -n trusted.b -v 2 dir && setfattr -h -n trusted.c -v 3 dir/sym
	setfacl -m u:7:rwx dir/f && setfacl -d -m g:8:rx dir/sub && touch dir/sub/inherits && mkdir dir/sub/dir
	chmod 4711 dir/link && chown 5:6 dir/sub && touch -d '2020-01-02 03:04:05.678901234' dir/f dir/sub
	echo a >swap1 && mkdir swap2 && mv swap1 moved && mv --no-target-directory swap2 moved2
	chattr +i copied && chattr +a allocated
	cd / || return
}
check "one of everything is made" everything "$A/all"
trees_equal "with one of everything" alpha beta

# Live: the standby's kernel has cached what is changed now.
cat "$B/file" >/dev/null && ls -l "$B/all" >/dev/null && [ ! -e "$B/later" ]
echo changed >"$A/file"
chmod 600 "$A/file"
touch "$A/later"
rm "$A/all/moved"
sync "$A/file" "$A/later" "$A"
settle alpha beta
seen() { [ "$(cat "$B/file")" = changed ] && [ "$(stat -c %a "$B/file")" = 600 ] && [ -e "$B/later" ] && [ ! -e "$B/all/moved" ]; }
check "the standby's mount shows changes of what its kernel had cached" wait_for 5 seen

for c in "touch $B/x" "mkdir $B/x" "rm $B/file" "mv $B/file $B/y" "ln $B/file $B/y" "ln -s a $B/y" "chmod 600 $B/file" "truncate -s 0 $B/file" \
	"setfattr -n user.x -v 1 $B/file" "touch -d yesterday $B/file"; do
	out=$($c 2>&1)
	case $out in *"Read-only file system"*) ok "the standby refuses: ${c%% *} with EROFS" ;; *) not_ok "the standby refuses: ${c%% *} with EROFS" "$out" ;; esac
done
for n in alpha beta; do
	check_fails "the mark can't be read through $n's mount" getfattr -n trusted.tandemfs "$(mnt "$n")/file"
	is "the mark isn't listed on $n" "$(getfattr -d -m - "$(mnt "$n")/file" 2>/dev/null | grep -c tandemfs)" 0
	check_fails ".tandemfs is not visible on $n" ls -d "$(mnt "$n")/.tandemfs"
done
check_fails "the mark can't be set" setfattr -n trusted.tandemfs -v x "$A/file"
check_fails ".tandemfs can't be made" mkdir "$A/.tandemfs"
check "status --check says healthy" tfs alpha status --check

check "the standby restarts" node_stop beta
echo meanwhile >"$A/meanwhile"
mv "$A/all/dir/sub" "$A/elsewhere"
rm "$A/later"
printf 1 | dd of="$A/all/sparse" bs=1 seek=5 conv=notrunc status=none
check "and comes back" node_start beta
check "and becomes level" wait_for 30 level alpha beta
trees_equal "after the standby's restart" alpha beta
check "sparse files stayed sparse through it" "$TOOLS/cmptree" --backing --holes "$(back alpha)" "$(back beta)"

exec 9>"$A/held"
check_fails "demote refuses while a file is open for writing" tfs alpha demote
exec 9>&-
check "demote" tfs alpha demote
check_fails "the demoted node refuses changes" touch "$A/x"
check "the other is promoted: the old primary handed over" tfs beta promote
check "it takes changes" sh -c "echo from-beta >'$B/from-beta'"
check "the old primary becomes level" wait_for 30 level beta alpha
trees_equal "after the change of roles" beta alpha
check "promote on a primary does nothing" tfs beta promote
check "the primary restarts" node_stop beta
check "and comes back as a standby" node_start beta
is "as a standby" "$(status beta .role)" standby
check "it is promoted" tfs beta promote --fenced
check "and has its peer level again" wait_for 30 level beta alpha
echo again >"$B/again"
trees_equal "after the primary's restart" beta alpha
tap_end
