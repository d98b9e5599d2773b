#!/bin/bash
# Process 1 of a guest. G (on the kernel's command line) is the directory that it shares with the host: `env`, `cmd`; it leaves `rc` and `dmesg`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
mount -t tmpfs tmp /run
mkdir -p /run/bin /run/g /run/rpcbind /run/lock /run/netns
mount -t hostfs none /run/g -o "$G"
. /run/g/env # GUEST_HOST_ROOT, GUEST_ADDRS, GUEST_RW
GUEST_ROOT=/run/root # its own place: the directory itself may be hidden by what is mounted below
mkdir $GUEST_ROOT
mount -t hostfs none $GUEST_ROOT -o "$GUEST_HOST_ROOT"
export LD_LIBRARY_PATH=$GUEST_ROOT/usr/lib/x86_64-linux-gnu:$GUEST_ROOT/lib/x86_64-linux-gnu
export PATH=/run/bin:$GUEST_ROOT/usr/sbin:$GUEST_ROOT/usr/bin:$GUEST_ROOT/sbin:$GUEST_ROOT/bin:$PATH
printf '#!/bin/sh\nexec %s/sbin/modprobe -d %s/kmodroot "$@"\n' "$GUEST_ROOT" "$GUEST_ROOT" >/run/bin/modprobe
chmod +x /run/bin/modprobe
echo /run/bin/modprobe >/proc/sys/kernel/modprobe
for d in /mnt /var/lib /var/tmp /tmp; do mount -t tmpfs tmp $d; done
for d in $GUEST_RW; do
	mkdir -p "$d"
	mount -t hostfs none "$d" -o "$d"
done
# An /etc of its own, with what programs look up there.
mkdir /run/etc
cp -a /etc/{passwd,group,nsswitch.conf,hosts,protocols,services,rpc,ld.so.cache,ld.so.conf,ld.so.conf.d} "$GUEST_ROOT"/etc/{netconfig,rpc} /run/etc/ 2>/dev/null
mount --bind /run/etc /etc
mkdir /etc/exports.d /etc/nfs.conf.d /etc/ganesha /etc/tandemfs
touch /etc/exports
ln -s /proc/self/mounts /etc/mtab
mkdir -p /mnt/nfs /var/lib/nfs/{sm,sm.bak,v4recovery,nfsdcld,rpc_pipefs}
touch /var/lib/nfs/{etab,rmtab,state}
ln -sf /proc/mounts /run/mtab
ip link set lo up
i=0
for a in $GUEST_ADDRS; do
	ip addr add "$a" dev vec$i
	ip link set vec$i up
	i=$((i + 1))
done
hostname guest
cd /
bash /run/g/cmd
rc=$?
exec >/dev/null 2>&1
dmesg >/run/g/dmesg
echo $rc >/run/g/rc
sync
echo o >/proc/sysrq-trigger
sleep 10
