#!/bin/bash
# The mount and the NFS server on one node see one volume: what one changes the other sees at once, whatever the kernel had cached; appends go to the real end; what is
# dirty in a mapping isn't lost by a write through NFS to the same page.
. "$(cd "$(dirname "$0")" && pwd)/nfs.sh"
lab_or_die alpha:ext4
nfs_client_up || exit 1
M=$(mnt alpha)
N() { nc alpha "$@"; }
attrs() { stat -c '%.1A %a %h %u %g %s %i %.9Y %.9Z' "$1"; }
nfs_attrs() { N stat "$1" | sed 's/^f /- /'; }

# ---- names ----
check "a directory made through NFS" N mkdir d 755
is "is there through the mount" "$(stat -c %F "$M/d")" directory
check_fails "a name that the mount knows to be free" stat "$M/d/f"
check "is made through NFS" N create d/f 644
is "and is there" "$(stat -c %F "$M/d/f")" "regular empty file"
is "in listings, too" "$(ls "$M/d")" f
mkdir "$M/d/sub" && touch "$M/d/sub/x"
is "what the mount makes is there through NFS" "$(N ls d | awk '{ print $3 }' | sort | tr '\n' ' ')" ". .. f sub "
check "renamed through NFS" N rename d/f d/g
check_fails "the old name is gone" stat "$M/d/f"
check "the new one is there" stat "$M/d/g"
mv "$M/d/g" "$M/d/h"
is "renamed through the mount" "$(N stat d/g; N stat d/h | cut -c1-5)" "$(printf 'NOENT\n- 644')"
check "linked through NFS" N link d/h d/i
is "the mount counts two" "$(stat -c %h "$M/d/h")" 2
rm "$M/d/i"
is "NFS counts one" "$(N stat d/h | awk '{ print $3 }')" 1
check "removed through NFS" N remove d/h
check_fails "it is gone" stat "$M/d/h"

# ---- contents ----
echo one >"$M/f"
is "written through the mount" "$(N cat f)" one
cat "$M/f" >/dev/null
check "written through NFS" N write f 0 unstable two
is "read through the mount, from no stale page" "$(cat "$M/f")" two
check "longer through NFS" N write f 3 file "-three"
is "the mount sees the end" "$(cat "$M/f")" two-three
echo four >>"$M/f"
is "appended through the mount, behind it" "$(N cat f)" two-threefour
exec 5<>"$M/f"
check "truncated through NFS while it is open" N setattr f size=3
is "the open file ends there" "$(cat <&5)" two
exec 5>&-
printf x >>"$M/f"
is "an append goes to the real end" "$(N cat f)" twox
truncate -s 1 "$M/f"
is "truncated through the mount" "$(N cat f)" t

# ---- attributes ----
check "mode and owner through NFS" N setattr f mode=640 uid=1000 gid=100
is "are the mount's" "$(attrs "$M/f")" "$(nfs_attrs f)"
chmod 4711 "$M/f" && touch -d @1234567890.123456789 "$M/f"
is "and the other way round" "$(attrs "$M/f")" "$(nfs_attrs f)"
check "a guarded change" N setattr f mode=600 "guard=$(stat -c %.9Z "$M/f")"
chmod 644 "$M/f"
check_fails "that comes too late" N setattr f mode=600 guard=1.0

# ---- mappings ----
cat >"$TMP/map.py" <<'E'
import mmap, sys
path, at, text, go, done = sys.argv[1:]
with open(path, "r+b") as f:
    m = mmap.mmap(f.fileno(), 0)
    m[int(at):int(at) + len(text)] = text.encode()
    print("dirty", flush=True)
    sys.stdin.readline()
    print("seen", m[4000:4004].decode(), m[5000:5004].decode(), flush=True)
    sys.stdin.readline()
E
head -c 16384 /dev/zero >"$M/m"
coproc map { exec python3 "$TMP/map.py" "$M/m" 100 mmmm - -; }
read -r -t 20 line <&"${map[0]}"
is "a program has dirtied a page of a mapping" "$line" dirty
check "a write through NFS to the same page" N write m 4000 unstable nnnn
check "and to the next" N write m 5000 file oooo
echo >&"${map[1]}"
read -r -t 20 line <&"${map[0]}"
is "is seen in the mapping" "$line" "seen nnnn oooo"
at() { N read m "$1" 4; }
is "what was dirty isn't lost" "$(at 100)" mmmm
is "nor what NFS wrote" "$(at 4000)$(at 5000)" nnnnoooo
echo >&"${map[1]}"
# shellcheck disable=SC2154
wait "$map_PID"
is "and stays when the mapping ends" "$(at 100)$(at 4000)$(at 5000)" mmmmnnnnoooo
is "on the backing file system" "$(tail -c +101 "$(back alpha)/m" | head -c 4)$(tail -c +4001 "$(back alpha)/m" | head -c 4)" mmmmnnnn

# ---- many at once: nobody waits for ever ----
churn_mount() { for i in $(seq 300); do echo "$i" >"$M/d/c$((i % 10))"; stat "$M/d" >/dev/null; rm -f "$M/d/c$((i % 7))"; done; }
churn_nfs() { for i in $(seq 300); do echo "create d/c$((i % 10)) 644"; echo "write d/c$((i % 10)) 0 unstable $i"; echo "remove d/c$((i % 7))"; done | N - >/dev/null; }
churn_mount 2>/dev/null &
pid=$!
churn_nfs
wait "$pid"
check "both at once come to an end" gone "$pid"
is "and agree" "$(ls -a "$M/d" | sort | tr '\n' ' ')" "$(N ls d | awk '{ print $3 }' | sort | tr '\n' ' ')"
tap_end
