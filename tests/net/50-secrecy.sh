#!/bin/bash
# limit: 120
# Who listens on the link learns no name and no content; who has another key, or speaks something else, gets nothing and changes nothing.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
command -v tcpdump >/dev/null || { skip "a capture shows nothing" "no tcpdump"; tap_end; exit; }
lab alpha:ext4 beta:xfs
nsenter --net="/run/netns/$ID-beta" tcpdump --immediate-mode -i eth0 -s 0 -U -w "$TMP/capture" >/dev/null 2>&1 &
t=$!
wait_for 10 test -s "$TMP/capture"
lab_up || { not_ok "the nodes are up and level"; tap_end; exit 1; }
A=$(mnt alpha)
name=conspicuous_name_of_a_file content=unmistakable_content_of_it
for i in $(seq 20); do echo "$content" >"$A/$name.$i"; done
sync "$A/$name.1"
ln -s "$content.target" "$A/$name.link"
settle alpha beta
kill "$t"
wait "$t" 2>/dev/null
check "something was captured" test "$(wc -c <"$TMP/capture")" -gt 5000
is "no name in the capture" "$(grep -ac "$name" "$TMP/capture")" 0
is "no content in the capture" "$(grep -ac "$content" "$TMP/capture")" 0

lsn=$(status alpha .lsn)
for junk in "GET / HTTP/1.0" "$(head -c 3000 /dev/urandom | base64)" ""; do
	in_node beta timeout 2 bash -c "exec 3<>/dev/tcp/10.77.0.1/7400; printf '%s\r\n\r\n' \"\$1\" >&3; head -c 100 <&3" _ "$junk" >"$TMP/answer" 2>/dev/null
	is "a stranger's connection is answered with nothing of ours" "$(grep -ac "$name" "$TMP/answer")" 0
done
check "the pair is still level" level alpha beta
is "and nothing was changed" "$(status alpha .lsn)" "$lsn"

node_stop beta >/dev/null
cp "$TMP/beta/etc/$VOLUME.key" "$TMP/key"
tr 0-9a-f 1-9a-f0 <"$TMP/key" >"$TMP/beta/etc/$VOLUME.key"
node_start beta >/dev/null
echo secret >"$A/secret"
check_fails "a node with another key does not become level" wait_for 3 level alpha beta
check_fails "and gets nothing" grep -rq secret "$(back beta)"
node_stop beta >/dev/null
cp "$TMP/key" "$TMP/beta/etc/$VOLUME.key"
chmod 644 "$TMP/beta/etc/$VOLUME.key"
check_fails "a world-readable key is refused" node_start beta
chmod 600 "$TMP/beta/etc/$VOLUME.key"
check "with the right key it comes back" node_start beta
check "and becomes level" wait_for 30 level alpha beta
trees_equal "in the end" alpha beta
tap_end
