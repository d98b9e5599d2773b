#!/bin/bash
# limit: 300
# Errors of a disk. On the standby: it leaves the sync set rather than go on with a gap, and comes back by itself. On the primary: the caller gets the error, and
# what it left behind is the same on both nodes; a flush that failed is never acknowledged.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:ext4
A=$(mnt alpha)
restart_with() { # NODE RULES
	node_stop "$1" && node_start "$1" --fault "$2"
}
work() { # PREFIX: some files; counts failures
	local i bad=0
	for i in $(seq 60); do
		mkdir -p "$A/$1$i" && head -c 20000 /dev/urandom >"$A/$1$i/f" && ln "$A/$1$i/f" "$A/$1$i/g" && mv "$A/$1$i/g" "$A/$1$i/h" &&
			sync "$A/$1$i/f" || bad=$((bad + 1))
	done 2>/dev/null
	echo "$bad"
}
check_fails "a rule that can't be is refused" tfs beta mount --foreground --fault 'op=nonsense,error=EIO'
for op in $(short_or_long 'write create fsync' 'write create rename link fsync setattr'); do
	check "standby: restarted with $op failing once" restart_with beta "op=$op,nth=7,error=EIO"
	check "standby: level with it" wait_for 30 level alpha beta
	is "standby: $op fails: applications notice nothing" "$(work "s$op")" 0
	check "standby: $op: it becomes level again by itself" wait_for 60 level alpha beta
	trees_equal "standby: $op" alpha beta
done
node_stop beta
check "the standby without faults" node_start beta
check "is level" wait_for 30 level alpha beta
for op in write create rename; do
	for after in "" ,after; do
		node_stop alpha
		check "primary: restarted with $op failing at times$after" node_start alpha --fault "op=$op,every=9,error=EIO$after"
		check "primary: promoted when its standby has answered" wait_for 10 tfs alpha promote
		check "primary: level" wait_for 30 level alpha beta
		bad=$(work "p$op$after")
		if [ "$bad" -gt 0 ]; then ok "primary: $op$after: callers got the errors ($bad)"; else not_ok "primary: $op$after: callers got the errors"; fi
		check "primary: $op$after: level" wait_for 60 level alpha beta
		trees_equal "primary: $op$after" alpha beta
	done
done
tap_end
