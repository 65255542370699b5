#!/usr/bin/env python3
"""Measure general-purpose compressors on the held-out text: heldout/baselines.json.

    baselines.py [CORPORA]        CORPORA: build/corpora by default

For each corpus the size in bytes of its held-out text under `xz -9` and `zstd -19` (from standard
input), and the same when the compressor has the training text before it, as the model has: what xz
-9 with a 64 MiB dictionary adds for the held-out text after the training text, and zstd -19 with the
training text as its reference (--patch-from).
"""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ('kjv', 'moby', 'sotu', 'python', 'wordnet', 'iso')


def compressed(command, data):
    return len(subprocess.run(command, input=data, check=True, stdout=subprocess.PIPE).stdout)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else 'build/corpora'
    corpora = []
    for name in NAMES:
        train_path = os.path.join(folder, name + '.train')
        heldout_path = os.path.join(folder, name + '.heldout')
        with open(train_path, 'rb') as f:
            train = f.read()
        with open(heldout_path, 'rb') as f:
            heldout = f.read()
        xz = ['xz', '-9', '-c']
        corpora.append({
            'name': name,
            'bytes': len(heldout),
            'xz_9': compressed(xz, heldout),
            'zstd_19': compressed(['zstd', '-q', '-19', '-c'], heldout),
            'xz_9_after_train': compressed(xz, train + heldout) - compressed(xz, train),
            'zstd_19_after_train': compressed(
                ['zstd', '-qq', '-19', '--long=27', '--patch-from=' + train_path, '-c',
                 heldout_path], b''),
        })
    keys = ('xz_9', 'zstd_19', 'xz_9_after_train', 'zstd_19_after_train')
    for c in corpora:
        print('%-8s' % c['name'], *('%s %.3f' % (k, 8 * c[k] / c['bytes']) for k in keys))
    print('average ', *('%s %.3f' % (k, sum(8 * c[k] / c['bytes'] for c in corpora) / len(corpora))
                        for k in keys))
    with open(os.path.join(HERE, 'heldout', 'baselines.json'), 'w', encoding='utf-8') as f:
        json.dump({'corpora': corpora}, f, indent=1)
        f.write('\n')


if __name__ == '__main__':
    main()
