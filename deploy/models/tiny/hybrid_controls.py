#!/usr/bin/env python3
"""Write the recipes of what a hybrid is measured against, into OUT.

    hybrid_controls.py RECIPE OUT [BASE]

control.json: the hybrid's recipe with contexts that are always empty. tuned.json: the model itself (BASE
is its recipe, recipe.json here by default) trained on, at an eighth of its rate, as many continuations
of the same length, equal parts of the corpora, each from the zero state behind the separator at a line
or sentence start.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def write(out, name, recipe):
    recipe['out'] = os.path.join(out, name)
    with open(os.path.join(out, name + '.json'), 'w', encoding='utf-8') as f:
        json.dump(recipe, f, indent=1)
        f.write('\n')


def main():
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    with open(sys.argv[1], encoding='utf-8') as f:
        hybrid = json.load(f)
    with open(sys.argv[3] if len(sys.argv) > 3 else os.path.join(HERE, 'recipe.json'),
              encoding='utf-8') as f:
        base = json.load(f)
    out = sys.argv[2]
    os.makedirs(out, exist_ok=True)
    write(out, 'control', dict(hybrid, context_dropout=1))
    write(out, 'tuned', {
        'seed': hybrid['seed'], 'threads': hybrid['threads'], 'model': base['model'],
        'init_from': hybrid['model'], 'data': hybrid['data'], 'eval': hybrid['eval'],
        'sequence': hybrid['continuation'], 'batch': hybrid['batch'], 'carry': 0,
        'document_start': 0, 'steps': hybrid['steps'], 'lr': base['lr'] / 8,
        'lr_final': base['lr'] / 160,
        'warmup': hybrid['warmup'], 'beta1': 0.9, 'beta2': 0.99, 'eval_every': hybrid['eval_every'],
        'checkpoint_every': hybrid['checkpoint_every'], 'max_minutes': hybrid['max_minutes'],
    })


if __name__ == '__main__':
    main()
