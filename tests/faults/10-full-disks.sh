#!/bin/bash
# limit: 200
# A full standby: the caller gets ENOSPC before the standby does, statfs shows the smaller file system, the nodes stay level and equal, and room that
# is made is used again. A full primary likewise.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha)
avail_mib() { df -m --output=avail "$1" | tail -n 1 | tr -d ' '; }
fill() { # MOUNT: writes files of 4 MiB until it can't; its error
	local i=0
	while [ $i -lt 400 ]; do
		i=$((i + 1))
		{ head -c 4194304 /dev/urandom >"$1/fill$i"; } 2>"$TMP/fill-err" || break
		sync "$1/fill$i" || break
	done
	grep -o 'No space left on device' "$TMP/fill-err" | head -n 1
}

# beta's file system loses most of its room to something else
fallocate -l $(($(avail_mib "$TMP/beta/fs") - 100))M "$TMP/beta/fs/other"
smaller() { [ "$(avail_mib "$A")" -le 100 ]; }
check "statfs of the primary shows the standby's room" wait_for 5 smaller
is "the writer gets ENOSPC" "$(fill "$A")" "No space left on device"
check "the standby stays level" level alpha beta
trees_equal "with a full standby" alpha beta
used=$(find "$A" -name 'fill*' | wc -l)
if [ "$used" -ge 10 ]; then ok "most of the room was used ($used files of 4 MiB)"; else not_ok "most of the room was used" "$used files"; fi
check "removing works on a full volume" rm "$A"/fill1 "$A"/fill2 "$A"/fill3 "$A"/fill4 "$A"/fill5 "$A"/fill6
again() { head -c 4194304 /dev/zero >"$A/again"; }
check "the room is used again" wait_for 10 again
trees_equal "after that" alpha beta

rm -f "$TMP/beta/fs/other" "$A"/fill* "$A"/again
fallocate -l $(($(avail_mib "$TMP/alpha/fs") - 60))M "$TMP/alpha/fs/other"
is "a full primary: ENOSPC" "$(fill "$A")" "No space left on device"
check "level" level alpha beta
trees_equal "with a full primary" alpha beta
check "nobody was compared again for it" [ "$(grep -c 'full comparison begins' "$TMP/alpha/log")" = 1 ]
tap_end
