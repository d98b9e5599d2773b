#!/bin/bash
# Programs on the mount and NFS clients of the same node see each other's changes at once, both ways: contents, appends, mappings, attributes, names, locks.
. "$(dirname "$0")/nfs.sh"
lab_or_die
nfs_client_up || exit 1
A=$(mnt alpha)
check "the server answers" wait_for 20 nfs_serves alpha

# A program that keeps things open: commands on its standard input, an answer for each.
coproc HOLDER { exec python3 -u -c '
import fcntl, mmap, os, sys
files, maps = {}, {}
for line in sys.stdin:
    w = line.split()
    try:
        if w[0] == "open": files[w[1]] = os.open(w[2], os.O_RDWR | os.O_CREAT | (os.O_APPEND if "append" in w else 0), 0o644); r = ""
        elif w[0] == "write": os.write(files[w[1]], w[2].encode()); r = ""
        elif w[0] == "pwrite": os.pwrite(files[w[1]], w[3].encode(), int(w[2])); r = ""
        elif w[0] == "read": r = os.pread(files[w[1]], int(w[3]), int(w[2])).decode()
        elif w[0] == "size": r = str(os.fstat(files[w[1]]).st_size)
        elif w[0] == "map": maps[w[1]] = mmap.mmap(files[w[1]], int(w[2])); r = ""
        elif w[0] == "peek": r = maps[w[1]][int(w[2]):int(w[2]) + int(w[3])].decode()
        elif w[0] == "poke": m = w[3].encode(); maps[w[1]][int(w[2]):int(w[2]) + len(m)] = m; r = ""
        elif w[0] == "msync": maps[w[1]].flush(); r = ""
        elif w[0] == "lock": fcntl.lockf(files[w[1]], (fcntl.LOCK_EX if w[2] == "x" else fcntl.LOCK_SH) | fcntl.LOCK_NB, int(w[4]), int(w[3])); r = "granted"
        elif w[0] == "unlock": fcntl.lockf(files[w[1]], fcntl.LOCK_UN, int(w[3]), int(w[2])); r = ""
        elif w[0] == "close": os.close(files.pop(w[1])); r = ""
        else: r = "?"
    except OSError as e: r = e.strerror
    print(r)
'; }
hold() {
	local answer
	echo "$*" >&"${HOLDER[1]}"
	read -r -t 60 answer <&"${HOLDER[0]}" || answer="no answer"
	echo "$answer"
}

# -- contents --
hold open f "$A/f" >/dev/null
hold write f "0123456789" >/dev/null
is "NFS reads what a program has just written" "$(nc alpha cat f)" 0123456789
nc alpha write f 3 unstable NFS
is "the program reads what NFS has written, unstable" "$(hold read f 0 100)" 012NFS6789
nc alpha write f 8 file STABLE
is "it sees the file grow" "$(hold size f) $(hold read f 0 100)" "14 012NFS67STABLE"
nc alpha setattr f size=5
is "and shrink" "$(hold size f) $(hold read f 0 100)" "5 012NF"
check "ls agrees" [ "$(stat -c %s "$A/f")" = 5 ]

# -- appends: to the real end, whoever moved it --
hold open a "$A/f" append >/dev/null
nc alpha write f 5 file 56789
hold write a AB >/dev/null
is "O_APPEND appends behind what NFS has written" "$(nc alpha cat f)" 012NF56789AB
nc alpha write f 20 file z
hold write a CD >/dev/null
is "and behind a hole that NFS has made" "$(nc alpha cat f | tr '\0' .)" "012NF56789AB........zCD"

# -- mappings --
head -c 16384 /dev/zero | tr '\0' - >"$A/m"
hold open m "$A/m" >/dev/null
hold map m 16384 >/dev/null
is "a mapping" "$(hold peek m 4096 4)" ----
nc alpha write m 4096 file from-nfs
is "shows what NFS writes" "$(hold peek m 4096 8)" from-nfs
hold poke m 8192 mapped >/dev/null
hold msync m >/dev/null
is "NFS reads what the mapping changed" "$(nc alpha read m 8192 6)" mapped
hold poke m 100 dirty >/dev/null
nc alpha write m 110 file NFS
is "an NFS write beside what is dirty in the same page: both are there" "$(hold peek m 100 13) $(nc alpha read m 100 13)" "dirty-----NFS dirty-----NFS"
is "through the mount's read too" "$(hold read m 100 13)" "dirty-----NFS"

# -- attributes --
stat "$A/f" >/dev/null
nc alpha setattr f mode=604 uid=11 gid=12 mtime=1234567890.5
is "stat shows what NFS has set, although the kernel knew the old attributes" "$(stat -c '%a %u %g %Y' "$A/f")" "604 11 12 1234567890"
chmod 640 "$A/f"
chown 1:2 "$A/f"
is "NFS shows what the mount has set" "$(nc alpha stat f | cut -d' ' -f2,4,5)" "640 1 2"

# -- names --
check_fails "a name that isn't there (the kernel remembers that)" ls "$A/new"
nc alpha create new 644
check "is there when NFS has made it" ls "$A/new"
nc alpha remove new
check_fails "is gone when NFS has removed it" ls "$A/new"
is "a name is not there for NFS" "$(nc alpha stat other)" NOENT
: >"$A/other"
check "is there when the mount has made it" nc alpha stat other
mkdir "$A/d1" "$A/d2"
ls "$A/d1" "$A/d2" >/dev/null
nc alpha rename other d1/moved
is "a rename by NFS shows" "$(cd "$A" && ls other d1 2>/dev/null | tr '\n' ' ')" "d1: moved "
mv "$A/d1/moved" "$A/d2/again"
is "a rename on the mount shows" "$(nc alpha ls d1 | cut -d' ' -f3 | sort | tr '\n' ' ')$(nc alpha ls d2 | cut -d' ' -f3 | sort | tr '\n' ' ')" ". .. . .. again "
: >"$A/open"
hold open gone "$A/open" >/dev/null
hold write gone still-here >/dev/null
nc alpha remove open
is "a file that NFS removes stays with who has it open" "$(hold read gone 0 20)" still-here
nc alpha rename d2 d1/sub
is "a directory that NFS moves is the same directory" "$(ls "$A/d1/sub")" again

# Many at once: names that NFS makes are listed by the mount, with the next look, and the other way round.
for i in $(seq 40); do
	nc alpha create "d1/n$i" 644 && [ -e "$A/d1/n$i" ] && [ "$(find "$A/d1" -name 'n*' | wc -l)" = "$i" ] || break
done
is "each of 40 names that NFS makes is seen by the next look" "$i" 40
for i in $(seq 40); do
	rm "$A/d1/n$i" && [ "$(nc alpha stat "d1/n$i")" = NOENT ] || break
done
is "each of 40 that the mount removes is not there for the next LOOKUP" "$i" 40

# -- locks: one table --
hold open l "$A/f" >/dev/null
is "a program locks bytes 10...19" "$(hold lock l x 10 10)" granted
is "an NFS client can't lock them" "$(nc alpha lock f 15 1 x 77)" DENIED
is "it is told who has them" "$(nc alpha testlock f 15 1 x 77 | head -n 1 | cut -d' ' -f1,3,4)" "x 10 10"
is "it gets those beside them" "$(nc alpha lock f 20 10 x 77)" ""
is "which the program can't lock then" "$(hold lock l x 25 1)" "Resource temporarily unavailable"
is "a shared lock meets a shared lock" "$(nc alpha lock f 100 10 s 77)$(hold lock l s 100 10)" granted
is "but no exclusive one" "$(nc alpha lock f 100 10 x 78)" DENIED
is "when NFS unlocks" "$(nc alpha unlock f 20 10 77)" ""
is "the program gets it" "$(hold lock l x 20 10)" granted
hold close l >/dev/null
is "when the program closes the file its locks are gone" "$(nc alpha lock f 10 10 x 79)" ""
nc alpha unlock f 10 10 79 >/dev/null
nc alpha unlock f 100 10 77 >/dev/null
exec {HOLDER[1]}>&-
trees_equal "at the end" alpha beta
tap_end
