#!/bin/sh
# Train by a recipe to its end: run stages of at most the recipe's max_minutes until its steps are done.
#     stages.sh KIND RECIPE        KIND: base, dit, hybrid
# It may be stopped at any time: started again it goes on from the checkpoint in the recipe's `out`.
set -eu
cd "$(dirname -- "$0")/../../.."
kind=$1 recipe=$2

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$recipe" "$1"; }
last_step() { sed -n 's/^{"step":\([0-9]*\),.*/\1/p' "$out/log.jsonl" 2>/dev/null | tail -1; }

out=$(field out)
steps=$(field steps)
while done=$(last_step) && [ "${done:-0}" -lt "$steps" ]; do
    "${DREAMSTATED:-build/release/dreamstated}" train "$kind" "$recipe"
done
