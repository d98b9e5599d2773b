# Test output: sourced by every shell test. `ok NAME`, `not_ok NAME [what was seen]`, `skip NAME why`; `check NAME command...` runs the
# command and reports it; `tap_end` prints the plan and is the script's status.
TAP_COUNT=0
TAP_FAILED=0

ok() {
	TAP_COUNT=$((TAP_COUNT + 1))
	echo "ok $TAP_COUNT - $1"
}

not_ok() {
	TAP_COUNT=$((TAP_COUNT + 1))
	TAP_FAILED=$((TAP_FAILED + 1))
	echo "not ok $TAP_COUNT - $1"
	if [ -n "${2:-}" ]; then
		printf '%s\n' "$2" | head -n "${TAP_DETAIL:-30}" | sed 's/^/#   /'
	fi
}

skip() {
	TAP_COUNT=$((TAP_COUNT + 1))
	echo "ok $TAP_COUNT - $1 # SKIP $2"
}

note() {
	printf '%s\n' "$*" | sed 's/^/# /'
}

# check NAME COMMAND...: ok when the command succeeds; its output is shown when it does not.
check() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then ok "$name"; else not_ok "$name" "$* (status $?)
$out"; fi
}

# check_fails NAME COMMAND...: ok when the command fails.
check_fails() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then not_ok "$name" "$* succeeded
$out"; else ok "$name"; fi
}

# is NAME GOT WANTED
is() {
	if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got:    $2
wanted: $3"; fi
}

# Takes over the TAP lines of a program ("ok ..." / "not ok ...") as our own.
tap_from() {
	local line n bad rc=0
	n=$TAP_COUNT bad=$TAP_FAILED
	"$@" >"$TMP/tap.out" 2>&1 || rc=$?
	while IFS= read -r line; do
		case $line in
		"ok "*) TAP_COUNT=$((TAP_COUNT + 1)); echo "ok $TAP_COUNT ${line#ok }" ;;
		"not ok "*) TAP_COUNT=$((TAP_COUNT + 1)); TAP_FAILED=$((TAP_FAILED + 1)); echo "not ok $TAP_COUNT ${line#not ok }" ;;
		1..*) ;;
		*) echo "# $line" ;;
		esac
	done <"$TMP/tap.out"
	if [ "$rc" != 0 ] && [ "$bad" = "$TAP_FAILED" ]; then not_ok "$1 ends well (status $rc)"; fi
	[ "$TAP_COUNT" != "$n" ] || not_ok "$1 reported something"
}

tap_end() {
	echo "1..$TAP_COUNT"
	[ "$TAP_FAILED" = 0 ]
}
