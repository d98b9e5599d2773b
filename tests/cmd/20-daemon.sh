#!/bin/bash
# One node, its daemon and the command: mount, status, handles, control socket, second daemons, restarts, an orderly and a rough end.
# asan
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/tap.sh"
cd "$top" || exit 1
O=${O:-build}
case $O in /*) ;; *) O=$top/$O ;; esac
BIN=${TANDEMFS:-$O/tandemfs}
if [ "$(id -u)" != 0 ]; then skip "the daemon" "needs root"; tap_end; exit; fi
TMP=$(mktemp -d /tmp/daemon.XXXXXX)
M=$TMP/m
cleanup() {
	timeout 20 "$BIN" umount --force home >/dev/null 2>&1
	umount -l "$M" 2>/dev/null
	umount "$TMP/b" 2>/dev/null
	rm -rf "$TMP"
}
trap cleanup EXIT
trap 'exit 143' INT TERM
mkdir -p "$TMP/b" "$TMP/conf" "$M"
truncate -s 64M "$TMP/img"
mkfs.ext4 -q -F "$TMP/img"
mount -o loop "$TMP/img" "$TMP/b" || { skip "the daemon" "no loop mounts here"; tap_end; exit; }
mkdir "$TMP/b/data" "$TMP/b/data/d" && echo old >"$TMP/b/data/d/old" && ln "$TMP/b/data/d/old" "$TMP/b/data/hard"
export TANDEMFS_CONF_DIR=$TMP/conf TANDEMFS_NODE=alpha
cat >"$TMP/conf/home.conf" <<CONF
[volume]
backing = $TMP/b/data
mount_point = $M
state_dir = $TMP/state
control_socket = $TMP/sock
state_hook = $TMP/hook
[node alpha]
number = 1
CONF
printf '#!/bin/sh\necho "$@" >>%s/hooked\n' "$TMP" >"$TMP/hook"
chmod +x "$TMP/hook"
t() { timeout -k 5 60 "$BIN" "$@"; }
fails_with() { # NAME PATTERN ARGUMENTS...
	local name=$1 pattern=$2 out
	shift 2
	if out=$(t "$@" 2>&1); then not_ok "$name" "it succeeded: $out"; return; fi
	if echo "$out" | grep -qE -- "$pattern"; then ok "$name"; else not_ok "$name" "wanted: $pattern
$out"; fi
}

check "init adopts what is there" t init home
check "mount in the background returns when there is a mount" t mount home
check "it is mounted" mountpoint -q "$M"
is "what was there is there" "$(cat "$M/d/old" "$M/hard" 2>&1)" "old
old"
is "a standby is read-only" "$(touch "$M/x" 2>&1 | grep -c 'Read-only')" 1
is "the control socket is private" "$(stat -c %a "$TMP/sock")" 600
fails_with "a second daemon is refused" "in use by another tandemfs process|daemon" mount home
fails_with "init of a mounted volume is refused" "already" init home
check "promote" t promote home
check "promote again does nothing" t promote home
check "now it can be written" sh -c "echo new >$M/new && sync $M/new"
is "status says so first" "$(t status home | head -n 1)" "OK: home: primary on alpha: has no peers"
is "status --check" "$(t status --check home; echo $?)" "OK: home: primary on alpha: has no peers
0"
is "status --json is JSON" "$(t status --json home | jq -r '.role, .node, .number, (.epoch.reign | type), (.lsn | type), (.peers | length)' | tr '\n' ' ')" \
	"primary alpha 1 string string 0 "

id=$(stat -c %i "$M/d/old")
out=$(t handle home "$M/d/old")
is "handle: path to id" "$(echo "$out" | sed -n 's/^id //p')" "$id"
bytes=$(echo "$out" | sed -n 's/^bytes //p')
is "handle: the bytes are the kernel's" "$(t handle home "$id" | sed -n 's/^bytes //p')" "$bytes"
is "handle: bytes to id" "$(t handle home "$bytes" | sed -n 's/^id //p')" "$id"
case $(t handle home "$id" | sed -n 's/^path //p') in "$M/d/old" | "$M/hard") ok "handle: id to path" ;; *) not_ok "handle: id to path" "$(t handle home "$id" 2>&1)" ;; esac
fails_with "handle: an unknown id" "handle: 4503599627370495" handle home 4503599627370495
fails_with "handle: a path outside" "outside the volume" handle home /etc/passwd

exec 7>"$M/open"
fails_with "demote refuses while a file is open for writing" "open for writing" demote home
fails_with "umount refuses while a file is open" "busy|in use|open" umount home
is "and nothing happened" "$(t status --json home | jq -r .role)" primary
exec 7>&-
check "demote" t demote home
is "it is read-only again" "$(touch "$M/x" 2>&1 | grep -c 'Read-only')" 1
check "promote after demote" t promote home
check "umount" t umount home
check "it is not mounted any more" sh -c "! mountpoint -q $M"
is "the socket is gone" "$(ls "$TMP/sock" 2>/dev/null)" ""
is "the data are plain files" "$(cat "$TMP/b/data/new" "$TMP/b/data/d/old")" "new
old"
check "the state hook was called" test -s "$TMP/hooked"

printf '[nfs]\nlisten = 127.0.0.1:17428\nrpcbind = no\n' >>"$TMP/conf/home.conf"
is "check-config says that nothing is exported" "$(t check-config home | head -n 1 | cut -d: -f1)" "nothing is exported"
check "mount after an orderly end" t mount home
is "the same id" "$(stat -c %i "$M/d/old")" "$id"
check "status says that nothing is exported" sh -c "'$BIN' status home | grep -q '^  nfs .*127.0.0.1:17428, nothing is exported'"
printf '[export all]\nclients = 127.0.0.0/8\n[export pub]\npath = /pub\nclients = *\n' >>"$TMP/conf/home.conf"
is "reload" "$(t reload home)" "2 exports in force"
is "status counts them" "$(t status --json home | jq -r .nfs.exports)" 2
sed -i 's/^\[volume\]/&\nthreads = 7\nqueue = 32MiB/; s|^clients = \*|&, 10.0.0.1/8|' "$TMP/conf/home.conf"
fails_with "reload of a file with a mistake" "10.0.0.0/8 for the network" reload home
sed -i '/^path = .pub/d; /^clients = \*/d; /^.export pub/d' "$TMP/conf/home.conf"
is "the exports before stay in force" "$(t status --json home | jq -r .nfs.exports)" 2
is "reload says what else has changed" "$(t reload home)" "1 exports in force; only after a restart: [volume] queue, [volume] threads"
is "it starts as standby" "$(t status --json home | jq -r .role)" standby
check "promote" t promote home
echo before >"$M/before" && sync "$M/before"
pid=$(t status --json home | jq -r '.pid // empty')
[ -n "$pid" ] || pid=$(fuser "$TMP/state/lock" 2>/dev/null | tr -d ' ')
kill -9 "$pid"
tail --pid="$pid" -f /dev/null
is "status of a killed daemon is critical" "$(t status --check home >/dev/null; echo $?)" 2
check "mount after a kill, over the dead mount" t mount home
is "nothing synced is lost" "$(cat "$M/before" "$M/d/old")" "before
old"
is "still the same id" "$(stat -c %i "$M/d/old")" "$id"
pid=$(t status --json home | jq -r .pid)
kill -9 "$pid"
tail --pid="$pid" -f /dev/null
is "umount removes the mount that a killed daemon left" "$(t umount home)" "home: its daemon had died: the mount that it left at $M is removed"
fails_with "a second umount finds nothing" "nothing to unmount" umount home
check "mount after that" t mount home
check "promote after a kill" t promote home
check "umount" t umount home

sed -i 's/^state_hook.*/start_as = last/' "$TMP/conf/home.conf"
"$BIN" mount -f home 2>"$TMP/log" &
daemon=$!
check "start_as = last resumes as primary" timeout 20 bash -c "until [ \"\$('$BIN' status --json home 2>/dev/null | jq -r .role)\" = primary ]; do :; done"
kill -TERM $daemon
wait $daemon
is "a daemon in the foreground ends in order at SIGTERM" $? 0
check "and unmounts" sh -c "! mountpoint -q $M"
touch "$TMP/notdir"
sed -i "s|^mount_point.*|mount_point = $TMP/notdir|" "$TMP/conf/home.conf"
fails_with "a mount point that is a file" "$TMP/notdir" mount home
sed -i "s|^mount_point.*|mount_point = $TMP/nowhere|" "$TMP/conf/home.conf"
fails_with "a mount point that isn't there" "$TMP/nowhere" mount home
sed -i "s|^mount_point.*|mount_point = $M|; s/^\[volume\]/&\nfence_peer = none\nsecurity = none/; s/^\[node alpha\]/&\naddress = 192.0.2.99:7400/" "$TMP/conf/home.conf"
printf '[node beta]\nnumber = 2\naddress = 192.0.2.98:7400\n' >>"$TMP/conf/home.conf"
fails_with "an address of another machine" "hasn't that address" mount home
check "a failed start leaves no mount" sh -c "! grep -q ' $M ' /proc/mounts"
tap_end
