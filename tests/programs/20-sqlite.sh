#!/bin/bash
# limit: 300
# SQLite on the mount: WAL and rollback journals, several processes on one database (fcntl locks, shared memory), and what the standby holds after
# a kill is a sound database with every committed transaction.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha) B=$(mnt beta)
writer=$TOP/tests/demo/sqlite-writer.sh
for mode in wal delete truncate persist; do
	db=$A/$mode.db
	is "$mode: the journal mode is taken" "$(sqlite3 "$db" "PRAGMA journal_mode=$mode;")" "$mode"
	check "$mode: a table of 2,000 rows" sqlite3 "$db" "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
		WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000) INSERT INTO t SELECT x, hex(randomblob(50)) FROM c;"
	check "$mode: an index, deletions, vacuum" sqlite3 "$db" "CREATE INDEX i ON t(b); DELETE FROM t WHERE a % 3 = 0; VACUUM;"
	is "$mode: integrity" "$(sqlite3 "$db" "PRAGMA integrity_check;")" ok
	is "$mode: rows" "$(sqlite3 "$db" "SELECT count(*) FROM t;")" 1334
	for p in 1 2 3; do
		for i in $(seq 25); do echo ".timeout 30000
INSERT INTO t(b) VALUES('process $p row $i');"; done | sqlite3 "$db" >"$TMP/$mode.$p" 2>&1 &
		pids[p]=$!
	done
	wait "${pids[@]}"
	is "$mode: three writing processes lose nothing" "$(sqlite3 "$db" "SELECT count(*) FROM t WHERE b LIKE 'process%';" 2>&1; cat "$TMP/$mode".[123])" 75
done
trees_equal "after the work" alpha beta

primary=alpha standby=beta
for mode in wal delete; do
	db=$(mnt "$primary")/killed-$mode.db
	: >"$TMP/acked"
	setsid "$writer" "$db" "$TMP/acked" "$mode" &
	w=$!
	enough() { [ "$(wc -l <"$TMP/acked")" -ge 150 ]; }
	check "$mode: transactions are acknowledged" wait_for 60 enough
	node_kill "$primary"
	wait "$w" 2>/dev/null
	umount -l "$(mnt "$primary")"
	check "$mode: the standby is promoted" tfs "$standby" promote --fenced
	db=$(mnt "$standby")/killed-$mode.db
	is "$mode: the database is sound after the kill" "$(sqlite3 "$db" "PRAGMA integrity_check;" 2>&1)" ok
	is "$mode: no acknowledged transaction of $(wc -l <"$TMP/acked") is missing" \
		"$(comm -23 <(sort "$TMP/acked") <(sqlite3 "$db" 'SELECT n FROM notes;' | sort) | wc -l)" 0
	check "$mode: the killed node returns" come_back "$primary" "$standby"
	trees_equal "$mode: after the return" "$standby" "$primary"
	t=$primary primary=$standby standby=$t
done
tap_end
