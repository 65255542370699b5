#!/bin/sh
# Train the diffuser of the bundled model by a recipe: get and extract the text, bake the dataset of
# states (once; remove the recipe's `dataset` after the model has changed), run stages of at most the
# recipe's max_minutes until its steps are done, put the result here, and beside it what
# `dreamstated bench dreamstate` needs to know of the training states (reference.safetensors, 7 MB) and
# what it prints.
#     dit.sh [RECIPE]        RECIPE: dit.json beside this script by default
# It may be stopped at any time: started again it goes on from the checkpoint in the recipe's `out`.
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
bin=${DREAMSTATED:-build/release/dreamstated}
recipe=${1:-$here/dit.json}

field() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$recipe" "$1"; }

"$here/fetch.sh" build/corpora
"$here/stages.sh" dit "$recipe"
cp "$(field out)/diffuser.safetensors" "$here/diffuser.safetensors"
"$bin" bench dreamstate --prepare "$here/reference.safetensors" --dataset "$(field dataset)" \
    --diffuser "$here/diffuser.safetensors" --model "$(field model)"
"$bin" bench dreamstate --svg "$here/dreamstate-map.svg" >"$here/dreamstate.txt"
