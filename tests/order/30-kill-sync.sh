#!/bin/bash
# limit: 300
# What a kill may lose with `durability = sync`: nothing that had returned.
DURABILITY=sync ROUNDS=${ROUNDS:-2} exec "$(dirname "$0")/10-kill-prefix.sh"
