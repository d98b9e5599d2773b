#!/bin/bash
# limit: 300
# The kernel's NFS server above the mount, configured by `tandemfs export --knfsd': the same handles on both nodes, clients (v3 and v4.1) with open files go on when the
# primary is lost. All in one guest: two nodes with network and mounts of their own.
. "$(dirname "$0")/guest.sh"
guest_or_skip
run_in_guest "$TOP/tests/guest/knfsd.guest" -m 768M -T 280
