# Sourced by scripts that run in a guest: nodes that are like machines, each with network, mounts, processes, /run and /etc/tandemfs of its own and the same paths. The
# guest's first network namespace is the clients': 10.77.0.9; the nodes are 10.77.0.1, .2, ...
# Before: TANDEMFS, TOOLS; NODE_OPTIONS and NODE_SECTIONS: lines for their configurations.
W=/mnt/w
for m in veth bridge fuse loop; do modprobe $m; done
mkdir -p $W
mkfifo $W/never
exec {NEVER}<>$W/never
ip link add br0 type bridge
ip addr add 10.77.0.9/24 dev br0
ip link set br0 up

wait_for() { # LIMIT_S COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		read -r -t 0.05 -u "$NEVER" || :
	done
}
on() { # NODE COMMAND...
	local pid
	pid=$(cat "$W/$1.ns")
	shift
	nsenter -t "$pid" -n -m -p -- env TANDEMFS_CONF_DIR=/var/tmp/etc "$@"
}
tfs() { # NODE COMMAND [ARG...]
	local n=$1 cmd=$2
	shift 2
	on "$n" timeout 60 "$TANDEMFS" "$cmd" "$@" vol
}

# A node is like a machine: its network, mounts, processes, /run, /etc/tandemfs are its own, and paths are the same on both.
make_node() { # NAME NUMBER
	local n=$1 i=$2
	unshare --net --mount --pid --fork --mount-proc --propagation private bash -c 'readlink /proc/self/ns/pid >/dev/null; exec sleep 1000' &
	wait_for 10 sh -c "pgrep -P $! -x sleep >$W/$n.ns"
	ip link add "p$i" type veth peer name eth0 netns "$(cat "$W/$n.ns")"
	ip link set "p$i" master br0 up
	on "$n" ip link set lo up
	on "$n" ip addr add "10.77.0.$i/24" dev eth0
	on "$n" ip link set eth0 up
	on "$n" sh -e -c '
		mkdir -p /tmp/root && mount --bind /run/root /tmp/root && mount -t tmpfs t /run
		mkdir -p /run/root /run/bin /run/rpcbind /run/ganesha /run/lock /run/tandemfs && mount --move /tmp/root /run/root
		for d in /var/tmp /var/lib/nfs /etc/exports.d /etc/nfs.conf.d /etc/ganesha /etc/tandemfs; do mount -t tmpfs t $d; done
		mkdir -p /var/tmp/fs /var/tmp/state /var/tmp/etc /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs
		mount -t tmpfs t /var/tmp/fs && mkdir /var/tmp/fs/data && touch /var/lib/nfs/etab /var/lib/nfs/rmtab
		rpcbind -w'
	on "$n" sh -c 'cat >/var/tmp/etc/vol.conf; [ ! -e /mnt/w/key ] || cp -p /mnt/w/key /var/tmp/etc/vol.key' <<-E
		[volume]
		backing = /var/tmp/fs/data
		state_dir = /var/tmp/state
		node = $n
		key_file = /var/tmp/etc/vol.key
		control_socket = /run/tandemfs/control
		fence_peer = none
		$NODE_OPTIONS
		[node alpha]
		number = 1
		address = 10.77.0.1:7400
		[node beta]
		number = 2
		address = 10.77.0.2:7400
		$NODE_SECTIONS
	E
}
start_node() {
	local n=$1
	on "$n" "$TANDEMFS" mount --foreground vol >>$W/"$n".log 2>&1 &
	wait_for 30 tfs "$n" status
}
level() { tfs "$1" status --json | grep -q '"state": *"level"'; }
drained() { tfs "$1" status --json | grep -q '"lag_ops": *0'; }
handle() { # PATH: its bytes
	local bytes
	read -r bytes _ < <("$TOOLS/fhandle" get "$1")
	echo "$bytes"
}

# The usual beginning: alpha is primary, beta a level standby. node_made NODE and alpha_up may be defined before.
node_made() { :; }
alpha_up() { :; }
pair_up() {
	make_node alpha 1
	node_made alpha
	check "alpha: a key" tfs alpha key --generate
	on alpha cat /var/tmp/etc/vol.key >$W/key
	chmod 600 $W/key
	make_node beta 2
	node_made beta
	check "alpha: init" tfs alpha init
	check "alpha: starts" start_node alpha
	check "alpha: promoted" tfs alpha promote
	alpha_up
	check "beta: joins" tfs beta init --join alpha
	check "beta: starts" start_node beta
	check "beta: level" wait_for 60 level alpha
}
