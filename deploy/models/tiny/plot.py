#!/usr/bin/env python3
"""Draw the loss curve of a training log (JSON lines) as SVG.

    plot.py LOG > loss.svg

Takes `step` and `bits_per_byte` of each line (where a step occurs twice, after a resume, the later one
counts): the light dots are windows of 20 steps, the line a mean over 2 % of the run.
"""
import json
import math
import sys

W, H, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 62, 16, 34, 50


def read(path):
    points = {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            record = json.loads(line)
            if 'step' in record and 'bits_per_byte' in record:
                points[record['step']] = record['bits_per_byte']
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
    points = read(sys.argv[1])
    if len(points) < 2:
        raise SystemExit('plot.py: %s has no curve yet' % sys.argv[1])
    dots = list(windows(points, max(1, 20 * len(points) // (points[-1][0] + 1))))
    line = list(windows(points, max(1, len(points) // 50)))
    last = points[-1][0]
    floor = min(v for _, v in dots)
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
    out.append('</svg>')
    print('\n'.join(out))


if __name__ == '__main__':
    main()
