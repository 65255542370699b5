#!/bin/sh
# Put the weights of a training here with their figures, loss curve and card.
#     evaluate.sh [RECIPE [OUT]]        OUT: the training's folder, the recipe's `out` by default
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
bin=${DREAMSTATED:-build/release/dreamstated}
recipe=${1:-$here/recipe.json}
out=${2:-$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["out"])' "$recipe")}

cp "$out/model.safetensors" "$here/model.safetensors"
"$bin" bench quality --model "$here/model.safetensors" --heldout "$here/heldout" --json >"$here/quality.json"
python3 "$here/plot.py" "$out/log.jsonl" >"$here/loss-$(basename "$recipe" .json).svg"
python3 "$here/card.py" "$recipe" "$out/log.jsonl" "$bin"
echo "$here: model.safetensors, quality.json, loss curve and README.md are renewed"
