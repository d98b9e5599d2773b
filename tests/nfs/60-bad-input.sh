#!/bin/bash
# What bad input gets from a daemon that serves: each wrong call its error or a closed connection; and thousands of connections that say nothing, never stop talking, never finish a
# record, or never read: while all of them are there a well-behaved client works on without an error, new ones get in, the daemon can be asked, and its memory stays bounded.
# limit: 600
. "$(cd "$(dirname "$0")" && pwd)/nfs.sh"
BAD=10.77.0.66
LOAD=$(short_or_long 1 2)
lab_or_die alpha:ext4
nfs_client_up && ip -n "$ID-client" addr add $BAD/24 dev eth0 || exit 1
sysctl_there() { in_client sh -c "echo '10000 65000' >/proc/sys/net/ipv4/ip_local_port_range"; }
sysctl_there
PID=$(node_pid alpha)
HOST=$(address alpha)
rss_mib() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$PID/status"; }
peak_mib() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$PID/status"; }
rounds() { awk '{ print $1; exit }' "$TMP/progress" 2>/dev/null; }
further() { [ "$(rounds)" -ge $((${1:-0} + 3)) ]; }
bad() { in_client "$TOOLS/nfsbad" $BAD "$HOST" 2049 "$@"; }
begin() { # KIND N ARG…: in the background; its process is in BAD_PIDS
	nsenter --net="/run/netns/$ID-client" -- "$TOOLS/nfsbad" $BAD "$HOST" 2049 "$@" >"$TMP/$1" 2>&1 &
	BAD_PIDS+=($!)
}
ready() { grep -qs ready "$TMP/$1"; }
end_all() {
	kill "${BAD_PIDS[@]}" 2>/dev/null
	wait "${BAD_PIDS[@]}" 2>/dev/null
	BAD_PIDS=()
}
BAD_PIDS=()
check "the server answers" wait_for 20 nfs_serves alpha

is "every wrong call gets its error, and nobody else notices" "$(bad calls / 2>&1 | sed '$s/^[0-9]* calls, //')" "0 wrong"
is "forged and foreign handles are counted" "$([ "$(status alpha '.nfs.refused_handles')" -ge 6 ] && echo yes)" yes

dd if=/dev/zero of="$(mnt alpha)/big" bs=1M count=2 status=none
nsenter --net="/run/netns/$ID-client" -- "$TOOLS/nfsuser" "$HOST" 2049 / good "$TMP/progress" >"$TMP/good" 2>&1 &
good=$!
check "a well-behaved client works" wait_for 30 further 0

# alone, then all of them together
among() { # NAME
	local name=$1 before
	before=$(rounds)
	check "$name: the well-behaved one goes on" wait_for 120 further "$before"
	check "$name: a new client gets in" nc alpha stat big
	check "$name: the daemon can be asked" status alpha .role
}
begin silent 10000
check "10,000 connections that say nothing" wait_for 120 ready silent
among "beside them"
memory=$(rss_mib)
case $O in *san) skip "memory" "sanitizers take more" ;; *) is "memory beside them is below 128 MiB ($memory)" "$([ "$memory" -lt 128 ] && echo yes)" yes ;; esac
end_all
for kind in busy torn; do
	begin $kind $((5000 * LOAD))
	check "thousands of connections: $kind" wait_for 120 ready $kind
	among "$kind"
	end_all
done
begin deaf 300 / big
check "300 connections that ask for much and never read" wait_for 120 ready deaf
among "deaf"
end_all
for kind in silent busy torn; do begin $kind 3500; done
begin deaf 200 / big
for kind in silent busy torn deaf; do check "all together: $kind" wait_for 120 ready $kind; done
among "all together"
memory=$(peak_mib)
case $O in *san) skip "memory" "sanitizers take more" ;; *) is "memory was below 512 MiB at all times ($memory)" "$([ "$memory" -lt 512 ] && echo yes)" yes ;; esac
end_all
before=$(rounds)
check "afterwards the well-behaved one goes on" wait_for 60 further "$before"
few() { [ "$(status alpha '.nfs.connections')" -lt 50 ]; }
check "and the connections are gone" wait_for 60 few
kill "$good"
wait "$good"
is "it had no error" "$? $(grep -v '^nfsuser: [0-9]* operations' "$TMP/good" | grep -c after)" "0 0"
check_fails "the daemon never died" gone "$PID"
tap_end
