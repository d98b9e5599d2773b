#!/bin/bash
# limit: 400
# Other NFS servers above the mount, configured by `tandemfs export`: the kernel's, and NFS-Ganesha over fuseblk. The same handles on both nodes; clients (v3 and v4.1)
# with open files go on when the primary is lost. Each in a guest of its own, both at once, since they mostly wait for grace periods.
. "$(dirname "$0")/guest.sh"
guest_or_skip
TMP=$(mktemp -d "${TMPDIR:-/tmp}/tandemfs-test.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$TMP"' EXIT
trap 'exit 143' INT TERM
for server in knfsd ganesha; do
	(
		SERVER=$server run_in_guest "$TOP/tests/guest/servers.guest" -m 768M -T 380 >"$TMP/$server" 2>&1
		echo $? >"$TMP/$server.status"
	) &
done
wait
result() {
	sed "s/^\(ok\|not ok\) [0-9]* - /\1 - $1: /" "$TMP/$1"
	return "$(cat "$TMP/$1.status")"
}
tap_from result knfsd
tap_from result ganesha
tap_end
