#!/bin/sh
# Train the recall model and a diffuser of its states, and measure what edits do to what states know:
# writes the lists, trains by recipe.json and dit.json, puts the weights and the table here. The diffuser
# stays in build/. Remove build/models/recall* to begin anew; it may be stopped at any time (stages.sh).
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/recall
stages=deploy/models/tiny/stages.sh
bin=${DREAMSTATED:-build/release/dreamstated}

python3 "$here/lists.py" --out build/lists
"$stages" base "$here/recipe.json"
cp build/models/recall/model.safetensors "$here/model.safetensors"
"$stages" dit "$here/dit.json"
"$bin" bench recall --model "$here/model.safetensors" --lists "$here/lists.gz" \
    --diffuser build/models/recall-dit/diffuser.safetensors >"$here/recall.txt"
