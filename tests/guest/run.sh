#!/bin/bash
# tests/guest/run.sh [-t TAP -a ADDRESS/LEN]... [-w DIR]... [-m MEM] [-T SECONDS] FILE: runs the bash script FILE as root in a User-Mode-Linux guest
# (Linux 6.1 with NFS client, nfsd, FUSE, network namespaces). The guest sees this machine's / read-only, each DIR read-write, and tmpfs on /tmp, /mnt, /var/lib.
# The n-th TAP (in the caller's network namespace) is vec<n> there, with the n-th ADDRESS.
# Prints what the script prints; its exit status; 124: it took longer than SECONDS; 125: the guest died.
# Its network loses interrupts now and then: don't time anything with it. GUEST: where setup.sh unpacked.
set -u
here=$(cd "$(dirname "$0")" && pwd)
taps=() addrs=() rw=() mem=512M limit=120
while getopts t:a:w:m:T: o; do
	case $o in
	t) taps+=("$OPTARG") ;;
	a) addrs+=("$OPTARG") ;;
	w) rw+=("$OPTARG") ;;
	m) mem=$OPTARG ;;
	T) limit=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
: "${GUEST:?}"
g=$(mktemp -d "${TMPDIR:-/tmp}/tandemfs-guest.XXXXXX")
trap 'rm -rf "$g"' EXIT
trap 'kill "$child" 2>/dev/null; exit 143' INT TERM
net=()
for i in "${!taps[@]}"; do net+=("vec$i:transport=tap,ifname=${taps[$i]},depth=64,gro=0"); done
cp "$1" "$g/cmd"
printf 'GUEST_HOST_ROOT=%q\nGUEST_ADDRS=%q\nGUEST_RW=%q\n' "$GUEST/root" "${addrs[*]:-}" "${rw[*]:-}" >"$g/env"
# In a pid namespace of its own: whatever happens, nothing of the guest survives this command.
timeout -s KILL "$limit" unshare -p -f --kill-child "$GUEST/root/usr/bin/linux.uml" mem="$mem" umid=u uml_dir="$g/umid" \
	root=none rootfstype=hostfs rootflags=/ ro init="$here/init.sh" G="$g" "${net[@]}" \
	con=null con0=null,null ssl0=null,null ssl1=null,fd:3 console=ttyS0 loglevel=4 panic=-1 3>&1 </dev/null >"$g/boot.log" 2>&1 &
child=$!
wait "$child"
r=$?
[ -z "${GUEST_DMESG:-}" ] || cp "$g/dmesg" "$GUEST_DMESG"
[ ! -f "$g/rc" ] || exit "$(cat "$g/rc")"
if [ $r = 124 ] || [ $r = 137 ]; then
	echo "tests/guest/run.sh: the guest took longer than $limit s" >&2
	exit 124
fi
echo "tests/guest/run.sh: the guest died (status $r)" >&2
tail -20 "$g/boot.log" >&2
exit 125
