#!/bin/bash
# limit: 200
# The fence hook: acknowledgements wait until the peer that is left behind is fenced; a failed hook is tried again, a hanging one killed; a promotion that can't stop
# the old primary changes nothing.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
hook=$TMP/fence
cat >"$hook" <<EOF
#!/bin/sh
echo "\$@" >>$TMP/fenced
case \$(cat $TMP/fence-mode) in
fail) exit 1 ;;
hang) exec tail -f /dev/null ;;
*) kill -9 \$(cat $TMP/\$2/pid) 2>/dev/null; exit 0 ;;
esac
EOF
chmod 755 "$hook"
echo fail >"$TMP/fence-mode"
export LAB_OPTIONS="fence_peer = $hook
fence_timeout = 1s"
lab_or_die alpha:ext4 beta:ext4
A=$(mnt alpha) B=$(mnt beta)
calls() { grep -c "$1" "$TMP/fenced" 2>/dev/null; }
called() { [ "$(calls "$1")" -ge "$2" ]; }

# ---- promotion ----
check_fails "a promotion whose hook fails is refused" tfs beta promote
check "the hook was asked to stop the old primary" called "stop alpha" 1
check "which is still primary" is_primary alpha
check "level still" wait_for 10 level alpha beta
echo hang >"$TMP/fence-mode"
check_fails "a hook that hangs is killed and counts as failed" tfs beta promote
echo fail >"$TMP/fence-mode"
check "level after that" wait_for 10 level alpha beta

# ---- leaving ----
link_down beta
( echo x >"$A/f"; sync "$A/f"; touch "$TMP/acknowledged" ) &
writer=$!
check "the hook is asked to outdate the standby" wait_for 10 called "outdate beta" 1
check "and again when it fails" wait_for 10 called "outdate beta" 3
check_fails "nothing is acknowledged meanwhile" test -e "$TMP/acknowledged"
is "the sync set is what it was" "$(status alpha '.sync_set | join(" ")')" "alpha beta"
echo ok >"$TMP/fence-mode"
check "when the hook succeeds, acknowledgements go on" wait_for 10 test -e "$TMP/acknowledged"
check "the writer got no error" wait "$writer"
is "the set is smaller" "$(status alpha '.sync_set | join(" ")')" alpha
check "the standby was really stopped" wait_for 20 gone "$(node_pid beta)"
check "it comes back" node_start beta
check_fails "not to be promoted" tfs beta promote --fenced
link_up beta
check "and becomes level" wait_for 30 level alpha beta
trees_equal "after a fence" alpha beta

# ---- a promotion with a hook that works ----
echo y >"$A/g" && sync "$A/g"
pid=$(node_pid alpha)
check "promote: the hook stops the old primary" tfs beta promote
check "it is dead" wait_for 20 gone "$pid"
is "what it acknowledged is here" "$(cat "$B/g")" y
check "changes go on" touch "$B/h"
tap_end
