# A small virtual machine (QEMU, no KVM needed) whose kernel's NFS client writes and syncs all the time, for measuring pauses: its clock and its network are sound,
# unlike User-Mode-Linux's. Sourced after tests/nfs/nfs.sh.
#
#   qemu_prepare DIR           fetches a kernel and makes an initial file system below DIR, once
#   pause_guest_up ADDRESS     boots it with a tap at the lab's bridge as 10.77.0.60, client of ADDRESS; returns when it writes
#   pause_guest_down
#   cut_and_promote P S        P's link is cut, S promoted 300 ms later
#   pause_of COMMAND…          runs the command, waits until writing goes on; prints the longest wait in ms since it began; fails on any error
GUEST_DIR=$TOP/tests/guest
PAUSE_LOG=$TMP/pause.log
qemu_pid=

qemu_prepare() {
	local dir=$1 package
	[ ! -e "$dir/done-1" ] || { QEMU_DIR=$dir && return 0; }
	rm -rf "$dir"
	mkdir -p "$dir/root/m" && (
		cd "$dir" || exit 1
		kernel() { apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1; }
		package=$(kernel)
		apt-get download -qq "$package" >/dev/null 2>&1 || { apt-get update -qq && package=$(kernel) && apt-get download -qq "$package" >/dev/null; } || exit 1
		dpkg-deb -x ./*.deb linux && cp linux/boot/vmlinuz-* kernel && rm -f ./*.deb || exit 1
		${CC:-cc} -O2 -D_GNU_SOURCE -static -o root/init "$GUEST_DIR/pause.c" || exit 1
		python3 "$GUEST_DIR/initramfs.py" linux root virtio_pci virtio_net nfsv3 >initramfs || exit 1
		rm -rf linux && touch done-1
	) || return 1
	QEMU_DIR=$dir
}

pause_guest_up() {
	local server=$1
	ip netns exec "$ID-sw" ip tuntap add tq mode tap && ip -n "$ID-sw" link set tq master br0 up || return 1
	: >"$PAUSE_LOG"
	nsenter --net="/run/netns/$ID-sw" -- qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 1 -m 320M -display none -nodefaults -no-reboot \
		-kernel "$QEMU_DIR/kernel" -initrd "$QEMU_DIR/initramfs" -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable nokaslr server=$server own=10.77.0.60/24" \
		-serial "file:$PAUSE_LOG" -netdev tap,id=n,ifname=tq,script=no,downscript=no -device virtio-net-pci,netdev=n,romfile=,mac=52:54:00:77:00:60 >"$TMP/qemu.out" 2>&1 &
	qemu_pid=$!
	disown $qemu_pid
	wait_for 120 written_on 0 10 || { tail -n 20 "$PAUSE_LOG" "$TMP/qemu.out" >&2 && return 1; }
}
pause_guest_down() {
	kill_hard "$qemu_pid"
	qemu_pid=
}
lines_after() { tail -n +$(($1 + 1)) "$PAUSE_LOG" | tr -d '\r'; }
# Since line $1 of the log: it was written for $2 tenths of a second, or it has ended.
written_on() { [ "$(lines_after "$1" | grep -c '^at ')" -ge "$2" ] || lines_after "$1" | grep -q '^error'; }
pause_of() {
	local from after
	from=$(wc -l <"$PAUSE_LOG")
	"$@" >/dev/null || return 1
	after=$(wc -l <"$PAUSE_LOG")
	wait_for 90 written_on "$after" 15 || { echo "writing does not go on" >&2 && return 1; }
	! lines_after "$from" | grep '^error' >&2 || return 1
	lines_after "$from" | awk '$1 == "wait" && $3 > longest { longest = $3 } END { print longest + 0 }'
}
cut_and_promote() {
	link_down "$1"
	read -r -t 0.3 -u "$NEVER" || :
	tfs "$2" promote --fenced
}
