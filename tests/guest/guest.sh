# Sourced by the tests with guests: sets GUEST, fetches what guests are made of; skips the test, loudly, where there can't be any.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
O=${O:-build}
case $O in /*) ;; *) O=$TOP/$O ;; esac
# shellcheck source=tests/tap.sh
. "$TOP/tests/tap.sh"
GUEST=$O/guest
export GUEST

guest_or_skip() {
	if [ "$(id -u)" != 0 ]; then
		skip "${0##*/}" "needs root"
		echo "1..1"
		exit
	fi
	"$TOP/tests/guest/setup.sh" "$GUEST" && return
	not_ok "the packages of the guest are there"
	echo "1..1"
	exit 1
}

# run_in_guest FILE [OPTION...]: FILE, with @TOP@ and @O@ filled in, prints TAP and its plan.
run_in_guest() {
	local script status file=$1
	shift
	script=$(mktemp "${TMPDIR:-/tmp}/tandemfs-guest-script.XXXXXX")
	sed "s,@TOP@,$TOP,g; s,@O@,$O,g; s,@SERVER@,${SERVER:-},g" "$file" >"$script"
	"$TOP/tests/guest/run.sh" "$@" "$script"
	status=$?
	rm -f "$script"
	return $status
}
