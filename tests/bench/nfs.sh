# The NFS server's measures, sourced by bench.sh: the product's against NFS-Ganesha (VFS on a file system of the same kind), the same client, both over a
# loopback interface; with a standby against without. Measures whose names end in _cpu are the server's CPU time (less is better).
NFS_SERVICE=10.77.0.100
NFS_OPTIONS="service_address = $NFS_SERVICE/24 dev eth0
fence_peer = none
[nfs]
listen = [::]:2049
rpcbind = no
[export all]
path = /
clients = *
access = rw
squash = none
secure = no"
NFS_ENTRIES=${NFS_ENTRIES:-20000}
NFS_MIB=${NFS_MIB:-512}
NFS_RATES="getattr_1 getattr_4 lookup create remove readdirplus"
NFS_DATA="nfs_read nfs_write nfs_read_cpu nfs_write_cpu"

nfs_wanted() {
	local m
	for m in $NFS_RATES create_16 memory; do ! wanted "nfs_$m" || return 0; done
	# shellcheck disable=SC2086
	wanted $NFS_DATA
}

GANESHA_PID=
ganesha_up() {
	local dir=$TMP/ganesha
	mkdir -p "$dir" "$TMP/native.fs/export"
	ip netns add "$ID-ganesha" && ip -n "$ID-ganesha" link set lo up || return 1
	cat >"$dir/conf" <<-E
		NFS_CORE_PARAM { NFS_Protocols = 3; Enable_RQUOTA = false; Enable_UDP = false; NFS_Port = 2049; MNT_Port = 2050; NLM_Port = 2051; }
		EXPORT_DEFAULTS { Squash = none; SecType = sys; Access_Type = RW; Protocols = 3; Transports = TCP; }
		EXPORT { Export_Id = 1; Path = $TMP/native.fs/export; Pseudo = /; FSAL { Name = VFS; } }
	E
	# It wants an rpcbind, and both want /run to themselves.
	nsenter --net="/run/netns/$ID-ganesha" -- unshare -m bash -c "
		mount -t tmpfs t /run && mkdir -p /run/rpcbind /run/ganesha && mkdir -p /var/lib/nfs && mount -t tmpfs t /var/lib/nfs
		rpcbind -w -f & echo \$! >$dir/rpcbind.pid
		exec ganesha.nfsd -F -f $dir/conf -L $dir/log -p $dir/pid -N EVENT" >"$dir/out" 2>&1 &
	disown $!
	wait_for 30 test -s "$dir/pid" || return 1
	GANESHA_PID=$(cat "$dir/pid")
	wait_for 30 nsenter --net="/run/netns/$ID-ganesha" -- timeout 5 "$TOOLS/nfsclient" -m 2050 127.0.0.1 "$TMP/native.fs/export" null
}
ganesha_down() {
	kill_hard "$GANESHA_PID"
	kill_hard "$(cat "$TMP/ganesha/rpcbind.pid" 2>/dev/null)"
	ip netns del "$ID-ganesha"
} 2>/dev/null

nfsload() { # CONTESTANT ARG…: the load tool on one of them
	case $1 in
	ganesha) shift && nsenter --net="/run/netns/$ID-ganesha" -- "$TOOLS/nfsload" -s "$GANESHA_PID" -m 2050 "${@:1:$#-LOAD_OPS}" 127.0.0.1 "$TMP/native.fs/export" "${@:$#-LOAD_OPS+1}" ;;
	*) shift && in_node alpha "$TOOLS/nfsload" -s "$(node_pid alpha)" "${@:1:$#-LOAD_OPS}" 127.0.0.1 / "${@:$#-LOAD_OPS+1}" ;;
	esac || die "nfsload $*: $(tail -n 5 "$TMP/ganesha/log")"
}
load() { # CONTESTANT SUFFIX OPTIONS OP COUNT…: lines nfs_OP_SUFFIX
	local c=$1 suffix=$2 options=$3
	shift 3
	# shellcheck disable=SC2086
	LOAD_OPS=$# nfsload "$c" $options "$@" | sed "s/^\([a-z]*\)\(_cpu\)\{0,1\}	/nfs_\1$suffix\2	/" | take "$c"
}
nfs_measure() { # CONTESTANT
	if wanted nfs_getattr_1; then load "$1" _1 "-c 1 -k 32" getattr 200000; fi
	if wanted nfs_getattr_4; then load "$1" _4 "-c 4 -k 32" getattr 200000; fi
	if wanted nfs_lookup nfs_create nfs_remove nfs_readdirplus; then
		load "$1" "" "-c 1 -k 16" create "$NFS_ENTRIES" lookup 100000 readdirplus 10 remove "$NFS_ENTRIES"
	fi
	if wanted nfs_create_16; then load "$1" _16 "-c 16 -k 1" create 16000 remove 16000; fi
	# shellcheck disable=SC2086
	if wanted $NFS_DATA; then load "$1" "" "-c 1 -k 8" write "$NFS_MIB" read "$NFS_MIB"; fi
}

# Without a standby, beside Ganesha.
nfs_alone() {
	local m
	nfs_wanted || return 0
	ganesha_up || die "Ganesha does not come up: $(tail -n 5 "$TMP/ganesha/log" "$TMP/ganesha/out")"
	for _ in $(seq "$ROUNDS"); do
		nfs_measure ganesha
		nfs_measure alone
	done
	for m in $NFS_RATES; do row alone "nfs_$m" ganesha; done
	for m in $NFS_DATA; do row alone "$m" ganesha; done
	if wanted alone_nfs_memory; then
		load ganesha "" "" idle 1000
		load alone "" "" idle 1000
		row alone nfs_memory ganesha
	fi
	ganesha_down
}

# With a standby: against without, and against Ganesha.
nfs_pair() {
	nfs_wanted || return 0
	for _ in $(seq "$ROUNDS"); do nfs_measure pair; done
	for m in create_16 create remove write; do row pair "nfs_$m" alone; done
	for m in $NFS_RATES; do row pair "nfs_$m" ganesha; done
	! wanted pair_nfs_create_16 || proof
}

# The longest wait of a kernel client's write + fsync, in a virtual machine.
nfs_pauses() {
	local p=alpha s=beta t
	wanted pair_pause_switchover pair_pause_cut || return 0
	# shellcheck source=tests/guest/qemu.sh
	. "$TOP/tests/guest/qemu.sh"
	qemu_prepare "$O/qemu" || die "the virtual machine can't be made"
	pause_guest_up "$NFS_SERVICE" || die "the virtual machine does not come up"
	for _ in $(seq "$ROUNDS"); do
		printf 'pause_none\t%s\tms\n' "$(pause_of true || die "the client saw an error")" | take pair
		printf 'pause_switchover\t%s\tms\n' "$(pause_of tfs $p switchover || die "the client saw an error")" | take pair
		t=$p p=$s s=$t
		wait_for 60 level $p $s || die "$s is not level"
		printf 'pause_cut\t%s\tms\n' "$(pause_of cut_and_promote $p $s || die "the client saw an error")" | take pair
		t=$p p=$s s=$t
		node_kill $s
		link_up $s
		come_back $s $p || die "$s does not return"
	done
	pause_guest_down
	printf 'pair_pause_switchover\t%s\tms\t%s\tat most 100 ms (without a switchover: %s)\n' "$(median pair pause_switchover)" \
		"$(awk -v v="$(median pair pause_switchover)" 'BEGIN { printf "%.2f", 100 / v }')" "$(median pair pause_none)"
	printf 'pair_pause_cut\t%s\tms\t%s\tanother server with scripted takeover, elsewhere measured (336), at most 400\n' "$(median pair pause_cut)" \
		"$(awk -v v="$(median pair pause_cut)" 'BEGIN { printf "%.2f", 336 / v }')"
}
