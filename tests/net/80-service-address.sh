#!/bin/bash
# limit: 300
# asan
# The service address goes where the primary is, IPv4 and IPv6: clients' neighbour entries follow, their idle connections are reset by the new server; an address that
# somebody else has is not taken, and said; a daemon that dies by SIGKILL loses it before a client hears of its death.
. "$(cd "$(dirname "$0")/../nfs" && pwd)/nfs.sh"
V4=10.77.0.100 V6=fd77::100
nfs_options "service_address = $V4/24 dev eth0, $V6/64 dev eth0"
LAB_OPTIONS=${LAB_OPTIONS/clients = /clients = fd77::/64, }
guardians() { pgrep -P "$(node_pid "$1")" -x tandemfs-guard; }
lab_extra_cleanup() {
	# shellcheck disable=SC2046
	kill -9 $(cat "$TMP"/*.clients)
	ip netns del "$ID-client"
	ip netns del "$ID-thief"
}
switchover() { in_node "$1" timeout 60 "$TANDEMFS" switchover "$VOLUME"; }
has() { [ "$(ip -n "$ID-$1" -o addr show dev eth0 to "$2" | wc -l)" = 1 ]; }
has_both() { has "$1" "$V4" && has "$1" "$V6"; }
has_none() { ! has "$1" "$V4" && ! has "$1" "$V6"; }
held() { [ "$(status "$1" '[.service[].held] | tostring')" = "[$2,$2]" ]; }
mac() { cat < <(ip -n "$ID-$1" -o link show eth0) | sed 's/.*ether \([^ ]*\).*/\1/'; }
neighbour_is() { in_client ip neigh show "$1" | grep -q "$(mac "$2")"; }
# idle ADDRESS OUT: a client that is connected and waits: what ends its connection is in OUT.
idle() {
	rm -f "$2"
	in_client python3 - "$1" "$2" >"$2.log" 2>&1 <<-'P' &
		import os, signal, socket, sys
		signal.alarm(120)
		s = socket.create_connection((sys.argv[1], 2049))
		# one NULL call, so that both ends know that all is well
		s.sendall(bytes.fromhex("80000028" "00000001" "00000000" "00000002" "000186a3" "00000003" "00000000" "00000000" "00000000" "00000000" "00000000"))
		assert len(s.recv(100)) == 28
		def say(what):
		    with open(sys.argv[2] + "~", "w") as f: f.write(what)
		    os.rename(sys.argv[2] + "~", sys.argv[2])
		say("connected")
		try:
		    say("closed" if not s.recv(1) else "data")
		except OSError as e:
		    say(e.strerror)
	P
	echo $! >>"$TMP/idle.clients"
	wait_for 20 grep -qs connected "$2"
}
idle_both() { idle "$V4" "$TMP/idle4" && idle "$V6" "$TMP/idle6"; }
says() { grep -qs "$1" "$2"; }
# STANDBY PRIMARY: knows the same connections; the news take a moment.
knows_clients() { [ "$(status "$2" .nfs.clients)" -ge 2 ] && [ "$(status "$1" .nfs.clients)" = "$(status "$2" .nfs.clients)" ]; }

lab_or_die alpha:ext4 beta:ext4
check "a client's machine" nfs_client_up
ip -n "$ID-client" addr add fd77::50/64 dev eth0 nodad
check "the primary has both addresses" wait_for 10 has_both alpha
check "the standby has none" has_none beta
check "status says so on the primary" held alpha true
check "... and on the standby" held beta false
check "each daemon has a guardian" guardians beta

check "clients connect through the addresses" idle_both
check "the standby knows them" wait_for 20 knows_clients beta alpha
check "another connects at the last moment" idle "$V4" "$TMP/late4"
check "switchover" switchover alpha
check "the new primary has both addresses" wait_for 10 has_both beta
check "the old one has none" has_none alpha
check "the client's neighbour entry follows (IPv4)" wait_for 10 neighbour_is "$V4" beta
check "the client's neighbour entry follows (IPv6)" wait_for 10 neighbour_is "$V6" beta
check "the idle connection is reset (IPv4)" wait_for 20 says "reset by peer" "$TMP/idle4"
check "the idle connection is reset (IPv6)" wait_for 20 says "reset by peer" "$TMP/idle6"
check "... and the latest" wait_for 20 says "reset by peer" "$TMP/late4"
check "the new primary answers at once (IPv4)" idle "$V4" "$TMP/idle4"
check "the new primary answers at once (IPv6)" idle "$V6" "$TMP/idle6"

check "the old primary is level" wait_for 30 level beta alpha
check "... and knows the clients" wait_for 20 knows_clients alpha beta
in_client timeout 60 tcpdump -n -i eth0 -l "(src host $V4 or src host $V6) and tcp port 2049" >"$TMP/heard" 2>"$TMP/tcpdump" &
check "a listener" wait_for 10 says "listening on" "$TMP/tcpdump"
guard=$(guardians beta)
node_kill beta
check "SIGKILL: the addresses are away" wait_for 10 has_none beta
check "the guardian has ended" wait_for 10 gone "$guard"
check "the clients have not heard of it" grep -c connected "$TMP/idle4" "$TMP/idle6"
check_fails "no segment said it" grep -E 'Flags \[[FR]' "$TMP/heard"
check "promotion of the other" tfs alpha promote --fenced
check "it has the addresses" has_both alpha
check "their connections are reset now (IPv4)" wait_for 20 says "reset by peer" "$TMP/idle4"
check "their connections are reset now (IPv6)" wait_for 20 says "reset by peer" "$TMP/idle6"
check "the killed node returns" come_back beta alpha

guard=$(guardians alpha)
kill -9 "$guard"
node_kill alpha
check "without a guardian the addresses stay" has_both alpha
check "the daemon starts" node_start alpha
check "and removes what was left" has_none alpha

ip netns add "$ID-thief" && ip -n "$ID-thief" link add eth0 type veth peer name pt netns "$ID-sw" && ip -n "$ID-sw" link set pt master br0 up
ip -n "$ID-thief" link set eth0 up
ip -n "$ID-thief" addr add "$V4/24" dev eth0
ip -n "$ID-thief" addr add "$V6/64" dev eth0 nodad
check "promotion while another machine has the addresses" tfs beta promote --fenced
check "they are not taken" has_none beta
check "status names who has them" says "$(mac thief)" <(status beta '.service[].trouble')
check "it is critical" [ "$(tfs beta status --check >/dev/null; echo $?)" = 2 ]
ip -n "$ID-thief" addr del "$V4/24" dev eth0
ip -n "$ID-thief" addr del "$V6/64" dev eth0
check "they are taken when they are free" wait_for 20 has_both beta
check "all is well then" wait_for 20 held beta true
ip -n "$ID-beta" addr del "$V4/24" dev eth0
ip -n "$ID-beta" addr del "$V6/64" dev eth0
check "what somebody takes away is taken again" wait_for 20 has_both beta

check "alpha gives its versions up" tfs alpha resync --discard-local
check "alpha follows" wait_for 30 level beta alpha
check "demote" tfs beta demote
check "a demoted node has none" has_none beta
check "promotion of alpha" tfs alpha promote
guard=$(guardians alpha)
check "alpha has them" has_both alpha
check "a clean stop" node_stop alpha
check "takes them away" has_none alpha
check "its guardian ends with it" gone "$guard"
tap_end
