#!/bin/bash
# Network locks: they and the mount's own exclude each other, are held across a switchover, and kill -9 with promotion (none lost, none held by two), and are given back after a
# start that could not know them.
LAB_GRACE=20s
. "$(dirname "$0")/nfs.sh"
LAB_OPTIONS=$(printf '%s\n' "$LAB_OPTIONS" | sed "s/^rpcbind = no/&\ngrace = $LAB_GRACE/")
lab_or_die
nfs_client_up && ip -n "$ID-client" addr add 10.77.0.51/24 dev eth0 && ip -n "$ID-client" addr add 10.77.0.52/24 dev eth0 || exit 1
A=$(mnt alpha)
NLMRAW=$TOOLS/nlmraw
HOSTS=$(address alpha),$(address beta)
raw() { # COMMAND ADDRESS FILE NAME ARG…
	local cmd=$1 addr=$2 file=$3 name=$4
	shift 4
	in_client timeout 300 "$NLMRAW" "$cmd" "$addr" "$HOSTS" 2049 / "$file" "$name" "$@"
}
touch "$A/mine" "$A/ours" "$A/held"
check "the server answers" wait_for 20 nfs_serves alpha

# -- the mount and NFS --
# A program on the mount: fcntl locks as it is told: "lock", "wait", "unlock"; says what came of it.
cat >"$TMP/program.py" <<'E'
import fcntl, sys
f = open(sys.argv[1], "r+")
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "unlock":
            fcntl.lockf(f, fcntl.LOCK_UN)
        else:
            fcntl.lockf(f, fcntl.LOCK_EX | (0 if word == "wait" else fcntl.LOCK_NB))
        print("ok", flush=True)
    except OSError as e:
        print("no", flush=True)
E
coproc PROGRAM { python3 "$TMP/program.py" "$A/mine"; }
PROGRAM_IN=${PROGRAM[1]} PROGRAM_OUT=${PROGRAM[0]} PID=$PROGRAM_PID
hears() { # NAME WANTED
	local line=
	read -r -t 60 -u "$PROGRAM_OUT" line
	is "$1" "$line" "$2"
}
tell() { echo "$1" >&"$PROGRAM_IN"; }
hears "a program opens a file on the mount" ready
tell lock
hears "it locks it" ok
is "NFS clients see the lock" "$(nc alpha lock mine 0 0 x one)" DENIED
tell unlock
hears "it unlocks" ok
is "an NFS client locks it" "$(nc alpha lock mine 10 5 x one)" ""
tell lock
hears "the program sees that lock" no
tell wait
is "another owner of the host doesn't get it" "$(nc alpha lock mine 10 5 x two)" DENIED
is "the client unlocks" "$(nc alpha unlock mine 10 5 one)" ""
hears "the program that waited has it" ok
is "and NFS clients don't" "$(nc alpha lock mine 10 5 x one)" DENIED

# -- across a switchover, and kill -9 with promotion --
mkfifo "$TMP/hold.in"
raw hold 10.77.0.50 held holder 300 <"$TMP/hold.in" >"$TMP/hold.out" 2>&1 &
HOLD=$!
exec {HOLD_IN}>"$TMP/hold.in"
says() { grep -q "^$2" "$TMP/$1"; }
check "a client holds 300 locks" wait_for 60 says hold.out holding
raw contend 10.77.0.51 ours c1 "$TMP/guard" "${CONTEND:-20}" >"$TMP/c1.out" 2>&1 &
C1=$!
raw contend 10.77.0.52 ours c2 "$TMP/guard" "${CONTEND:-20}" >"$TMP/c2.out" 2>&1 &
C2=$!
some_rounds() { says c1.out rounds || says c2.out rounds; }
check "two clients take turns" wait_for 60 some_rounds
wait_for 20 nfs_serves beta
rounds_lines() { cat "$TMP/c1.out" "$TMP/c2.out" | grep -c rounds; }
more_rounds() { [ "$(rounds_lines)" -gt "$before" ]; }
locks_go_on() { # NAME TIMES
	before=$(rounds_lines)
	check "$1: they go on taking turns" wait_for 60 more_rounds
	echo check >&"$HOLD_IN"
	check "$1: the holder looks" wait_for 60 eval "[ \$(grep -c lost '$TMP/hold.out') = $2 ]"
	is "$1: no lock was lost" "$(grep lost "$TMP/hold.out" | tail -n 1)" "lost 0 of 300"
}
check "the roles are swapped" tfs alpha switchover
locks_go_on "after a switchover" 1
is "what a program held on the former primary's mount is free" "$(nc beta lock mine 0 0 x one)" ""
check "alpha is level" wait_for 60 level beta alpha
node_kill beta
check "alpha is promoted when beta is killed" tfs alpha promote --fenced
locks_go_on "after a kill" 2
is "a client's lock is held, too" "$(nc alpha lock mine 0 0 x two)" DENIED
is "and let go" "$(nc alpha unlock mine 0 0 one)" ""
wait "$C1"
is "one client was never wrong" $? 0
wait "$C2"
is "nor the other" $? 0
echo "# $(tail -n 1 "$TMP/c1.out")"
echo "# $(tail -n 1 "$TMP/c2.out")"
grep -h "held by" "$TMP/c1.out" "$TMP/c2.out"
check "nobody is left with the lock" [ ! -e "$TMP/guard" ]
is "no grace was needed" "$(grep -c "only given back" "$TMP/alpha/log")" 0
kill "$PID" 2>/dev/null

# -- a start that knows no locks --
check "alpha dies, too" node_kill alpha
check "it starts alone" node_start alpha
check "as primary" tfs alpha promote --force
check "it says that locks are unknown" grep -q "only given back" "$TMP/alpha/log"
echo notified >&"$HOLD_IN"
check "the holder waits to be told" wait_for 90 says hold.out notified
is "its host is told" "$(grep notified "$TMP/hold.out")" "notified 1"
echo other >&"$HOLD_IN"
check "another owner asks for a lock" wait_for 60 says hold.out status
is "it has to wait" "$(grep status "$TMP/hold.out")" "status 4"
echo reclaim >&"$HOLD_IN"
check "the holder claims its locks back" wait_for 60 says hold.out "not reclaimed"
is "and gets them all" "$(grep reclaimed "$TMP/hold.out")" "not reclaimed 0"
echo end >&"$HOLD_IN"
check "it unlocks when the time is over" wait_for 90 says hold.out left
is "nothing is left" "$(grep left "$TMP/hold.out")" "left 0"
exec {HOLD_IN}>&-
wait "$HOLD"
tap_end
