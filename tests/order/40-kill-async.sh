#!/bin/bash
# limit: 300
# What a kill may lose with `durability = async`: acknowledged records too, but never out of order.
DURABILITY=async ROUNDS=${ROUNDS:-2} exec "$(dirname "$0")/10-kill-prefix.sh"
