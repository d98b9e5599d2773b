#!/bin/bash
# limit: 300
# Switchover: the role moves while both live, under load, back and forth; what returned before is there, in order; programs wait, and get EROFS only when the role has gone. One that
# fails leaves the old primary in charge: the standby hung, killed or cut off at any moment. Never two primaries, nothing acknowledged is lost.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
switchover() { # ON [TO]
	in_node "$1" timeout 60 "$TANDEMFS" switchover "$VOLUME" "${@:2}"
}
refused() { # NAME TEXT ON [TO]
	local name=$1 text=$2
	shift 2
	if switchover "$@" >"$TMP/out" 2>&1; then not_ok "$name: refused" "it succeeded"; else check "$name: says why" grep "$text" "$TMP/out"; fi
}
both_are() { is_primary "$1" && ! is_primary "$2"; }
primaries() { local n c=0; for n in alpha beta; do ! is_primary "$n" || c=$((c + 1)); done; echo $c; }

# ---- who is asked for what ----
refused "to a node that is not there" "no .node gamma" alpha gamma
check "to the primary itself: nothing to do" switchover beta alpha
check "alpha is primary still" both_are alpha beta
check "asked of the primary" switchover alpha
check "beta is primary" both_are beta alpha
check "alpha follows" wait_for 30 level beta alpha
check "asked of the standby, by name" switchover alpha alpha
check "alpha is primary" both_are alpha beta
check "beta follows" wait_for 30 level alpha beta

# ---- open files, mappings ----
echo before >"$A/open"
exec 7<>"$A/open"
python3 - "$A/mapped" "$TMP/go" "$TMP/dirty" >"$TMP/mapped" 2>&1 <<-'P' &
	import mmap, os, sys, time
	f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
	os.ftruncate(f, 1 << 20)
	m = mmap.mmap(f, 1 << 20)
	for i in range(0, 1 << 20, 4096): m[i:i+5] = b"dirty"
	open(sys.argv[3], "w").close()
	while not os.path.exists(sys.argv[2]): time.sleep(0.02)
	m[0:4] = b"late"
	try: m.flush()
	except OSError as e: print(e.strerror)
P
mapper=$!
check "a program with a dirty mapping" wait_for 20 test -e "$TMP/dirty"
check "switchover with files open for writing" switchover alpha
is "what had been dirtied in memory is on the new primary" "$(grep -ao dirty "$B/mapped" | wc -l)" 256
is "the open file can be read on the old one" "$(cat <&7)" before
is "... and not written" "$( (echo x >&7) 2>&1 | grep -c 'Read-only file system')" 1
touch "$TMP/go"
wait "$mapper"
check "a late write through the mapping is refused" grep -q . "$TMP/mapped"
refused_writes() { [ "$(status alpha .mount.refused_writes)" -ge 2 ]; }
check "... and counted" wait_for 20 refused_writes
exec 7<&-
check "alpha follows" wait_for 30 level beta alpha
trees_equal "after a switchover with open files" beta alpha
check "back" switchover beta
check "beta follows" wait_for 30 level alpha beta

# ---- under load: what returned is there, in order ----
for to in beta alpha; do
	from=$([ $to = beta ] && echo alpha || echo beta)
	mkdir "$(mnt $from)/load-$to"
	"$TOOLS/recorder" run -j 4 -f 8 -t 20 -y 20 "$TMP/log-$to" "$(mnt $from)/load-$to" >"$TMP/recorder" 2>&1 &
	load=$!
	check "load on $from" wait_for 20 test -e "$(mnt $to)/load-$to/names"
	read -r -t 1 -u "$NEVER" || :
	check "switchover to $to under load" switchover $to $to
	check "$to is primary" both_are $to $from
	wait $load
	check "every change that returned is on $to" "$TOOLS/recorder" check -a "$TMP/log-$to" "$(mnt $to)/load-$to"
	check "$from follows" wait_for 60 level $to $from
	trees_equal "after the load" $to $from
done

# ---- back and forth ----
p=alpha s=beta n=0 failed=
for i in $(seq 20); do
	switchover $s >"$TMP/out" 2>&1 && wait_for 10 both_are $s $p || { failed="$i: $(cat "$TMP/out")"; break; }
	n=$s s=$p p=$n
	mkdir "$(mnt $p)/turn$i" && echo "$i" >"$(mnt $p)/turn$i/f" || { failed="$i: the new primary can't be written"; break; }
	wait_for 30 level $p $s || { failed="$i: $s is not level"; break; }
done
is "twenty times back and forth" "$failed" ""
trees_equal "after twenty turns" $p $s
[ $p = alpha ] || switchover $s

# ---- a standby that hangs ----
wait_for 30 level alpha beta
kill -STOP "$(node_pid beta)"
(while echo x >>"$A/goes-on"; do :; done) 2>"$TMP/errors" &
writer=$!
refused "to a standby that hangs" "stays primary" alpha
kill -CONT "$(node_pid beta)"
check "alpha stays in charge" both_are alpha beta
check "and its callers had no error" [ ! -s "$TMP/errors" ]
kill "$writer" && wait "$writer" 2>/dev/null
check "beta is level again" wait_for 60 level alpha beta
trees_equal "after a standby that hung" alpha beta

# ---- whatever happens in the middle ----
# Whoever can be primary is, at last; what fsync acknowledged is there.
recover() {
	local n
	for n in alpha beta; do
		link_up $n
		! gone "$(node_pid $n)" || node_start $n || return 1
	done
	one() { [ "$(primaries)" = 1 ]; }
	if ! wait_for 3 one; then
		for n in alpha beta; do tfs $n promote >/dev/null 2>&1 && break; done
	fi
	wait_for 10 one || return 1
	is_primary alpha && p=alpha s=beta || p=beta s=alpha
	wait_for 5 level $p $s || tfs $s resync --discard-local >/dev/null
	wait_for 60 level $p $s
}
trouble() { # KIND
	case $1 in
	kill-standby) node_kill $s ;;
	kill-primary) node_kill $p ;;
	cut) link_down $s ;;
	esac
}
p=alpha s=beta
turns=$(short_or_long 2 40)
note "seed $SEED"
RANDOM=$SEED
for kind in kill-standby cut kill-primary; do
	bad=
	for i in $(seq "$turns"); do
		f=$kind-$i
		echo "$f" >"$(mnt $p)/$f" && sync "$(mnt $p)/$f" || { bad="$i: can't write"; break; }
		switchover $p >/dev/null 2>&1 &
		sw=$!
		pause=$(printf '0.%03d' $((RANDOM % 40)))
		read -r -t "$pause" -u "$NEVER" || :
		trouble $kind
		wait $sw
		recover || { bad="$i (after $pause s): nobody is primary, or not level: $(tfs alpha status; tfs beta status)"; break; }
		[ "$(cat "$(mnt $p)/$f")" = "$f" ] || { bad="$i: $f is lost"; break; }
	done
	is "$kind in the middle of $turns switchovers" "$bad" ""
	[ -z "$bad" ] || break
done
trees_equal "at the end" $p $s
tap_end
