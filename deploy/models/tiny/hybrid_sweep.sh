#!/bin/sh
# Train the hybrid of the bundled model over three seeds and three lambdas, 200 steps each, and put the
# curves of all nine runs and a table of how they ended here.
#     hybrid_sweep.sh [RECIPE]        RECIPE: hybrid.json beside this script by default
# The dataset of pairs is made once: remove build/models/tiny-hybrid-sweep after the model has changed. It
# may be stopped at any time: started again it goes on from the runs' checkpoints. A run that ends early
# (its loss is no longer a number) is told, and the table shows its steps.
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
bin=${DREAMSTATED:-build/release/dreamstated}
out=build/models/tiny-hybrid-sweep

"$here/fetch.sh" build/corpora
names=$(python3 "$here/hybrid_sweep.py" "${1:-$here/hybrid.json}" "$out")
set --
for name in $names; do
    "$bin" train hybrid "$out/$name.json" || echo "$name: did not end"
    set -- "$@" --log "$(echo "$name" | sed 's/-seed-/, seed /; s/-/ /')=$out/$name/log.jsonl"
done
mkdir -p "$here/sweep"
"$bin" bench hybrid --curves "$here/sweep/hybrid" "$@" >"$here/sweep/hybrid.txt"
