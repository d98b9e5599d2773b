#!/bin/bash
# Listings of 20,000 entries by READDIRPLUS, in pages of random sizes, while names come and go: what was there throughout is listed exactly once, also when
# each page comes from the other node, and when the nodes change roles in the middle.
. "$(dirname "$0")/nfs.sh"
lab_or_die
nfs_client_up || exit 1
A=$(mnt alpha)
N=20000
check "the servers answer" wait_for 20 nfs_serves alpha
check "on both nodes" wait_for 20 nfs_serves beta
note "seed $SEED"

mkdir "$A/d"
(cd "$A/d" && seq -f 'keep-%.0f' $N | xargs touch) || exit 1
settle alpha beta

# Every keep-N once; nothing twice.
listing_good() { # FILE
	cut -d' ' -f3 "$1" | sort >"$1.names"
	uniq -d "$1.names" >"$1.twice"
	[ ! -s "$1.twice" ] || { echo "twice:" && head "$1.twice" && return 1; }
	[ "$(grep -c '^keep-' "$1.names")" = "$N" ] || { echo "$(grep -c '^keep-' "$1.names") of $N entries" && return 1; }
}
list() { # FILE NODE LARGEST_PAGE OPTIONS…
	local file=$1 host most=$3
	host=$(address "$2")
	shift 3
	in_client timeout 120 "$NC" "$@" "$host" / lsplus d "random:$SEED:$most" >"$file" || { tail -n 1 "$file" && return 1; }
	SEED=$((SEED + 1))
	listing_good "$file"
}
check "a quiet directory, from the primary" list "$TMP/l1" alpha 12000
check "from the standby" list "$TMP/l2" beta 12000
check "both give the same cookies, numbers and attributes" cmp <(sort "$TMP/l1") <(sort "$TMP/l2")
check "from any position, each node goes on as the other" "$TOOLS/dirwalk" switch -s "$SEED" "$A/d" "$(mnt beta)/d"
check "each page from the other node" list "$TMP/l3" alpha 12000 -s 10.77.0.2

# Names come and go: through the mount, and through NFS.
churn_mount() {
	local i=0
	while [ ! -e "$TMP/stop" ]; do
		: >"$A/d/mount-$((i % 500))"
		mv "$A/d/mount-$((i % 500))" "$A/d/moved-$((i % 300))"
		rm -f "$A/d/moved-$(((i * 7) % 300))"
		i=$((i + 1))
	done
}
churn_nfs() {
	local i=0
	while [ ! -e "$TMP/stop" ]; do
		for _ in $(seq 50); do
			echo "create d/nfs-$((i % 400)) 644"
			echo "rename d/nfs-$((i % 400)) d/nfs2-$((i % 200))"
			echo "remove d/nfs2-$(((i * 3) % 200))"
			i=$((i + 1))
		done
	done | in_client timeout 200 "$NC" "$(address alpha)" / - >/dev/null 2>&1
}
churn_mount &
churn1=$!
churn_nfs &
churn2=$!
rounds=$(short_or_long 2 60)
for i in $(seq "$rounds"); do
	check "$i: while names come and go, from the primary" list "$TMP/l4" alpha 100000
	check "$i: each page from the other node" list "$TMP/l5" alpha 100000 -s 10.77.0.2
done
touch "$TMP/stop"
wait $churn1 $churn2

# The roles change while a listing is under way, each page from the other node. Its client connects again.
settle alpha beta
(
	for _ in 1 2 3; do list "$TMP/l6" alpha 12000 -r -s 10.77.0.2 || exit 1; done
) >"$TMP/across" 2>&1 &
lister=$!
tfs alpha demote >/dev/null && tfs beta promote >/dev/null || not_ok "the roles change"
wait $lister
status=$?
is "listings across a change of roles are complete: $(cat "$TMP/across")" $status 0
wait_for 60 level beta alpha
trees_equal "at the end" beta alpha
tap_end
