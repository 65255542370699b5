// kill -9 under load, again and again on one folder: clients bake, append, fork, roll back, save, patch and delete
// until the daemon is killed at a moment drawn from the seed. After each start
//   - what was answered is there, and holds what was answered: version, bytes, count of tokens, text about it;
//   - what was deleted, and answered so, is gone;
//   - what was on its way is there whole or not at all: every record's bytes have its SHA-256, and every version is
//     one that some request could have made;
//   - a version that was ever seen is never given again, and states that nobody wrote are as they were.
// KILL_ROUNDS (default 10).
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { random } from '../lib/random.mjs';

const rounds = Number(process.env.KILL_ROUNDS ?? 10);
const N_WRITERS = 8;
const sha256 = (b) => createHash('sha256').update(b).digest('hex');

// What a client knows about its name: versions that must be, that may be, and the highest ever seen.
class Writer {
  constructor(i) { Object.assign(this, { name: `w${i}`, r: random(i + 77), known: new Map(), unsure: false, patching: null, deleting: new Set(), top: 0, writes: 0 }); }

  ref(v) { return `/v1/states/${this.name}${v ? `@${v}` : ''}`; }

  latest() { return Math.max(0, ...this.known.keys()); }

  keep(record, status) {
    assert.ok(status === 200 || status === 201, `${status}`);
    assert.ok(record.version > this.top, `${record.ref} was given before: ${this.top}`);
    this.top = record.version;
    const { timings, ...rest } = record;
    this.known.set(record.version, rest);
    this.writes++;
  }

  // One write; what it may have done stays noted until it is answered.
  async write(d) {
    const { r, name } = this, text = 'abcdefghij '.repeat(1 + r(6)), fresh = this.known.size === 0;
    const kind = fresh ? 0 : r(8);
    if (kind === 6) {
      const v = [...this.known.keys()][r(this.known.size)];
      this.patching = [v, `d${r(1e9)}`];
      const a = await d.patch(this.ref(v), { description: this.patching[1], tags: [name] });
      assert.equal(a.status, 200, a.text);
      this.known.set(v, a.json);
      this.patching = null;
      this.writes++;
      return;
    }
    if (kind === 7 && this.known.size > 1) {
      const all = r(4) === 0;
      const v = all ? 0 : [...this.known.keys()][r(this.known.size)];
      this.deleting = new Set(all ? this.known.keys() : [v]);
      const a = await d.delete(this.ref(v));
      assert.equal(a.status, 200, a.text);
      for (const x of this.deleting) this.known.delete(x);
      this.deleting.clear();
      this.writes++;
      return;
    }
    this.unsure = true;
    const latest = this.latest();
    const a = await [
      () => d.post('/v1/states', { name, text, if_exists: 'new_version' }),
      () => d.post(`/v1/states/${name}/append`, { text }),
      () => d.post(`/v1/states/${name}@${latest}/fork`, { name, if_exists: 'new_version' }),
      () => d.post(`/v1/states/${name}/rollback`, { version: [...this.known.keys()][r(this.known.size)] }),
      () => d.post('/v1/completions', { state: name, prompt: text, max_tokens: r(9), save_state: name, if_exists: 'new_version' }),
      async () => d.post(`/v1/states/import?name=${name}&if_exists=new_version`, (await d.get(`${this.ref(latest)}/data`)).body),
    ][kind % 6]();
    assert.ok(a.status === 200 || a.status === 201, a.text);
    this.keep(a.json.state ?? a.json, a.status);
    this.unsure = false;
  }

  // After a start: all that is there is what was answered, or the one write that was on its way.
  async verify(d) {
    const list = await d.get(`${this.ref()}/versions?limit=1000`);
    const there = new Map(list.status === 404 ? [] : list.json.data.map((s) => [s.version, s]));
    for (const [v, want] of this.known) {
      const got = there.get(v);
      if (!got) {
        assert.ok(this.deleting.has(v), `${this.name}@${v} was answered and is lost`);
        continue;
      }
      const patched = this.patching?.[0] === v && got.description === this.patching[1];
      if (patched) assert.deepEqual([got.sha256, got.revision > want.revision, got.tags], [want.sha256, true, [this.name]]);
      else assert.deepEqual(got, want, `${this.name}@${v}`);
    }
    const more = [...there.keys()].filter((v) => !this.known.has(v));
    assert.ok(more.length <= (this.unsure ? 1 : 0), `${this.name}: ${more} were never answered or are deleted`);
    for (const v of more) assert.ok(v > this.top, `${this.name}@${v} is back`);
    // A delete of many is one write: all or nothing.
    if (this.deleting.size) assert.ok([0, this.deleting.size].includes([...this.deleting].filter((v) => there.has(v)).length), `${this.name} is deleted by half`);
    for (const s of there.values()) {
      const data = await d.get(`${this.ref(s.version)}/data`);
      assert.deepEqual([data.status, sha256(data.body)], [200, s.sha256], s.ref);
      const c = await d.post('/v1/completions', { state: s.ref, max_tokens: 1 });
      assert.deepEqual([c.status, c.json.timings.cache_n], [200, s.n_tokens], s.ref);
    }
    this.top = Math.max(this.top, ...there.keys());
    Object.assign(this, { known: there, unsure: false, patching: null, deleting: new Set() });
    return more.length;
  }
}

test(`kill -9 under load, ${rounds} rounds`, async () => {
  const model = byteModel(), data = scratch(), args = ['--state-cache', '500K'];
  const writers = Array.from({ length: N_WRITERS }, (_, i) => new Writer(i));
  const r = random(4711);
  let d = await Daemon.start({ model, data, args });
  const still = (await d.post('/v1/states', { name: 'still', text: 'nobody writes this one' })).json;
  const said = { state: 'still', prompt: 'so', max_tokens: 12, temperature: 0, logprobs: 2, seed: 1 };
  const want = (await d.complete(said)).choices;
  let finished = 0;
  for (let round = 0; round < rounds; round++) {
    const before = writers.reduce((n, w) => n + w.writes, 0), enough = before + 60 + r(120);
    let dead = false;
    const work = writers.map(async (w) => {
      while (!dead) {
        try {
          await w.write(d);
        } catch (e) {
          if (dead && e.code !== 'ERR_ASSERTION') return; // the connection went with the daemon
          throw e;
        }
        if (!dead && writers.reduce((n, x) => n + x.writes, 0) >= enough) {
          dead = true;
          d.child.kill('SIGKILL');
        }
      }
    });
    await Promise.all(work);
    await d.kill();
    d = await Daemon.start({ model, data, args });
    for (const w of writers) finished += await w.verify(d);
    const { timings, ...record } = still;
    assert.deepEqual((await d.get('/v1/states/still')).json, record);
    assert.deepEqual((await d.complete(said)).choices, want);
  }
  const states = writers.reduce((n, w) => n + w.known.size, 1);
  assert.equal(await d.metric('dreamstate_states'), states);
  console.log(`${rounds} kills, ${writers.reduce((n, w) => n + w.writes, 0)} answered writes kept, ${finished} more were done before their answer; ${states} states left`);
  for (const w of writers) for (const v of w.known.keys()) assert.equal((await d.delete(w.ref(v))).status, 200);
  await d.delete('/v1/states/still');
  assert.deepEqual([await d.metric('dreamstate_states'), await d.metric('dreamstate_blobs')], [0, 0]); // no blob is left alone
  await d.stop();
});
