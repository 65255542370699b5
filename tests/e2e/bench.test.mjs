// `dreamstated bench service`: that every measurement is made and told, whatever the figures are.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { binary, root } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const bench = (...args) => promisify(execFile)(binary, ['bench', 'service', ...args], { cwd: root });

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
