#!/bin/sh
# Train the bundled model by a recipe: get and extract the text, run stages of at most the recipe's
# max_minutes until its steps are done, evaluate, and put weights, loss curve and figures here.
#     train.sh [RECIPE]        RECIPE: recipe.json beside this script by default
# It may be stopped at any time: started again it goes on from the checkpoint in the recipe's `out`. A
# recipe with init_from warm-starts from those weights instead.
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
bin=${DREAMSTATED:-build/release/dreamstated}
recipe=${1:-$here/recipe.json}

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$recipe" "$1"; }
last_step() { sed -n 's/^{"step":\([0-9]*\),.*/\1/p' "$out/log.jsonl" 2>/dev/null | tail -1; }

out=$(field out)
steps=$(field steps)
"$here/fetch.sh" build/corpora
while done=$(last_step) && [ "${done:-0}" -lt "$steps" ]; do
    "$bin" train base "$recipe"
done
"$bin" bench quality --model "$out/model.safetensors" --heldout "$here/heldout" --json >"$out/quality.json"
python3 "$here/plot.py" "$out/log.jsonl" >"$out/loss.svg"
cp "$out/model.safetensors" "$out/loss.svg" "$out/quality.json" "$here/"
python3 "$here/card.py" "$recipe" "$bin"
echo "$here: weights, loss.svg, quality.json and README.md are renewed"
