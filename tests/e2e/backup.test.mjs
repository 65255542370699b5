// Backups: by the route and by the command, of a running daemon and of its data alone.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, binary, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const key = 'a-key-for-backups-0123456789';
const auth = { authorization: `Bearer ${key}` };

function command(args, env = {}) {
  const r = spawnSync(binary, args, { env: { ...process.env, DREAMSTATE_LISTEN: '', DREAMSTATE_API_KEY: '', ...env }, encoding: 'utf8' });
  return { code: r.status, out: r.stdout.trim(), err: r.stderr };
}

async function record(d, headers) {
  const r = await d.get('/v1/states/kept', headers);
  assert.equal(r.status, 200);
  return r.json;
}

test('the route and the command copy a running daemon; the copies are served', async () => {
  const d = await Daemon.start({ model, env: { DREAMSTATE_API_KEY: key } });
  const listen = `127.0.0.1:${d.port}`, out = scratch();
  let kept;
  try {
    assert.equal((await d.post('/v1/states', { name: 'kept', text: 'a text that is kept' }, auth)).status, 201);
    kept = await record(d, auth);
    const r = await d.post('/admin/backup', { name: 'one' }, auth);
    assert.deepEqual([r.status, r.json.object, r.json.name], [201, 'backup', 'one']);
    assert.ok(r.json.bytes > kept.bytes);
    const timed = await d.post('/admin/backup', {}, auth);
    assert.match(timed.json.name, /^\d{8}T\d{6}Z$/);
    const again = await d.post('/admin/backup', { name: 'one' }, auth);
    assert.deepEqual([again.status, again.json.error.param], [400, 'name']);
    for (const name of ['', '.', '..', '../x', '/tmp/x', 'a/b', '.hidden', 'a\0b', 'é', 'x'.repeat(129)])
      assert.equal((await d.post('/admin/backup', { name }, auth)).status, 400, name);
    assert.deepEqual(readdirSync(join(d.data, 'backups')).sort(), ['one', timed.json.name].sort());

    const args = ['backup', join(out, 'two'), '--data', d.data, '--listen', listen];
    const none = command(args);
    assert.equal(none.code, 1);
    assert.match(none.err, /401.*DREAMSTATE_API_KEY/s);
    const done = command(args, { DREAMSTATE_API_KEY: key });
    assert.deepEqual([done.code, done.out], [0, join(out, 'two')], done.err);
    assert.match(command(args, { DREAMSTATE_API_KEY: key }).err, /already/);
    // Locked by the daemon, and nobody at that address: refused.
    const locked = command(['backup', join(out, 'never'), '--data', d.data, '--listen', '127.0.0.1:1']);
    assert.equal(locked.code, 1);
    assert.match(locked.err, /in use by another process/);
    assert.ok(!existsSync(join(out, 'never')));
  } finally {
    await d.stop();
  }
  const offline = command(['backup', join(out, 'three'), '--data', d.data]);
  assert.equal(offline.code, 0, offline.err);
  for (const data of [join(d.data, 'backups', 'one'), join(out, 'two'), join(out, 'three')]) {
    const m = await Daemon.start({ model, data });
    try {
      assert.deepEqual(await record(m), kept);
      const r = await m.complete({ prompt: 'x', state: 'kept', max_tokens: 1 });
      assert.equal(r.timings.cache_n, kept.n_tokens);
    } finally {
      await m.stop();
    }
  }
});

test('the command says what is wrong', () => {
  const dir = scratch();
  for (const [args, code, says] of [
    [['backup'], 2, /usage/], [['backup', '--data', dir], 2, /usage/], [['backup', join(dir, 'x'), '--dat', dir], 2, /--dat/],
    [['backup', join(dir, 'x'), '--data', join(dir, 'no')], 1, /no states there/],
  ]) {
    const r = command(args);
    assert.equal(r.code, code, r.err);
    assert.match(r.err, says);
  }
});
