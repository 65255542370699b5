#!/usr/bin/env python3
"""Write the recipes of short runs of the hybrid over seeds and lambdas into OUT, and print their names.

    hybrid_sweep.py RECIPE OUT

All learn from one dataset of pairs, smaller than the recipe's, whose targets are the vectors of each
corpus; lambda 0 leaves the diffusion's term out.
"""
import json
import os
import sys

SEEDS, LAMBDAS = (1, 2, 3), (0, 1, 4)
DATASET = {'pairs': 800, 'eval_pairs': 96, 'context_max': 4096, 'corpus_steps': 60, 'target_steps': 0}
STEPS = {'steps': 200, 'eval_every': 50, 'checkpoint_every': 50}


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as f:
        hybrid = json.load(f)
    out = sys.argv[2]
    os.makedirs(out, exist_ok=True)
    for seed in SEEDS:
        for weight in LAMBDAS:
            name = 'lambda-%d-seed-%d' % (weight, seed)
            recipe = dict(hybrid, **DATASET, **STEPS, seed=seed, out=os.path.join(out, name),
                          dataset=os.path.join(out, 'pairs.safetensors'))
            recipe['lambda'] = weight
            with open(os.path.join(out, name + '.json'), 'w', encoding='utf-8') as f:
                json.dump(recipe, f, indent=1)
                f.write('\n')
            print(name)


if __name__ == '__main__':
    main()
