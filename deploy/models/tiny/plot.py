#!/usr/bin/env python3
"""Draw the loss curve of a training log (JSON lines) as SVG.

    plot.py LOG > loss.svg

Takes `bits` (training) and `eval_bits` (held out, the mean over the corpora of a few beginnings) of
each line by its `step`; where a step occurs twice, after a resume, the later one counts. The light
dots are means of 20 training steps, the line one of 2 % of the run.
"""
import json
import math
import sys

W, H, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 62, 16, 34, 50


def read(path, key):
    points = {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            record = json.loads(line)
            if key in record:
                points[record['step']] = record[key]
    return sorted(points.items())


def windows(points, size):
    for i in range(0, len(points), size):
        part = points[i:i + size]
        yield (sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part))


def ticks(lo, hi, count):
    """Round numbers from lo to hi, about `count`."""
    raw = (hi - lo) / count
    power = 10 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(lo / step - 1e-9)
    return [k * step for k in range(first, math.floor(hi / step + 1e-9) + 1)]


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    points, held = read(sys.argv[1], 'bits'), read(sys.argv[1], 'eval_bits')
    if len(points) < 2:
        raise SystemExit('plot.py: %s has no curve yet' % sys.argv[1])
    dots = list(windows(points, max(1, 20 * len(points) // (points[-1][0] + 1))))
    line = list(windows(points, max(1, len(points) // 50)))
    last = points[-1][0]
    floor = min(v for _, v in dots + held)
    lo, hi = math.floor(floor * 10 - 1) / 10, min(4.0, max(v for _, v in dots))

    def x(step):
        return LEFT + (W - LEFT - RIGHT) * step / last

    def y(bits):
        return TOP + (H - TOP - BOTTOM) * (hi - max(lo, min(hi, bits))) / (hi - lo)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" '
           'font-family="sans-serif" font-size="12" fill="#333">' % (W, H, W, H),
           '<rect width="%d" height="%d" fill="#fff"/>' % (W, H),
           '<text x="%d" y="20" font-size="14">Training loss of the bundled model, bits per byte'
           '</text>' % LEFT]
    for v in ticks(lo, hi, 8):
        out.append('<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">'
                   '%.2f</text>' % (LEFT, y(v), W - RIGHT, LEFT - 8, y(v) + 4, v))
    for v in ticks(0, last, 8):
        out.append('<path d="M%.1f %dv5" stroke="#333"/><text x="%.1f" y="%d" '
                   'text-anchor="middle">%d</text>' % (x(v), H - BOTTOM, x(v), H - BOTTOM + 20, v))
    out.append('<path d="M%d %dV%dH%d" stroke="#333" fill="none"/>' %
               (LEFT, TOP, H - BOTTOM, W - RIGHT))
    out.append('<text x="%d" y="%d" text-anchor="middle">optimiser step</text>' %
               ((LEFT + W - RIGHT) // 2, H - 10))
    out.append('<g fill="#9bbbd4">%s</g>' % ''.join(
        '<circle cx="%.1f" cy="%.1f" r="1.6"/>' % (x(s), y(v)) for s, v in dots if v <= hi))
    out.append('<polyline fill="none" stroke="#1f4e79" stroke-width="1.8" points="%s"/>' % ' '.join(
        '%.1f,%.1f' % (x(s), y(v)) for s, v in line if v <= hi))
    ring = '<circle cx="%.1f" cy="%.1f" r="3.5" fill="none" stroke="#c0504d" stroke-width="1.8"/>'
    out += [ring % (x(s), y(v)) for s, v in held if v <= hi]
    for k, (mark, text) in enumerate((
            ('<path d="M%d %dh22" stroke="#1f4e79" stroke-width="1.8"/>' % (W - 230, TOP + 16),
             'training (dots: 20 steps)'),
            (ring % (W - 219, TOP + 36), 'held out, mean of six'))):
        out.append('%s<text x="%d" y="%d">%s</text>' % (mark, W - 200, TOP + 20 + 20 * k, text))
    out.append('</svg>')
    print('\n'.join(out))


if __name__ == '__main__':
    main()
