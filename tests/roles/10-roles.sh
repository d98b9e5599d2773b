#!/bin/bash
# limit: 300
# Promotion needs a reason; a demotion hands over; a clean stop records "outdated" and needs no hook; start_as = last resumes only what is safe.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
hook=$TMP/state-hook
printf '#!/bin/sh\necho "$@" >>%s\n' "$TMP/states" >"$hook"
chmod 755 "$hook"
export LAB_OPTIONS="start_as = last
state_hook = $hook"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
said() { grep -q "$1" "$TMP/out"; }
refused() { # NAME TEXT NODE COMMAND…: the command fails and says TEXT
	local name=$1 text=$2
	shift 2
	if tfs "$@" >"$TMP/out" 2>&1; then not_ok "$name: refused" "it succeeded"; else check "$name" said "$text"; fi
}
flag() { status "$1" '.flags | join(" ")' | grep -qw "$2"; }
lacks_flag() { ! flag "$@"; }

# ---- promotion ----
check "promote on a primary does nothing and succeeds" tfs alpha promote
refused "a standby whose primary lives is not promoted" "alpha is primary and alive" beta promote
check_fails "the standby refuses changes" touch "$B/x"
is "... with EROFS" "$(touch "$B/x" 2>&1 | grep -c 'Read-only file system')" 1
echo one >"$A/f" && sync "$A/f"

# ---- demotion ----
exec 7>"$A/held"
refused "a demotion is refused while files are open for writing" "open for writing" alpha demote
exec 7>&-
# a RELEASE comes a moment after the close
no_writers() { [ "$(status alpha .mount.open_writers)" = 0 ]; }
check "writers are counted down" wait_for 5 no_writers
check "a demotion hands over" tfs alpha demote
check_fails "a demoted node refuses changes" touch "$A/y"
check "its standby is promoted without --fenced" tfs beta promote
echo two >"$B/f" && sync "$B/f"
check "the old primary follows its successor by itself" wait_for 30 level beta alpha
trees_equal "after a handover" beta alpha
exec 8>"$B/held2"
check "--force demotes in spite of writers" tfs beta demote --force
is "... whose next write gets an error" "$( (echo x >&8) 2>&1 | grep -c 'Read-only file system')" 1
exec 8>&-
check "and back" tfs alpha promote
check "level again" wait_for 30 level alpha beta
trees_equal "after going back" alpha beta

# ---- clean stops ----
check "a standby stops" node_stop beta
alone() { [ "$(status alpha '.sync_set | join(" ")')" = alpha ]; }
check "the primary goes on alone" wait_for 10 alone
is "a clean stop leaves no risk behind" "$(status alpha '.risks[] | select(test("unfenced"))')" ""
echo three >"$A/g" && sync "$A/g"
check "the primary stops" node_stop alpha
check "the outdated standby starts" node_start beta
check "it knows that it is outdated" flag beta outdated
refused "it is not promoted" "outdated" beta promote --fenced
check "the last primary starts" node_start alpha
check "start_as = last: it resumes" wait_for 10 is_primary alpha
check "the standby becomes level" wait_for 30 level alpha beta
is "with what was written alone" "$(cat "$B/g")" three

# ---- killed primary, start_as = last ----
echo four >"$A/h" && sync "$A/h"
node_kill alpha
check "a killed primary starts" node_start alpha
check "it resumes: its standby has no newer epoch" wait_for 10 is_primary alpha
check "the standby follows" wait_for 30 level alpha beta
trees_equal "after the primary resumed" alpha beta
node_kill alpha
node_stop beta
node_start alpha
check "a killed primary whose standby doesn't answer waits" wait_for 3 lacks_flag alpha level
sleepless() { [ "$(status alpha .role)" = standby ]; }
check "... as a standby" sleepless
check "the standby returns" node_start beta
check "then it resumes" wait_for 10 is_primary alpha
check "and the standby is level" wait_for 30 level alpha beta
node_kill alpha
check "promote --fenced" tfs beta promote --fenced
node_start alpha
follows_not() { [ "$(status alpha .role)" = standby ] && flag alpha tail; }
check "a superseded primary does not resume" wait_for 10 follows_not
refused "nor is it promoted" "lacks\|outdated\|level\|answered" alpha promote
refused "a plain resync does not throw its versions away" "discard-local" alpha resync
check "resync --discard-local makes it follow" tfs alpha resync --discard-local
check "level" wait_for 30 level beta alpha
trees_equal "in the end" beta alpha
check "the state hook was told of roles" grep -q "^vol primary" "$TMP/states"
check "and of peers" grep -q "^vol peer-level beta" "$TMP/states"
tap_end
