#!/bin/bash
# asan
# limit: 300
# A C project unpacked, built in parallel, rebuilt and run on the mount; the standby holds the same.
. "$(cd "$(dirname "$0")" && pwd)/../lib.sh"
lab_or_die alpha:ext4 beta:xfs
A=$(mnt alpha)
"$TOP/tests/demo/project.sh" "$TMP/project" 60
tar -C "$TMP" -cf "$TMP/project.tar" project
check "tar unpacks the project" tar -C "$A" -xf "$TMP/project.tar"
check "tar finds no difference" tar -C "$A" -df "$TMP/project.tar"
check "make -j4 builds it" make -s -j4 -C "$A/project"
make -s -j2 -C "$TMP/project" 2>/dev/null
is "the program runs and says the right thing" "$("$A/project/app" 2>&1)" "$("$TMP/project/app")"
is "make has nothing left to do" "$(make -C "$A/project" 2>&1 | grep -c -E 'gcc|cc ')" 0
settle alpha beta
is "the program runs on the standby too" "$("$(mnt beta)/project/app" 2>&1)" "$("$TMP/project/app")"
touch "$A/project/src/module_3.c"
is "a touched file is rebuilt alone" "$(make -C "$A/project" 2>&1 | grep -c -- '-c -o')" 1
trees_equal "after the build" alpha beta
check "rm -rf removes it all" rm -rf "$A/project"
trees_equal "after the removal" alpha beta
tap_end
