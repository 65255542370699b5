// The text exposition format 0.0.4, read strictly: what is not exactly as the format and its conventions have it throws.
import assert from 'node:assert/strict';

const NAME = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const sampleLine = new RegExp(`^(${NAME})(?:\\{(.*)\\})? (-?(?:[0-9.]+(?:e[+-]?[0-9]+)?|Inf)|NaN)$`);
const labelText = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/;

function readLabels(text, line) {
  const labels = {};
  for (let rest = text; rest;) {
    const m = rest.match(labelText);
    assert.ok(m, `labels: ${line}`);
    assert.ok(!(m[1] in labels), `a label stands twice: ${line}`);
    labels[m[1]] = m[2].replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
    rest = rest.slice(m[0].length);
    assert.ok(!m[3] === !rest, `a comma too much: ${line}`);
  }
  return labels;
}

function readSample(line, family) {
  const m = line.match(sampleLine);
  assert.ok(m, `a sample: ${line}`);
  const [, name, labels, value] = m;
  const suffix = name.slice(family.name.length);
  assert.ok(name.startsWith(family.name) && (family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']).includes(suffix), `outside its family ${family.name}: ${line}`);
  const number = value === 'Inf' ? Infinity : Number(value);
  assert.ok(Number.isFinite(number), `a number: ${line}`);
  return { suffix, labels: readLabels(labels ?? '', line), value: number };
}

function checkHistogram({ name, samples }) {
  const series = new Map();
  for (const s of samples) {
    const { le, ...others } = s.labels;
    assert.equal(le !== undefined, s.suffix === '_bucket', name);
    const key = JSON.stringify(others);
    if (!series.has(key)) series.set(key, { buckets: [] });
    const one = series.get(key);
    if (le === undefined) one[s.suffix] = s.value;
    else one.buckets.push([le === '+Inf' ? Infinity : Number(le), s.value]);
  }
  for (const { buckets, _sum, _count } of series.values()) {
    assert.equal(buckets.at(-1)[0], Infinity, name);
    assert.equal(buckets.at(-1)[1], _count, name);
    assert.ok(_sum >= 0, name);
    for (let i = 1; i < buckets.length; i++) assert.ok(buckets[i][0] > buckets[i - 1][0] && buckets[i][1] >= buckets[i - 1][1], name);
  }
}

// Map of name to {name, type, help, samples: [{suffix, labels, value}]}.
export function parse(text) {
  const families = new Map();
  let family;
  assert.ok(text.endsWith('\n'));
  const lines = text.slice(0, -1).split('\n');
  for (let i = 0; i < lines.length; i++) {
    const help = lines[i].match(new RegExp(`^# HELP (${NAME}) (.+)$`));
    if (help) {
      const type = lines[++i]?.match(new RegExp(`^# TYPE (${NAME}) (counter|gauge|histogram)$`));
      assert.ok(type && type[1] === help[1], `a TYPE behind: ${lines[i - 1]}`);
      assert.ok(!families.has(help[1]), `a family stands twice: ${help[1]}`);
      family = { name: help[1], type: type[2], help: help[2], samples: [] };
      families.set(family.name, family);
      continue;
    }
    assert.ok(family, lines[i]);
    family.samples.push(readSample(lines[i], family));
  }
  for (const f of families.values()) {
    const seen = f.samples.map((s) => s.suffix + JSON.stringify(Object.entries(s.labels).sort()));
    assert.equal(new Set(seen).size, seen.length, `a series stands twice: ${f.name}`);
    assert.equal(f.name.endsWith('_total'), f.type === 'counter', `counters and only they end in _total: ${f.name}`);
    assert.doesNotMatch(f.name, /_(ms|milliseconds|kb|mb)(_|$)/, f.name);
    if (f.type === 'counter') for (const s of f.samples) assert.ok(s.value >= 0, f.name);
    if (f.type === 'histogram') checkHistogram(f);
  }
  return families;
}
