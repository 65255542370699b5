#!/bin/sh
# Train the hybrid of the bundled model by a recipe, and as long what it is measured against: the
# constant control (the same network, no context) and the model itself, without contexts. Puts the three
# here, what `dreamstated bench hybrid` says of them, and the curves of the trainings.
#     hybrid.sh [RECIPE]        RECIPE: hybrid.json beside this script by default
# The dataset of pairs is made once: remove the recipe's `dataset` after the model has changed. It may be
# stopped at any time (stages.sh).
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
bin=${DREAMSTATED:-build/release/dreamstated}
recipe=${1:-$here/hybrid.json}
controls=build/models/tiny-hybrid-controls

"$here/fetch.sh" build/corpora
python3 "$here/hybrid_controls.py" "$recipe" "$controls"
"$here/stages.sh" hybrid "$recipe"
"$here/stages.sh" hybrid "$controls/control.json"
"$here/stages.sh" base "$controls/tuned.json"
out=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["out"])' "$recipe")
cp "$out/hybrid.safetensors" "$here/hybrid.safetensors"
cp "$controls/control/hybrid.safetensors" "$here/hybrid-control.safetensors"
cp "$controls/tuned/model.safetensors" "$here/hybrid-tuned.safetensors"
"$bin" bench hybrid --json >"$here/hybrid-figures.json"
"$bin" bench hybrid --curves "$here/hybrid" --log "hybrid=$out/log.jsonl" \
    --log "constant control=$controls/control/log.jsonl"
