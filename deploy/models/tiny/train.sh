#!/bin/sh
# Train the bundled model by a recipe: get and extract the text, run stages of at most the recipe's
# max_minutes until its steps are done, evaluate, and put weights, loss curve and figures here.
#     train.sh [RECIPE]        RECIPE: recipe.json beside this script by default
# It may be stopped at any time: started again it goes on from the checkpoint in the recipe's `out`. A
# recipe with init_from warm-starts from those weights instead.
set -eu
cd "$(dirname -- "$0")/../../.."
here=deploy/models/tiny
recipe=${1:-$here/recipe.json}
"$here/fetch.sh" build/corpora
"$here/stages.sh" base "$recipe"
exec "$here/evaluate.sh" "$recipe"
