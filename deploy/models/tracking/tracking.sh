#!/bin/sh
# State tracking by small models, with and without the hybrid's path, over three seeds: write the texts,
# train the model (base.json), the hybrid of it (hybrid.json) and as long what that is measured against
# (../tiny/hybrid_controls.py), and put what `dreamstated bench tracking` says of all three here.
#     tracking.sh
# It may be stopped at any time: started again it goes on from the checkpoints.
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tracking
bin=${DREAMSTATED:-build/release/dreamstated}
out=build/models/tracking

mkdir -p "$out/text"
"$bin" bench tracking --write "$out/text"
for seed in 1 2 3; do
    run=$out/seed-$seed
    mkdir -p "$run"
    for kind in base hybrid; do
        sed "s/\"seed\": 1/\"seed\": $seed/; s/seed-1/seed-$seed/" "$here/$kind.json" >"$run/$kind.json"
    done
    "$bin" train base "$run/base.json"
    cp "$run/base/model.safetensors" "$run/model.safetensors"
    python3 deploy/models/tiny/hybrid_controls.py "$run/hybrid.json" "$run" "$run/base.json"
    "$bin" train hybrid "$run/hybrid.json"
    "$bin" train hybrid "$run/control.json"
    "$bin" train base "$run/tuned.json"
    for kind in hybrid control; do
        cp "$run/$kind/hybrid.safetensors" "$run/$kind.safetensors"
    done
    cp "$run/tuned/model.safetensors" "$run/tuned.safetensors"
done
"$bin" bench tracking "$out/seed-1" "$out/seed-2" "$out/seed-3" >"$here/tracking.txt"
