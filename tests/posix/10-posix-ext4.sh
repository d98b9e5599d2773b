#!/bin/bash
# asan
# limit: 200
# POSIX effects and errnos: ext4 below the primary, xfs below the standby.
exec "$(dirname "$0")/posix.sh" ext4 xfs
