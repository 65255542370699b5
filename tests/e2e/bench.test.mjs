// `dreamstated bench service` and `bench speed`: that every measurement is made and told, whatever the figures are.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { binary, root, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const run = (part, args, env = {}) => promisify(execFile)(binary, ['bench', part, ...args],
  { cwd: root, env: { ...process.env, DREAMSTATE_LLAMA: '', ...env } });
const bench = (...args) => run('service', args);

test('one object: targets and results, nothing left out', async () => {
  const { stdout } = await bench('--model', byteModel(), '--json');
  const { bench: what, targets, results, skipped } = JSON.parse(stdout);
  assert.equal(what, 'service');
  assert.deepEqual(skipped, []);
  assert.equal(targets.length, 11);
  for (const t of targets) {
    assert.deepEqual(Object.keys(t).sort(), ['met', 'name', 'target', 'value']);
    assert.equal(t.met, t.value <= t.target);
  }
  for (const r of results) assert.ok(r.value > 0 && r.runs > 0 && (r.p99 === undefined || r.p99 >= r.value), JSON.stringify(r));
  for (const word of ['bake', 'append', 'fork', 'export', 'import', 'after a restart', 'RAM cache', 'queued', '/health', 'peak memory'])
    assert.ok(results.some((r) => r.name.includes(word)), word);
});

test('what it is not told to do it does not do', async () => {
  await assert.rejects(bench('--nonsense'), (e) => e.code === 2);
  await assert.rejects(bench('--model', '/nowhere'), (e) => e.code === 1 && /did not start/.test(e.stderr));
});

// value of a result or target by its name
const valueOf = (list, name) => {
  const one = list.find((r) => r.name === name);
  assert.ok(one, name);
  return one.value;
};

test('speed: our figures and their targets, the peer left out', async () => {
  const { stdout } = await run('speed', ['--model', byteModel(), '--rounds', '1', '--threads', '2', '--json']);
  const { bench: what, rounds, targets, results, skipped } = JSON.parse(stdout);
  assert.deepEqual([what, rounds], ['speed', 1]);
  for (const r of results) assert.ok(r.value > 0 && r.unit, JSON.stringify(r));
  for (const word of ['read bandwidth, 2', 'decode, 16 at once', 'own vectors, rank 8, 16', 'prefill, 512', 'HTTP, 1 at once', 'HTTP, 16 at once',
    'HTTP, first token', 'training'])
    assert.ok(results.some((r) => r.name.includes(word)), word);
  assert.ok(!results.some((r) => /llama|ratio/.test(r.name)));
  assert.deepEqual(skipped.map((s) => s.name), ['ratios to llama-bench', 'ratios to llama-server']);

  const kept = valueOf(targets, "share of 1 thread's, a core kept busy");
  const share = valueOf(results, 'decode, 2 threads, a core kept busy') / valueOf(results, 'decode, 1 thread');
  assert.ok(Math.abs(kept - 100 * share) < 0.01);
  assert.ok(valueOf(targets, 'peak memory of the daemon: weights, 64 MiB, 16 states') > 1);
  for (const t of targets) {
    assert.deepEqual(Object.keys(t).sort(), ['met', 'name', 'target', 'value']);
    assert.equal(t.met, t.name.includes('memory of') ? t.value <= t.target : t.value >= t.target);
  }
});

test('speed: beside llama-bench, where an inherited BLAS core type is gone', async () => {
  const llama = scratch();
  writeFileSync(join(llama, 'llama-bench'), `#!/bin/sh
[ -z "$OPENBLAS_CORETYPE" ] || exit 1
echo '[{"n_prompt": 512, "n_gen": 0, "avg_ts": 1291.5}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 108.25}]'
`, { mode: 0o755 });
  const { stdout } = await run('speed', ['--model', byteModel(), '--rounds', '1', '--json', '--llama', llama],
    { OPENBLAS_CORETYPE: 'Haswell' });
  const { targets, results, skipped } = JSON.parse(stdout);
  assert.equal(valueOf(results, 'llama.cpp decode, 1 at once'), 108.25);
  const ratio = valueOf(targets, 'ratio, decode, 1 at once');
  assert.ok(Math.abs(ratio * 108.25 / valueOf(results, 'decode, 1 at once') - 1) < 1e-4);
  assert.ok(Math.abs(valueOf(results, 'ratio, prefill, 512 tokens') * 1291.5 / valueOf(results, 'prefill, 512 tokens') - 1) < 1e-4);
  assert.deepEqual(skipped.map((s) => [s.name, /not there/.test(s.reason)]), [['ratios to llama-server', true]]);
});

test('speed: options it does not have', async () => {
  for (const args of [['--size', '12x769'], ['--rounds', '6'], ['--type', 'F33'], ['--threads', '0'], ['more']])
    await assert.rejects(run('speed', args), (e) => e.code === 2 && /--size 12x768/.test(e.stderr), args.join(' '));
});
