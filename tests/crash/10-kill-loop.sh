#!/bin/bash
# limit: 300
# Daemons are killed at random moments while names are made, linked, moved and removed, and started again: the primary goes on as primary
# (start_as = last), or the standby is promoted. Then the nodes become level and equal, every object below the backing directories has
# the mark of the id that it has in the mount, listings show no error, and link counts are right. LONG=1: half an hour.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
LAB_OPTIONS="start_as = last"
lab_or_die alpha:ext4 beta:xfs
note "seed $SEED"
RANDOM=$((SEED % 32768))
end=$(($(now_ms) + 1000 * $(short_or_long 50 1800)))
primary=alpha standby=beta

# churn DIR SEED: directories, files, hard links and symbolic links come, move, replace each other and go, until the mount is dead.
churn() {
	local a b
	RANDOM=$2	# of this sub-shell
	cd "$1" || return
	for _ in {1..100000}; do
		a=$((RANDOM % 8))/$((RANDOM % 12)) b=$((RANDOM % 8))/$((RANDOM % 12))
		case $((RANDOM % 10)) in
		0) mkdir "${a%/*}" || : ;;
		1) mkdir "$a" ;;
		2 | 3) echo "$a" >"$a" ;;
		4) ln "$a" "$b" ;;
		5) ln -s "$b" "$a" ;;
		6 | 7) mv -T "$a" "$b" ;;
		8) rm -f "$a" || rmdir "$a" ;;
		9) { rm "$a" && echo x >&9; } 9>>"$b" ;;
		esac
	done
} 2>/dev/null

# Every name of the mount, and the id in the mark of what has that name below the backing directory.
names_and_ids() { (cd "$(mnt "$1")" && find . -mindepth 1 -printf '%i %p\n' | sort -k 2); }
names_and_marks() {
	local name='' value i id
	(cd "$(back "$1")" && find . -mindepth 1 -path ./.tandemfs -prune -o -path ./lost+found -prune -o -print0 |
		xargs -0r getfattr -h -n trusted.tandemfs -e hex) |
		while IFS= read -r line; do
			case $line in
			'# file: '*) name=${line#'# file: '} ;;
			trusted.tandemfs=0x*)
				value=${line#*=0x} id=
				for i in 48 46 44 42 40 38 36 34; do id+=${value:i:2}; done
				echo "$((16#$id)) ./${name#./}"
				;;
			esac
		done | sort -k 2
}
marks_right() { diff <(names_and_ids "$1") <(names_and_marks "$1"); }
lists() { ls -lR "$(mnt "$1")"; }
links_right() {
	local path links subs bad=0
	while read -r links path; do
		subs=$(find "$path" -mindepth 1 -maxdepth 1 -type d | wc -l)
		[ "$links" = $((2 + subs)) ] || { echo "$path: $links links, $subs sub-directories"; bad=1; }
	done < <(find "$(mnt "$1")" -type d -printf '%n %p\n')
	return $bad
}
objects() { find "$(mnt "$1")" | wc -l; }
worked() { [ "$(objects "$primary")" -gt "$1" ]; }
limbo_empty() { [ -z "$(ls -A "$(back "$1")/.tandemfs/limbo")" ]; }

start_load() {
	local i
	LOAD=()
	for i in 1 2 3; do
		churn "$(mnt "$primary")" $((RANDOM + i)) &
		LOAD+=($!)
	done
}
stop_load() {
	kill "${LOAD[@]}" 2>/dev/null
	wait "${LOAD[@]}" 2>/dev/null
}

one_round() { # R WHAT
	local r=$1 what=$2 t n
	start_load
	read -r -t "0.$((3 + RANDOM % 7))" -u "$NEVER" || :
	wait_for 20 worked 12
	case $what in
	primary)
		node_kill "$primary"
		stop_load
		check "round $r: the killed primary starts" node_start "$primary"
		check "round $r: and goes on as primary" wait_for 30 is_primary "$primary"
		;;
	standby)
		node_kill "$standby"
		check "round $r: the killed standby starts" node_start "$standby"
		stop_load
		;;
	both)
		node_kill "$standby"
		node_kill "$primary"
		stop_load
		check "round $r: both start" eval 'node_start "$primary" && node_start "$standby"'
		is_primary "$primary" || wait_for 10 is_primary "$primary" || tfs "$primary" promote --force >/dev/null
		;;
	takeover)
		node_kill "$primary"
		stop_load
		check "round $r: the standby is promoted" tfs "$standby" promote --fenced
		check "round $r: the killed primary returns" come_back "$primary" "$standby"
		t=$primary primary=$standby standby=$t
		;;
	esac
	check "round $r: the standby becomes level" wait_for 60 level "$primary" "$standby"
	trees_equal "round $r ($what killed)" "$primary" "$standby"
	for n in alpha beta; do
		check "round $r: $n: every object has its mark" marks_right "$n"
		check "round $r: $n: everything can be listed" lists "$n"
		check "round $r: $n: directories have the right link counts" links_right "$n"
	done
	check "round $r: limbo is empty on the primary" limbo_empty "$primary"
	check "round $r: there was work to do ($(objects "$primary") objects)" worked 8
}

kinds=(primary standby takeover both)
for ((r = 1; $(now_ms) < end; r++)); do
	one_round "$r" "${kinds[r % 4]}"
	[ "$TAP_FAILED" = 0 ] || break
done
note "$((r - 1)) rounds"
tap_end
