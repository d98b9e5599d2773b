# What the tests of the NFS server share: sourced instead of tests/lib.sh, by tests that are run as root from anywhere; bash.
#
#   nfs_options [LINE…]      sets LAB_OPTIONS: lines of [volume], then an NFS server on port 2049 and one export of everything, read-write, for 10.77.0.0/24
#   nfs_client_up            a client's machine beside the nodes: namespace, address 10.77.0.50
#   in_client COMMAND…       runs there
#   address NODE             10.77.0.N
#   nc NODE COMMAND…         nfsclient to that node, as uid 0; NC_OPTIONS
#   nfs_serves NODE          the node's NFS server answers
TEST_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/lib.sh
. "$TEST_DIR/../lib.sh"
NC=$TOOLS/nfsclient

nfs_options() {
	LAB_OPTIONS=$(
		printf '%s\n' "$@"
		cat <<-E
			fence_peer = none
			[nfs]
			listen = [::]:2049
			rpcbind = no
			[export all]
			path = /
			clients = 10.77.0.0/24
			access = rw
			squash = none
			secure = no
		E
	)
	export LAB_OPTIONS
}
nfs_options
nfs_client_up() {
	ip netns add "$ID-client" &&
		ip -n "$ID-client" link set lo up &&
		ip -n "$ID-client" link add eth0 type veth peer name pc netns "$ID-sw" &&
		ip -n "$ID-sw" link set pc master br0 up &&
		ip -n "$ID-client" addr add 10.77.0.50/24 dev eth0 &&
		ip -n "$ID-client" link set eth0 up
}
nfs_client_down() { ip netns del "$ID-client" 2>/dev/null; }
lab_extra_cleanup() { nfs_client_down; }
in_client() { nsenter --net="/run/netns/$ID-client" -- "$@"; }
address() { echo "10.77.0.$(node_number "$1")"; }
nc() { # NODE COMMAND…
	local host
	host=$(address "$1")
	shift
	# shellcheck disable=SC2086
	in_client timeout "${NC_LIMIT:-60}" "$NC" ${NC_OPTIONS:-} "$host" "${NC_EXPORT:-/}" "$@"
}
nfs_serves() { nc "$1" null; }
