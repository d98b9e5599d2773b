#!/bin/bash
# tests/guest/setup.sh DIR: fetches what the guests are made of and unpacks it below DIR, installing nothing: a User-Mode-Linux kernel with its modules, and
# the programs of a kernel NFS client and server. Done once; prints one line on stderr and fails when packages can't be had.
set -eu
d=$(realpath -m "$1")
[ ! -e "$d/done-3" ] || exit 0
packages="libtirpc-common user-mode-linux kmod libkmod2 nfs-common nfs-kernel-server rpcbind libtirpc3 libnfsidmap1 libevent-core-2.1-7 libkeyutils1 keyutils libwrap0 libdevmapper1.02.1"
rm -rf "$d"
mkdir -p "$d/debs" "$d/root/kmodroot/lib"
cd "$d/debs"
# The lists of packages may be old, or not there at all.
# shellcheck disable=SC2086
apt-get download -qq $packages >/dev/null 2>&1 || { apt-get update -qq && apt-get download -qq $packages; } >&2 || {
	echo "tests/guest/setup.sh: the packages of the guest can't be downloaded" >&2
	exit 1
}
for f in *.deb; do dpkg-deb -x "$f" "$d/root"; done
cd "$d"
ln -sfn ../../usr/lib/uml/modules root/kmodroot/lib/modules
mkdir -p root/sbin
for l in depmod lsmod modprobe; do ln -sfn ../bin/kmod "root/sbin/$l"; done
for v in root/usr/lib/uml/modules/*; do LD_LIBRARY_PATH=$d/root/lib/x86_64-linux-gnu root/sbin/depmod -b "$d/root/kmodroot" "${v##*/}"; done
rm -rf debs
touch done-3
