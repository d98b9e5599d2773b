# The harness of the end-to-end tests: nodes in network namespaces of their own, on file systems of their own, one daemon each. Sourced by tests
# that are run as root from anywhere; bash.
#
#   lab [NODE:FS...]        makes the nodes (default alpha:ext4 beta:xfs); numbers 1, 2, 3… in this order; options for all
#                           configurations come from LAB_OPTIONS (lines `name = value`), the size of a node's image from LAB_SIZE (MiB)
#   lab_up                  init, mount and promote the first, join and mount the others, wait until they are level
#   node_start NODE, node_stop NODE (cleanly), node_kill NODE (SIGKILL), node_pid NODE
#   lab_down                takes them away (also done at exit)
#   tfs NODE COMMAND ARG…   runs `tandemfs COMMAND ARG… VOLUME` on the node
#   status NODE FILTER      jq FILTER over the node's status
#   mnt NODE, back NODE     the mount point, the backing directory
#   come_back NODE PRIMARY  mounts a killed node again: resync --discard-local, wait until it is level
#   is_primary NODE, level PRIMARY NODE
#   link_down NODE, link_up NODE   silent loss of the node's network
#   wait_for LIMIT_S COMMAND…      polls until the command succeeds
#   settle A B              waits until B has everything that A has
#   trees_equal NAME A B    settle, then compare mounts and backing directories: TAP checks
#
# Everything made is under $TMP (images under $IMAGES), has names that begin with tt$$, and is removed at exit, also after a
# failure; KEEP=1 keeps $TMP (logs). Addresses 10.77.0.N exist only inside the namespaces.

set -u
LIB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$LIB_DIR/.." && pwd)
# shellcheck source=tests/tap.sh
. "$LIB_DIR/tap.sh"
O=${O:-build}
case $O in /*) ;; *) O=$TOP/$O ;; esac
TOOLS=$O/tests/tools
TANDEMFS=${TANDEMFS:-$O/tandemfs}
VOLUME=vol
# Leaks are the daemons' business, not that of tools which run for seconds.
DAEMON_ASAN=${ASAN_OPTIONS:-}
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
ID=tt$$
NODES=()
umask 022

if [ "$(id -u)" != 0 ]; then
	skip "${0##*/}" "needs root"
	tap_end
	exit
fi
TMP=$(mktemp -d "${TMPDIR:-/tmp}/tandemfs-test.XXXXXX")
chmod 755 "$TMP"
mkfifo "$TMP/never"
exec {NEVER}<>"$TMP/never"	# a descriptor that never becomes readable: the pause between two looks
# In memory when there is room: the tests are about order and contents, not about this machine's disk.
IMAGES=$TMP
if [ "${LAB_ON_DISK:-}" != 1 ] && [ "$(df -Pm /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')" -gt 3000 ] 2>/dev/null; then
	IMAGES=$(mktemp -d /dev/shm/tandemfs-test.XXXXXX)
fi

# Takes all nodes, their file systems and namespaces away.
lab_down() {
	local n
	for n in "${NODES[@]}"; do
		kill_hard "$(node_pid "$n")"
		umount -l "$TMP/$n/mnt"
		umount -l "$TMP/$n/fs"
		ip netns del "$ID-$n"
		rm -rf "${TMP:?}/$n/state" "$TMP/$n/pid" "$TMP/$n/etc"
	done 2>/dev/null
	ip netns del "$ID-sw" 2>/dev/null
}

cleanup() {
	local n status=$?
	trap - EXIT INT TERM
	set +e
	# shellcheck disable=SC2046
	kill -9 $(jobs -p) 2>/dev/null
	lab_down
	lab_extra_cleanup 2>/dev/null
	if [ "$TAP_FAILED" != 0 ] && [ "${VERBOSE:-}" = 1 ]; then
		for n in "${NODES[@]}"; do
			echo "# log of $n:"
			tail -n 40 "$TMP/$n/log" | sed 's/^/#   /'
		done
	fi
	[ "$IMAGES" = "$TMP" ] || rm -rf "$IMAGES"
	[ "${KEEP:-}" = 1 ] && echo "# kept: $TMP" || rm -rf "$TMP"
	exit "$status"
}
lab_extra_cleanup() { :; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for LIMIT_S COMMAND...
wait_for() {
	local limit=$1 end
	shift
	end=$((${EPOCHREALTIME/./} + limit * 1000000))
	until "$@" >/dev/null 2>&1; do
		[ "${EPOCHREALTIME/./}" -lt "$end" ] || return 1
		read -r -t 0.02 -u "$NEVER" || :
	done
}

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }
mnt() { echo "$TMP/$1/mnt"; }
back() { echo "$TMP/$1/fs/data"; }
node_pid() { cat "$TMP/$1/pid" 2>/dev/null; }
kill_hard() { [ -z "$1" ] || kill -9 "$1" 2>/dev/null; }
in_node() {
	local n=$1
	shift
	nsenter --net="/run/netns/$ID-$n" -- env TANDEMFS_CONF_DIR="$TMP/$n/etc" "$@"
}
# Commands have a limit of their own: a daemon that hangs must fail the test, not stop it.
tfs() {
	local n=$1 cmd=$2
	shift 2
	in_node "$n" timeout "${TFS_LIMIT:-60}" "$TANDEMFS" "$cmd" "$@" "$VOLUME"
}
status() { tfs "$1" status --json 2>/dev/null | jq -r "(.status // .) | $2"; }

make_fs() { # FS IMAGE MOUNT_POINT SIZE_MIB
	mkdir -p "$3"
	if [ "$1" = tmpfs ]; then
		mount -t tmpfs -o "size=${4}m,mode=755" tt "$3"
		return
	fi
	truncate -s "${4}M" "$2"
	case $1 in
	ext4) mkfs.ext4 -q -F -b 4096 "$2" && mount -o loop "$2" "$3" ;;
	xfs) mkfs.xfs -q -f "$2" && mount -o loop "$2" "$3" ;;
	btrfs) mkfs.btrfs -q -f "$2" && mount -o loop "$2" "$3" ;;
	*) return 1 ;;
	esac
}

write_conf() { # NODE
	local n=$1 i=0 other
	{
		echo "[volume]"
		echo "backing = $TMP/$n/fs/data"
		echo "mount_point = $TMP/$n/mnt"
		echo "state_dir = $TMP/$n/state"
		echo "node = $n"
		echo "key_file = $TMP/$n/etc/$VOLUME.key"
		echo "control_socket = $TMP/$n/control"
		case ${LAB_OPTIONS:-} in *fence_peer*) ;; *) [ ${#NODES[@]} = 1 ] || echo "fence_peer = none" ;; esac
		printf '%s\n' "${LAB_OPTIONS:-}"
		for other in "${NODES[@]}"; do
			i=$((i + 1))
			printf '[node %s]\nnumber = %s\n' "$other" "$i"
			[ ${#NODES[@]} = 1 ] || echo "address = 10.77.0.$i:7400"
		done
	} >"$TMP/$n/etc/$VOLUME.conf"
}

lab() {
	local spec n fs i=0
	[ $# -gt 0 ] || set -- alpha:ext4 beta:xfs
	NODES=("${@%%:*}")
	ip netns add "$ID-sw" || return 1
	ip -n "$ID-sw" link add br0 type bridge && ip -n "$ID-sw" link set br0 up || return 1
	for spec; do
		n=${spec%%:*} fs=${spec#*:} i=$((i + 1))
		mkdir -p "$TMP/$n/etc" "$TMP/$n/mnt"
		make_fs "$fs" "$IMAGES/$n.img" "$TMP/$n/fs" "${LAB_SIZE:-512}" || return 1
		chmod 755 "$TMP/$n/fs"
		mkdir -p "$TMP/$n/fs/data"
		ip netns add "$ID-$n" || return 1
		ip -n "$ID-$n" link set lo up
		ip -n "$ID-$n" link add eth0 type veth peer name "p$i" netns "$ID-sw" || return 1
		ip -n "$ID-sw" link set "p$i" master br0 up
		ip -n "$ID-$n" addr add "10.77.0.$i/24" dev eth0
		ip -n "$ID-$n" link set eth0 up
		write_conf "$n"
	done
	tfs "${NODES[0]}" key --generate >/dev/null || return 1
	for n in "${NODES[@]:1}"; do
		cp -p "$TMP/${NODES[0]}/etc/$VOLUME.key" "$TMP/$n/etc/"
	done
}

node_number() {
	local i
	for i in "${!NODES[@]}"; do [ "${NODES[$i]}" != "$1" ] || echo $((i + 1)); done
}
link_down() { ip -n "$ID-sw" link set "p$(node_number "$1")" nomaster; }
link_up() { ip -n "$ID-sw" link set "p$(node_number "$1")" master br0; }

mounted() { grep -q " $TMP/$1/mnt fuse" /proc/self/mounts; }
gone() { ! kill -0 "$1" 2>/dev/null; }
answers() { tfs "$1" status --json; }

# node_start NODE [ARG…]: in the foreground of a background job, its log in $TMP/NODE/log; ready when the mount is there and it answers.
node_start() {
	local n=$1 pid
	shift
	! mounted "$n" || umount -l "$TMP/$n/mnt"
	nsenter --net="/run/netns/$ID-$n" -- env TANDEMFS_CONF_DIR="$TMP/$n/etc" ASAN_OPTIONS="$DAEMON_ASAN" ${DAEMON_ENV:-} \
		"$TANDEMFS" mount --foreground "$@" "$VOLUME" >>"$TMP/$n/log" 2>&1 &
	pid=$!
	disown "$pid"
	echo "$pid" >"$TMP/$n/pid"
	wait_for 20 node_ready "$n" "$pid" || return 1
	mounted "$n"
}
node_ready() {
	gone "$2" && return 0
	mounted "$1" && answers "$1"
}
node_stop() {
	local pid
	pid=$(node_pid "$1")
	tfs "$1" umount && wait_for 20 gone "$pid"
}
node_kill() {
	local pid
	pid=$(node_pid "$1")
	kill_hard "$pid"
	wait_for 10 gone "$pid"
}

level() { # PRIMARY NODE
	[ "$(status "$1" ".peers[] | select(.name == \"$2\") | .state")" = level ]
}

lab_up() {
	local first=${NODES[0]} n
	tfs "$first" init >/dev/null && node_start "$first" && tfs "$first" promote >/dev/null || return 1
	for n in "${NODES[@]:1}"; do
		tfs "$n" init --join "$first" >/dev/null && node_start "$n" || return 1
	done
	for n in "${NODES[@]:1}"; do
		wait_for 30 level "$first" "$n" || return 1
	done
}

# come_back NODE PRIMARY: a node that was killed mounts again, discards what only it has, and becomes level.
come_back() {
	node_start "$1" && tfs "$1" resync --discard-local >/dev/null && wait_for 60 level "$2" "$1"
}

is_primary() { [ "$(status "$1" .role)" = primary ]; }

# Ends a test: under sanitizers the daemons are stopped in order first, so that leaks are told; nothing of theirs may be in the logs.
tap_end() {
	local n
	for n in "${NODES[@]}"; do
		case $O in *san) gone "$(node_pid "$n")" || check "$n ends in order" node_stop "$n" ;; esac
		if grep -qsE 'Sanitizer|runtime error:|Assertion' "$TMP/$n/log"; then
			not_ok "$n's log has no report of a sanitizer or an assertion" \
				"$(grep -sE -A 20 'Sanitizer|runtime error:|Assertion' "$TMP/$n/log" | head -n 40)"
		fi
	done
	echo "1..$TAP_COUNT"
	[ "$TAP_FAILED" = 0 ]
}

# The usual beginning of a test; ends it when even that fails.
lab_or_die() {
	if lab "$@" && lab_up; then
		ok "the nodes are up and level"
		return
	fi
	not_ok "the nodes are up and level" "$(for n in "${NODES[@]}"; do
		echo "-- $n"
		tfs "$n" status 2>&1 | head -20
		tail -n 15 "$TMP/$n/log"
	done)"
	tap_end
	exit 1
}

drained() { # PRIMARY STANDBY
	local a b
	a=$(status "$1" '"\(.epoch) \(.lsn)"')
	b=$(status "$2" '"\(.epoch) \(.lsn)"')
	[ -n "$a" ] && [ "$a" = "$b" ] && [ "$(status "$1" ".peers[] | select(.name == \"$2\") | \"\(.state) \(.lag_ops)\"")" = "level 0" ]
}
settle() { wait_for "${SETTLE_LIMIT:-60}" drained "$1" "$2"; }

# trees_equal NAME A B: A is the primary.
trees_equal() {
	local name=$1 a=$2 b=$3
	if settle "$a" "$b"; then
		ok "$name: $b has everything that $a has (LSN $(status "$b" .lsn))"
	else
		not_ok "$name: $b has everything that $a has" "$(tfs "$a" status; tfs "$b" status)"
	fi
	check "$name: the mounts are equal" "$TOOLS/cmptree" --ino --ctime --order --limit 20 "$(mnt "$a")" "$(mnt "$b")"
	check "$name: the backing directories are equal" "$TOOLS/cmptree" --backing --limit 20 ${TREES_HOLES---holes=262144} "$(back "$a")" "$(back "$b")"
}

# A value for CI, another for `make check LONG=1`.
short_or_long() { if [ -n "${LONG:-}" ]; then echo "$2"; else echo "$1"; fi; }
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
