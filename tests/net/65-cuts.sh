#!/bin/bash
# asan
# limit: 300
# Connections cut at random bytes, by reset or in order, while many threads work, and while comparisons run: nothing wrong is applied, and when the cuts end
# the standby becomes level and equal. LONG=1: an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab alpha:ext4 beta:xfs || { not_ok "the nodes are made"; tap_end; exit 1; }
# Each node reaches the other through a proxy of its own.
sed -i 's/10\.77\.0\.2:7400/127.0.0.1:7500/' "$TMP/alpha/etc/$VOLUME.conf"
sed -i 's/10\.77\.0\.1:7400/127.0.0.1:7500/' "$TMP/beta/etc/$VOLUME.conf"
proxies=()
proxy() { # CUTS MAX: both, from now on
	local n
	if [ ${#proxies[@]} != 0 ]; then
		kill "${proxies[@]}"
		wait "${proxies[@]}"
	fi 2>/dev/null
	proxies=()
	for n in 1 2; do
		nsenter --net="/run/netns/$ID-${NODES[$((n - 1))]}" "$TOOLS/cutproxy" -s $((SEED + n)) -n "$1" -M "$2" 127.0.0.1 7500 "10.77.0.$((3 - n))" 7400 \
			>>"$TMP/cuts" 2>&1 &
		proxies+=($!)
	done
}
proxy 0 1000000
lab_up || { not_ok "the nodes are up and level" "$(tail -n 5 "$TMP"/*/log)"; tap_end; exit 1; }
note "seed $SEED"
rounds=$(short_or_long 3 120)
for r in $(seq "$rounds"); do
	proxy 12 $((20000 * 4 ** (r % 4)))
	check "round $r: the applications notice nothing" "$TOOLS/model" -r -s $((SEED + r)) -j 4 -t 8 "$(mnt alpha)"
	check "round $r: there were cuts ($(grep -c cut "$TMP/cuts"))" grep -q cut "$TMP/cuts"
	proxy 0 1000000
	check "round $r: the standby becomes level" wait_for 60 level alpha beta
	trees_equal "round $r" alpha beta
	[ "$TAP_FAILED" = 0 ] || break
done
kill "${proxies[@]}"
tap_end
