// The disk fails: no room, a limit of the file's size, a file cut short, bytes that flip. What was answered stays, what
// cannot be kept is refused by its name (507, 422), nothing else suffers, and with room again writes go on.
import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const args = ['--state-cache', '0', '--sessions', '0'];
const greedy = { max_tokens: 8, temperature: 0, logprobs: 2, seed: 1, prompt: 'so' };
const bake = (d, name, more = {}) => d.post('/v1/states', { name, text: `the text of ${name} `.repeat(4), ...more });

async function baked(d, names) {
  const all = {};
  for (const name of names) {
    const r = await bake(d, name);
    assert.equal(r.status, 201, r.text);
    all[name] = { sha256: r.json.sha256, choices: (await d.complete({ state: name, ...greedy })).choices };
  }
  return all;
}

async function unharmed(d, all) {
  for (const [name, want] of Object.entries(all)) {
    assert.equal((await d.get(`/v1/states/${name}`)).json.sha256, want.sha256, name);
    assert.deepEqual((await d.complete({ state: name, ...greedy })).choices, want.choices, name);
  }
}

const names = (n) => Array.from({ length: n }, (_, i) => `s${i}`);

// Writes of every kind until each is refused; what was answered before counts as kept.
async function fill(d, kept, most = 4000) {
  let full = 0;
  for (let i = 0; full < 5; i++) {
    assert.ok(i < most, 'the disk never was full');
    const name = `fill${i}`;
    const r = i % 3 === 0 ? await bake(d, name) : i % 3 === 1 ? await d.post('/v1/completions', { state: 's0', ...greedy, prompt: `${i}`, save_state: name })
      : await d.post('/v1/states/s1/append', { text: `${i}` });
    if (r.status === 507) {
      assert.equal(r.json.error.code, 'storage_full');
      full++;
    } else {
      assert.ok(r.status === 200 || r.status === 201, `${r.status} ${r.text}`);
      const s = r.json.state ?? r.json;
      kept.set(s.ref, s.sha256);
      full = 0;
    }
    assert.equal((await d.get('/health')).status, 200);
  }
}

async function holds(d, kept) {
  for (const [ref, sha256] of kept) assert.equal((await d.get(`/v1/states/${ref}`)).json.sha256, sha256, ref);
}

// A full disk, in all its stages: reads and completions go on; killed, and started when there is room, it has lost nothing.
async function fullDisk(start, release) {
  let d = await start();
  const all = await baked(d, names(3)), kept = new Map();
  await fill(d, kept);
  assert.ok(kept.size > 0);
  delete all.s1; // s1 has more versions now
  await unharmed(d, all);
  await holds(d, kept);
  const full = await d.metric('dreamstate_store_full_total');
  assert.ok(full >= 5, `${full} told so`);
  await d.kill();
  await release();
  d = await start();
  await unharmed(d, all);
  await holds(d, kept);
  for (const ref of [...kept.keys()].slice(0, kept.size / 2)) {
    assert.equal((await d.delete(`/v1/states/${ref}`)).status, 200);
    kept.delete(ref);
  }
  assert.equal((await bake(d, 'again')).status, 201);
  await holds(d, kept);
  await d.stop();
}

const tmpfs = join(scratch(), 'disk');
mkdirSync(tmpfs);
const mounted = process.getuid() === 0 && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', tmpfs]).status === 0;
after(() => { if (mounted) execFileSync('umount', ['-l', tmpfs]); });
const noMount = mounted ? false : 'a small file system can not be mounted (not root, or not allowed)';

test('a disk without room: 507, and everything else goes on', { skip: noMount }, async () => {
  await fullDisk(() => Daemon.start({ model, data: tmpfs, args }), () => execFileSync('mount', ['-o', 'remount,size=8m', tmpfs]));
});

test('a read-only file system: the start is refused; writable again, all is there and writes go on', { skip: noMount }, async () => {
  const data = join(tmpfs, 'ro');
  for (const f of readdirSync(tmpfs)) rmSync(join(tmpfs, f), { recursive: true });
  const d = await Daemon.start({ model, data, args });
  const all = await baked(d, names(3));
  await d.stop();
  execFileSync('mount', ['-o', 'remount,ro', tmpfs]);
  await assert.rejects(Daemon.start({ model, data, args }), /the daemon ended \(1\)/);
  execFileSync('mount', ['-o', 'remount,rw', tmpfs]);
  const again = await Daemon.start({ model, data, args });
  await unharmed(again, all);
  assert.equal((await bake(again, 'more')).status, 201);
  await again.stop();
});

// Somebody else takes what room there is.
function fillUp(file) {
  const fd = openSync(file, 'w'), block = Buffer.alloc(4096);
  try {
    for (;;) writeSync(fd, block);
  } catch (e) {
    assert.equal(e.code, 'ENOSPC');
  } finally {
    closeSync(fd);
  }
}

test('a start on a disk without room: reads and completions are served, writes are 507; with room they go on', { skip: noMount }, async () => {
  for (const f of readdirSync(tmpfs)) rmSync(join(tmpfs, f), { recursive: true });
  const data = join(tmpfs, 'full'), fill = join(tmpfs, 'fill');
  let d = await Daemon.start({ model, data, args });
  const all = await baked(d, names(3));
  for (const end of ['stop', 'kill']) {
    await d[end]();
    fillUp(fill);
    d = await Daemon.start({ model, data, args });
    await unharmed(d, all);
    const r = await bake(d, 'more');
    assert.deepEqual([r.status, r.json.error.code], [507, 'storage_full']);
  }
  await d.stop();
  rmSync(fill);
  d = await Daemon.start({ model, data, args });
  await unharmed(d, all);
  assert.equal((await bake(d, 'more')).status, 201);
  assert.equal((await d.delete('/v1/states/s0')).status, 200);
  await d.stop();
});

test('a database file that may not grow (RLIMIT_FSIZE): the same', async () => {
  const data = scratch();
  let size = 4 << 20;
  const start = async () => {
    const d = await Daemon.start({ model, data, args });
    execFileSync('prlimit', ['--pid', String(d.child.pid), `--fsize=${size}`]);
    return d;
  };
  await fullDisk(start, () => { size *= 4; });
});

test('bytes that flip, anywhere in a state: 422 for it alone, never another; deleted and made again it is well', async () => {
  const data = scratch();
  let d = await Daemon.start({ model, data, args });
  const all = await baked(d, names(6));
  const file = (await d.get('/v1/states/s0/data')).body;
  await d.stop();
  // Three states in three places: in the header of the file, in the first numbers, in the last.
  const path = join(data, 'dreamstate.db');
  const bytes = readFileSync(path);
  const at = file.indexOf('}}') + 200;
  const hit = [];
  for (const [i, offset] of [[0, 20], [1, at], [2, at + 400]].entries()) {
    const from = bytes.indexOf('"blocks.0.att.wkv"', (hit.at(-1) ?? -1) + 1);
    assert.ok(from > 0, `state ${i}`);
    hit.push(from);
    bytes[from + offset[1]] ^= 1;
  }
  writeFileSync(path, bytes);
  d = await Daemon.start({ model, data, args });
  const bad = [];
  for (const name of Object.keys(all)) {
    const r = await d.post('/v1/completions', { state: name, ...greedy });
    if (r.status === 200) continue;
    assert.deepEqual([r.status, r.json.error.code], [422, 'state_corrupt'], name);
    for (const [path, body] of [[`/v1/states/${name}/append`, { text: 'x' }], ['/v1/states', { name: 'on', base_state: name, text: 'x' }]])
      assert.equal((await d.post(path, body)).status, 422, path);
    assert.equal((await d.get(`/v1/states/${name}/data`)).status, 422);
    bad.push(name);
  }
  assert.equal(bad.length, 3, bad.join());
  await unharmed(d, Object.fromEntries(Object.entries(all).filter(([n]) => !bad.includes(n))));
  for (const name of bad) {
    assert.equal((await d.delete(`/v1/states/${name}`)).status, 200);
    const r = await bake(d, name);
    assert.deepEqual([r.status, r.json.version, r.json.sha256], [201, 2, all[name].sha256]);
  }
  await unharmed(d, all);
  await d.stop();
});

test('a database cut short is refused at the start, or what is whole in it is served', async () => {
  const data = scratch(), path = join(data, 'dreamstate.db');
  const d = await Daemon.start({ model, data, args });
  const all = await baked(d, names(6));
  await d.stop();
  const whole = readFileSync(path), size = statSync(path).size;
  for (const keep of [0.95, 0.5, 0.1, 100 / size]) {
    writeFileSync(path, whole);
    truncateSync(path, Math.floor(size * keep));
    const again = await Daemon.start({ model, data, args }).catch((e) => e);
    if (again instanceof Error) {
      assert.match(again.message, /the daemon ended \(1\)/);
      continue;
    }
    for (const [name, want] of Object.entries(all)) {
      const r = await again.post('/v1/completions', { state: name, ...greedy });
      if (r.status === 200) assert.deepEqual(r.json.choices, want.choices);
      else assert.ok([404, 422].includes(r.status), `${r.status} ${r.text}`);
    }
    assert.equal((await again.get('/health')).status, 200);
    await again.stop();
  }
  writeFileSync(path, whole);
  const well = await Daemon.start({ model, data, args });
  await unharmed(well, all);
  await well.stop();
});
