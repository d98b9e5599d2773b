#!/bin/bash
# sqlite-writer.sh DATABASE ACKNOWLEDGED [JOURNAL_MODE]: inserts numbered rows, one transaction each, until it is stopped or SQLite fails; the number of a
# row is appended to ACKNOWLEDGED only after its transaction was committed.
db=$1 acked=$2 mode=${3:-wal}
sqlite3 -bail "$db" "PRAGMA journal_mode=$mode; CREATE TABLE IF NOT EXISTS notes(n INTEGER PRIMARY KEY, text TEXT);" >/dev/null || exit 1
first=$(($(sqlite3 "$db" 'SELECT coalesce(max(n), 0) FROM notes;') + 1))
{
	echo "PRAGMA synchronous=FULL;"
	for ((i = first; ; i++)); do
		echo "BEGIN; INSERT INTO notes VALUES($i, 'note $i of this volume'); COMMIT; SELECT $i;"
	done
} | sqlite3 -bail "$db" >>"$acked" 2>/dev/null
