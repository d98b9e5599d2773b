#!/bin/bash
# limit: 200
# POSIX effects and errnos: xfs below the primary, ext4 below the standby.
exec "$(dirname "$0")/posix.sh" xfs ext4
