#!/usr/bin/env python3
"""Write the measured part of README.md (between its two markers) from what a training left behind.

    card.py RECIPE LOG PROGRAM

Reads the recipe, the training's log (JSON lines), and quality.json (`bench quality --json`) and
heldout/baselines.json here; asks PROGRAM (dreamstated), started on model.safetensors here, for the
samples.
"""
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
BEGIN, END = '<!-- measured: written by card.py -->\n', '<!-- end of measured -->\n'
PROMPTS = (('kjv', '\nAnd the king said unto '), ('moby', '\n"What do ye see, '),
           ('sotu', 'Fellow-Citizens of the Senate and House of Representatives: '),
           ('python', '\ndef read_header(self, '), ('wordnet', '\nwhale, '),
           ('iso', '{\n  "639-3": [\n    {\n'))


def load(path):
    with open(path, encoding='utf-8') as f:
        return json.load(f)


def read_log(path):
    """The last record of each step; the held-out records; the seconds of training, gaps left out."""
    steps, held = {}, {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            record = json.loads(line)
            if 'bits' in record:
                steps[record['step']] = record
            elif 'eval_bits' in record:
                held[record['step']] = record['eval_bits']
    seconds, run_start, last = 0.0, None, None
    for step in sorted(steps):
        r = steps[step]
        elapsed = r['tokens'] / r['tokens_per_s'] if run_start is None else \
            (r['tokens'] - run_start) / r['tokens_per_s']
        if last is not None and elapsed < last['elapsed']:
            # A new run counts its rate from its own beginning.
            seconds += last['elapsed']
            run_start = last['tokens']
            elapsed = (r['tokens'] - run_start) / r['tokens_per_s']
        last = {'elapsed': elapsed, 'tokens': r['tokens']}
    return steps, held, seconds + last['elapsed']


def samples(program, model):
    """[(corpus, prompt, continuation)] from the daemon."""
    with tempfile.TemporaryDirectory() as data:
        daemon = subprocess.Popen([program, 'serve', '--listen', '127.0.0.1:0', '--data', data,
                                   '--model', model], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        try:
            line = daemon.stdout.readline()
            if not line.startswith('listening on '):
                raise SystemExit('card.py: the daemon did not start')
            out = []
            for seed, (corpus, prompt) in enumerate(PROMPTS, 1):
                body = {'prompt': prompt, 'max_tokens': 280, 'temperature': 0.7, 'top_p': 0.95,
                        'seed': seed}
                request = urllib.request.Request(line[len('listening on '):].strip() +
                                                 '/v1/completions', json.dumps(body).encode(),
                                                 {'Content-Type': 'application/json'})
                with urllib.request.urlopen(request) as answer:
                    out.append((corpus, prompt, json.load(answer)['choices'][0]['text']))
            return out
        finally:
            daemon.terminate()
            daemon.wait()


def stage_rows(recipe, log):
    """What is said of one training: {row: text}."""
    steps, held, seconds = read_log(log)
    last = steps[max(steps)]
    return {
        'read': '{:,} bytes in {:,} steps of up to {:,}'.format(
            last['tokens'], last['step'], recipe['batch'] * recipe['sequence']),
        'time': '%.0f minutes on %d threads (%.0f bytes/s)' %
                (seconds / 60, recipe['threads'], last['tokens'] / seconds),
        'windows that jump': '%g %%' % (100 * recipe.get('jump', 0)),
        'matrix products': 'operands in ' + recipe.get('products', 'f32').upper(),
        'learning rate': '%g falling to %g (cosine), %d steps of warm-up' %
                         (recipe['lr'], recipe['lr_final'], recipe['warmup']),
        'held out while training': ', '.join('%d: %.3f' % (s, held[s]) for s in sorted(held)) +
                                   ' (step: bits/byte on %d KiB a corpus)' %
                                   (recipe['eval_bytes'] // 1024),
    }


def training_text(recipe_path, recipe, quality, log):
    """A column a stage; the stages that are not this one are remembered in training.json."""
    path = os.path.join(HERE, 'training.json')
    stages = load(path) if os.path.exists(path) and 'init_from' in recipe else {}
    stages[os.path.basename(recipe_path)] = stage_rows(recipe, log)
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(stages, f, indent=1)
        f.write('\n')
    m = recipe['model']
    size = os.path.getsize(os.path.join(HERE, 'model.safetensors'))
    out = '{:,} parameters: '.format(quality['parameters'])
    out += ('%d layers x %d, head %d, FFN %d, LoRA %d/%d/%d/%d (w, a, v, g), vocabulary 256; %.1f MB, BF16.\n\n'
            % (m['n_layer'], m['n_embd'], m['head_size'], m['n_ffn'], m['rank_w'], m['rank_a'], m['rank_v'],
               m['rank_g'], size / 1e6))
    out += '|  | ' + ' | '.join('`%s`' % s for s in stages) + ' |\n|' + ' --- |' * (1 + len(stages)) + '\n'
    for row in next(iter(stages.values())):
        out += '| %s | ' % row + ' | '.join(s[row] for s in stages.values()) + ' |\n'
    for stage in stages:
        out += '\n![loss curve of %s](loss-%s.svg)\n' % (stage, stage.removesuffix('.json'))
    return out


def quality_text(quality, baselines):
    out = ['| corpus | documents | bytes | model | `xz -9` | `zstd -19` | `xz -9` after the training '
           'text | `zstd -19` after it |\n|---|---|---|---|---|---|---|---|\n']
    prior = {c['name']: [8 * c[k] / c['bytes'] for k in ('xz_9_after_train', 'zstd_19_after_train')]
             for c in baselines['corpora']}
    for c in quality['corpora']:
        out.append('| %s | %d | %d | **%.3f** | %.3f | %.3f | %.3f | %.3f |\n' %
                   (c['name'], c['documents'], c['bytes'], c['bits_per_byte'], c['xz_9'],
                    c['zstd_19'], *prior[c['name']]))
    a = quality['average']
    out.append('| average | | %d | **%.3f** | %.3f | %.3f | %.3f | %.3f |\n' %
               (quality['bytes'], a['bits_per_byte'], a['xz_9'], a['zstd_19'],
                *(sum(p[k] for p in prior.values()) / len(prior) for k in (0, 1))))
    target = quality['targets'][0]
    out.append('\nTarget: at most %.2f on average: %s. By place in the document (average): first 512 '
               'bytes %.3f, to 2,048 %.3f, to 8,192 %.3f, beyond %.3f.\n' %
               (target['target'], 'met' if target['met'] else 'not met', *quality['by_place']))
    types = quality['weights_types']
    out.append('By type of the weights in memory, on the beginnings of the documents (%s bytes): %s.\n'
               % ('{:,}'.format(types[0]['bytes']),
                  ', '.join('%s %.4f' % (t['type'], t['bits_per_byte']) for t in types)))
    return ''.join(out)


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    recipe_path, log, program = sys.argv[1:]
    recipe = load(recipe_path)
    quality = load(os.path.join(HERE, 'quality.json'))
    baselines = load(os.path.join(HERE, 'heldout', 'baselines.json'))
    text = '## Training\n\n' + training_text(recipe_path, recipe, quality, log)
    text += '\n## Held-out bits per byte\n\n'
    text += quality_text(quality, baselines)
    text += ('\n## Samples\n\nTemperature 0.7, top-p 0.95, seeds 1 to 6, the first 280 bytes, unselected; '
             'the prompt is before the bar.\n')
    for corpus, prompt, answer in samples(program, os.path.join(HERE, 'model.safetensors')):
        text += '\n`%s`\n```text\n%s|%s\n```\n' % (corpus, prompt.lstrip('\n'), answer)
    path = os.path.join(HERE, 'README.md')
    with open(path, encoding='utf-8') as f:
        card = f.read()
    head, _, rest = card.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not tail:
        raise SystemExit('card.py: README.md has lost its markers')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(head + BEGIN + '\n' + text + '\n' + END + tail)


if __name__ == '__main__':
    main()
