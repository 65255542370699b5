#!/usr/bin/env python3
"""Write the lists that the model of this folder is trained and measured on.

    lists.py [--out DIR] [--record]

A list is lines `name=value`: names of two letters, values of two digits. recall.train and recall.heldout
are lists of two to eight lines; in a fifth of them one line says a name again, whose last value counts.
Behind a list come questions `name?value` in any order: every name once, and two names that the list does
not have, whose value is `--`. states.train and states.heldout are lists of three to five lines alone, to
bake states of. Documents are separated by one NUL byte; the same script gives the same bytes.
--record rewrites lists.gz beside this script: the held-out lists of four lines that `dreamstated bench
recall` asks for.
"""
import argparse
import gzip
import os
import random
import string

# file: seed, documents, least and most lines, whether questions follow
FILES = {'recall.train': (1, 300000, 2, 8, True), 'recall.heldout': (2, 1000, 2, 8, True),
         'states.train': (3, 20000, 3, 5, False), 'states.heldout': (4, 800, 3, 5, False)}
RECORDED = (5, 400, 4, 4, False)
AGAIN = 0.2   # share of the lists of more than two lines with a name said again
ABSENT = 2    # questions of a list for names that it does not have
LETTERS = string.ascii_lowercase
NAMES = [a + b for a in LETTERS for b in LETTERS]


def value(rng, other=None):
    while (v := '%02d' % rng.randrange(100)) == other:
        pass
    return v


def say_again(rng, lines):
    """The last line becomes a change of an earlier one, somewhere behind it."""
    del lines[-1]
    i = rng.randrange(len(lines))
    name, old = lines[i]
    line = name, value(rng, old)
    lines.insert(rng.randint(i + 1, len(lines)), line)


def document(rng, least, most, asked):
    n = rng.randint(least, most)
    names = rng.sample(NAMES, n + ABSENT)
    lines = [(name, value(rng)) for name in names[:n]]
    if not asked:
        return ''.join('%s=%s\n' % line for line in lines)
    if n > 2 and rng.random() < AGAIN:
        say_again(rng, lines)
    questions = list(dict(lines).items()) + [(name, '--') for name in names[n:]]
    rng.shuffle(questions)
    return ''.join('%s=%s\n' % line for line in lines) + ''.join('%s?%s\n' % q for q in questions)


def documents(seed, n, least, most, asked):
    rng = random.Random(seed)
    return '\0'.join(document(rng, least, most, asked) for _ in range(n)).encode('ascii')


def main():
    p = argparse.ArgumentParser(description='Write the lists of the recall model.')
    p.add_argument('--out', default='build/lists')
    p.add_argument('--record', action='store_true', help='rewrite lists.gz')
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name, how in FILES.items():
        with open(os.path.join(args.out, name), 'wb') as f:
            f.write(documents(*how))
    if args.record:
        here = os.path.dirname(os.path.abspath(__file__))
        with open(os.path.join(here, 'lists.gz'), 'wb') as f:
            f.write(gzip.compress(documents(*RECORDED), 9, mtime=0))


if __name__ == '__main__':
    main()
