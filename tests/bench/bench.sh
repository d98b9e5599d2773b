#!/bin/bash
# bench.sh: one line per measure: NAME<TAB>VALUE<TAB>UNIT<TAB>RATIO<TAB>AGAINST WHAT; lines that begin with "#" say what was checked.
#
# The NFS server's measures are in nfs.sh.
# ROUNDS=n (default 3): every measure is taken n times on every contestant, alternating; values are medians. ONLY=pattern: only the measures whose name
# contains it. RATIO is value/reference for rates and reference/value for times: more is better, 1 is as good. All file systems are ext4 (the
# standby's too) on images in memory when there is room: what shows is CPU, not this machine's disk.
#   native   the file system itself
#   floor    fuse_floor: a bare pass-through mount, the same libfuse
#   alone    the product, one node
#   pair     the product with a level standby, `commit`, both nodes here
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/lib.sh
. "$here/../lib.sh"
ROUNDS=${ROUNDS:-3}
ONLY=${ONLY:-}
FILES=${FILES:-4000}
MIB=${MIB:-128}
RESULTS=$TMP/results
: >"$RESULTS"
export LAB_SIZE=${LAB_SIZE:-1200}
lab_extra_cleanup() {
	ganesha_down
	kill_hard "${qemu_pid:-}"
	umount -l "$TMP/floor.mnt" "$TMP/floor.fs" "$TMP/native.fs"
}
die() {
	echo "bench: $*" >&2
	for n in "${NODES[@]}"; do tail -n 10 "$TMP/$n/log" >&2; done
	exit 1
}

FB=$O/tests/bench/fbench
FLOOR=$O/tests/bench/fuse_floor
mkdir -p "$O/tests/bench"
build() { # OUTPUT SOURCE LIBRARIES…
	local out=$1 src=$2
	shift 2
	[ "$out" -nt "$src" ] || ${CC:-cc} -std=gnu11 -O2 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I"$TOP" -o "$out" "$src" "$@" -lpthread
}
# shellcheck disable=SC2046
build "$FB" "$here/fbench.c" && build "$FLOOR" "$here/fuse_floor.c" $(pkg-config --cflags --libs fuse3) || die "cannot build"

wanted() { # NAME…: is one of the measures wanted?
	local m
	[ -n "$ONLY" ] || return 0
	for m; do case $m in *"$ONLY"*) return 0 ;; esac; done
	return 1
}
DATA="write_1m_fsync read_cold read_warm write_4k write_4k_fsync write_4k_fsync_p50"
META1="create_1 stat_1 stat_cold_1 open_read_1 rename_1 unlink_1"
META4="create_4 stat_4 stat_cold_4 open_read_4 rename_4 unlink_4"
TREE="untar walk copy rm_r"

take() { # CONTESTANT: adds its name to lines of measures
	sed "s/^/$1	/" >>"$RESULTS"
}
lap() { # NAME FILES COMMAND…
	local name=$1 n=$2 t0 t1
	shift 2
	t0=${EPOCHREALTIME/./}
	"$@" >/dev/null || die "$*"
	t1=${EPOCHREALTIME/./}
	awk -v k="$name" -v n="$n" -v us=$((t1 - t0)) 'BEGIN { printf "%s\t%.5g\tfiles/s\n", k, n / us * 1e6 }'
}
tree() { # DIR
	local n
	n=$(tar -tf "$TMP/tree.tar" | wc -l)
	mkdir "$1/tree"
	lap untar "$n" tar -xf "$TMP/tree.tar" -C "$1/tree"
	lap walk "$n" find "$1/tree" -size +1000M
	lap copy "$n" cp -a "$1/tree" "$1/tree2"
	lap rm_r "$n" rm -r "$1/tree"
	rm -rf "$1/tree2"
}
measure() { # CONTESTANT DIR [-k]: all groups that are wanted
	# shellcheck disable=SC2086
	{
		wanted $DATA && { "$FB" -s "$MIB" ${3:-} -w data "$2" || die "fbench data on $1"; }
		wanted $META1 && { "$FB" -n "$FILES" -w meta1 "$2" || die "fbench meta1 on $1"; }
		wanted $META4 && { "$FB" -n "$FILES" -w meta4 "$2" || die "fbench meta4 on $1"; }
		wanted $TREE && tree "$2"
	} | take "$1"
}

median() { # CONTESTANT MEASURE
	awk -F'\t' -v c="$1" -v m="$2" '$1 == c && $2 == m { print $3 }' "$RESULTS" | sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'
}
unit() { awk -F'\t' -v m="$1" '$2 == m { print $4; exit }' "$RESULTS"; }
# shellcheck source=tests/bench/nfs.sh
. "$here/nfs.sh"
export LAB_OPTIONS=$NFS_OPTIONS
row() { # CONTESTANT MEASURE REFERENCE
	local v r u
	wanted "$1_$2" || return 0
	v=$(median "$1" "$2") r=$(median "$3" "$2") u=$(unit "$2")
	[ -n "$v" ] && [ -n "$r" ] || return 0
	awk -v n="$1_$2" -v v="$v" -v r="$r" -v u="$u" -v w="$3" 'BEGIN {
		ratio = u == "us" || u == "ms" || u == "ms/GiB" || u == "MiB" ? r / v : v / r
		printf "%s\t%s\t%s\t%.2f\t%s (%s)\n", n, v, u, ratio, w, r }'
}

"$TOP/tests/demo/project.sh" "$TMP/project" 700
tar -C "$TMP" -cf "$TMP/tree.tar" project
make_fs ext4 "$IMAGES/native.img" "$TMP/native.fs" "$LAB_SIZE" && make_fs ext4 "$IMAGES/floor.img" "$TMP/floor.fs" "$LAB_SIZE" || die "images"
mkdir "$TMP/floor.mnt"
"$FLOOR" "$TMP/floor.mnt" "$TMP/floor.fs" &
wait_for 10 grep -q " $TMP/floor.mnt fuse" /proc/self/mounts || die "the floor does not mount"

# -- the mount alone --
lab alpha:ext4 && lab_up || die "the node does not come up"
for _ in $(seq "$ROUNDS"); do
	measure native "$TMP/native.fs"
	measure floor "$TMP/floor.mnt"
	measure alone "$(mnt alpha)"
done
for m in $DATA $META1 $META4 $TREE; do row alone "$m" floor; done

nfs_alone

# -- the pair --
lab_down
rm -f "$IMAGES/alpha.img" "$IMAGES/beta.img"
lab alpha:ext4 beta:ext4 && lab_up || die "the pair does not come up"
proof() { # after each mirrored row
	settle alpha beta || die "beta does not catch up: $(tfs alpha status)"
	if "$TOOLS/cmptree" --ino --ctime --order "$(mnt alpha)" "$(mnt beta)" >"$TMP/cmp" 2>&1; then
		echo "# standby's LSN $(status beta .lsn), trees equal ($(cut -d' ' -f2 "$TMP/cmp" | tail -n 1) objects)"
	else
		echo "# standby's LSN $(status beta .lsn), THE TREES DIFFER: $(head -n 3 "$TMP/cmp")"
		exit 1
	fi
}
tar -xf "$TMP/tree.tar" -C "$(mnt alpha)"	# something to compare
for _ in $(seq "$ROUNDS"); do measure pair "$(mnt alpha)" -k; done
nfs_pair
for m in create_1 create_4; do
	wanted "pair_$m" || continue
	row pair "$m" floor
	v=$(median pair "$m")
	[ -z "$v" ] || awk -v n="pair_${m}" -v v="$v" -v g="$([ "$m" = create_1 ] && echo 166 || echo 189)" \
		'BEGIN { printf "%s\t%s\tops/s\t%.1f\tGlusterFS replica 2, elsewhere measured (%s)\n", n, v, v / g, g }'
	proof
done
for m in write_1m_fsync write_4k_fsync write_4k_fsync_p50; do
	wanted "pair_$m" || continue
	row pair "$m" native
	proof
done
for m in stat_1 unlink_1 unlink_4 rename_1 untar rm_r write_4k read_warm; do row pair "$m" floor; done
if wanted pair_lag_after_1000_creates; then
	for _ in $(seq "$ROUNDS"); do
		"$FB" -w lag "$(mnt alpha)" "$(back beta)" | take pair
		settle alpha beta
	done
	printf 'pair_lag_after_1000_creates\t%s\tms\t%s\tlsyncd, elsewhere measured (3100)\n' "$(median pair lag_after_1000_creates)" \
		"$(awk -v v="$(median pair lag_after_1000_creates)" 'BEGIN { printf "%.0f", 3100 / v }')"
	proof
fi
if wanted pair_longest_stall; then
	for _ in $(seq "$ROUNDS"); do
		"$FB" -w stall -t 4 "$(mnt alpha)" >"$TMP/stall" &
		p=$!
		wait_for 1 false
		link_down beta
		wait "$p" || die "the application got an error when the link died"
		take pair <"$TMP/stall"
		link_up beta
		wait_for 60 level alpha beta || die "beta does not return: $(tfs alpha status)"
	done
	printf 'pair_longest_stall\t%s\tms\t%s\tGlusterFS replica 2, elsewhere measured (46000)\n' "$(median pair longest_stall)" \
		"$(awk -v v="$(median pair longest_stall)" 'BEGIN { printf "%.0f", 46000 / v }')"
	proof
fi
nfs_pauses
