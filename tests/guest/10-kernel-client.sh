#!/bin/bash
# limit: 300
# The kernel's NFSv3 client on the volume's own server: no EIO, no ESTALE, no lost acknowledged write, no lost lock over a switchover and over kill -9 of the primary.
. "$(dirname "$0")/guest.sh"
guest_or_skip
run_in_guest "$TOP/tests/guest/kernel-client.guest" -m 768M -T 280
