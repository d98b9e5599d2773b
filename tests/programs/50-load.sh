#!/bin/bash
# limit: 400
# General load: stress-ng's or dbench's file workloads where they are installed, otherwise parallel tar, find, sed -i, mv and rm. No errors, and both nodes
# are equal in the end.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha)
seconds=$(short_or_long 10 600)
if command -v stress-ng >/dev/null; then
	mkdir "$A/stress"
	check "stress-ng" stress-ng --temp-path "$A/stress" --timeout "$seconds" --hdd 1 --hdd-bytes 8m --dir 1 --dentry 1 --rename 1 --link 1 \
		--symlink 1 --seek 1 --utime 1 --chmod 1 --fallocate 1 --fallocate-bytes 8m --xattr 1
else
	skip "stress-ng" "not installed"
fi
if command -v dbench >/dev/null; then
	check "dbench" dbench -D "$A" -t "$seconds" 4
else
	skip "dbench" "not installed"
fi
"$TOP/tests/demo/project.sh" "$TMP/project" 40
tar -C "$TMP" -cf "$TMP/project.tar" project
job() { # N: one of the parallel users
	local i d=$A/user$1
	mkdir "$d" || return 1
	for i in 1 2 3; do
		mkdir "$d/$i" && tar -C "$d/$i" -xf "$TMP/project.tar" || return 1
		sed -i "s/module/unit$i/" "$d/$i/project/src/"*.c || return 1
		cp -a "$d/$i" "$d/$i.copy" && mv "$d/$i.copy" "$d/moved$i" || return 1
		[ "$(grep -rl "unit$i" "$d/moved$i" | wc -l)" = 41 ] || return 1
		[ "$i" = 3 ] || rm -r "${d:?}/$i" || return 1
		find "$d" -type f -newer "$TMP/project.tar" -size +1000M | grep . && return 1
	done
	return 0
}
pids=()
for n in 1 2 3 4; do
	job "$n" >"$TMP/job.$n" 2>&1 &
	pids+=($!)
done
failed=
for p in "${pids[@]}"; do wait "$p" || failed=1; done
is "four users unpack, edit, copy, move, search and remove" "$failed" ""
[ -z "$failed" ] || note "$(cat "$TMP"/job.*)"
trees_equal "after the load" alpha beta
tap_end
