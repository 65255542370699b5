// Writes of named states: streamed, given up, raced, repeated over a kill -9.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const model = byteModel();

const withDaemon = (options, run) => Daemon.with({ model, ...options }, run);

async function create(d, body, headers) {
  const r = await d.post('/v1/states', body, headers);
  assert.equal(r.status, 201, r.text);
  return r.json;
}

test('a streamed bake tells its progress, then the record that a whole one gives', async () => {
  await withDaemon({}, async (d) => {
    const text = 'To be, or not to be. '.repeat(2000);
    const whole = await create(d, { name: 'whole', text });
    for (const [path, body, cache] of [['/v1/states', { name: 'streamed', text }, 0], ['/v1/states/streamed/append', { text }, text.length]]) {
      const r = await d.post(path, { ...body, stream: true });
      assert.equal(r.status, 200);
      assert.equal(r.headers['content-type'], 'text/event-stream');
      const all = frames(r.text);
      assert.equal(all.pop(), '[DONE]');
      const record = all.pop();
      const seen = all.map((f) => f.prompt_progress);
      assert.deepEqual({ ...seen[0], time_ms: 0 }, { total: cache + text.length, cache, processed: cache, time_ms: 0 });
      assert.equal(seen.at(-1).processed, cache + text.length);
      for (let i = 1; i < seen.length; i++) {
        assert.ok(seen[i].processed > seen[i - 1].processed && seen[i].time_ms >= seen[i - 1].time_ms);
        assert.equal(seen[i].total, seen[0].total);
      }
      assert.equal(record.n_tokens, cache + text.length);
      assert.deepEqual([record.timings.prompt_n, record.timings.cache_n, record.timings.predicted_n], [text.length, cache, 0]);
      if (!cache) assert.equal(record.sha256, whole.sha256);
      const { timings, ...stored } = record;
      assert.deepEqual((await d.get('/v1/states/streamed')).json, stored);
    }
    // What is wrong is told with its status, before any event; a key is known in streams too.
    for (const [body, status] of [[{ name: 'streamed', text }, 409], [{ name: 'x', text, base_state: 'nobody' }, 404], [{ name: 'x' }, 400]])
      assert.equal((await d.post('/v1/states', { ...body, stream: true })).status, status);
    const key = { 'idempotency-key': 'stream' };
    const body = { name: 'keyed', text: 'abc', stream: true };
    const first = frames((await d.post('/v1/states', body, key)).text);
    const again = await d.post('/v1/states', body, key);
    assert.equal(again.headers['idempotent-replayed'], 'true');
    const { timings, ...record } = frames(again.text)[0];
    assert.equal(record.sha256, first.at(-2).sha256);
    assert.equal(timings.prompt_n, 0);
  });
});

// 15 MB of text: many times longer than any of these tests waits.
const endless = 'x'.repeat(15 << 20);

test('a bake ends when its client leaves: streaming or not, in the queue or reading; nothing is kept', async () => {
  await withDaemon({ args: ['--max-sequences', '1'] }, async (d) => {
    await create(d, { name: 'old', text: 'abc' });
    for (const [path, extra] of [['/v1/states', { name: 'given-up' }], ['/v1/states/old/append', {}]])
      for (const stream of [false, true]) {
        const body = JSON.stringify({ ...extra, text: endless, stream });
        const reading = (await Raw.open(d.port)).post(path, body);
        if (stream) await reading.until((b) => b.includes('prompt_progress'));
        await d.until('dreamstate_sequences_active', (v) => v === 1);
        const queued = (await Raw.open(d.port)).post('/v1/states', JSON.stringify({ name: 'queued', text: endless, stream }));
        await d.until('dreamstate_sequences_waiting', (v) => v === 1);
        queued.destroy();
        await d.until('dreamstate_sequences_waiting', (v) => v === 0);
        assert.equal(await d.metric('dreamstate_sequences_active'), 1);
        reading.destroy();
        await d.until('dreamstate_sequences_active', (v) => v === 0);
      }
    for (const name of ['given-up', 'queued']) assert.equal((await d.get(`/v1/states/${name}`)).status, 404);
    assert.equal((await d.get('/v1/states/old')).json.version, 1);
    // The names are free again.
    await create(d, { name: 'given-up', text: 'a' });
    assert.equal((await d.post('/v1/states/old/append', { text: 'd' })).status, 201);
  });
});

test('a file that is no state is refused as such while the name is being written, and holds nobody up', async () => {
  await withDaemon({}, async (d) => {
    const baking = (await Raw.open(d.port)).post('/v1/states', JSON.stringify({ name: 'x', text: endless, stream: true }));
    await baking.until((b) => b.includes('prompt_progress'));
    const type = { 'content-type': 'application/octet-stream' };
    const good = await create(d, { name: 'y', text: 'abc' }) && (await d.get('/v1/states/y/data')).body;
    assert.equal((await d.post('/v1/states/import?name=x', 'not a state', type)).json.error.code, 'invalid_file');
    assert.equal((await d.post('/v1/states/import?name=x', good, type)).json.error.code, 'state_busy');
    baking.destroy();
    await d.until('dreamstate_sequences_active', (v) => v === 0);
    assert.equal((await d.post('/v1/states/import?name=x', good, type)).status, 201);
  });
});

test('many writers of one name: each is done whole or told state_busy; none is lost, readers see whole versions', async () => {
  await withDaemon({}, async (d) => {
    await create(d, { name: 'log', text: '0' });
    let reading = true;
    const seen = new Set();
    const reader = (async () => {
      while (reading) {
        const c = await d.complete({ state: 'log', prompt: '?', max_tokens: 1, temperature: 0 });
        const { json } = await d.get(`/v1/states/${c.started_from.ref}`);
        assert.equal(c.timings.cache_n, json.n_tokens);
        seen.add(json.version);
      }
    })();
    // 12 clients append 5 times each and try again when told to: as many versions, one after the other.
    let busy = 0;
    const writers = Array.from({ length: 12 }, async (_, i) => {
      for (let n = 0; n < 5;) {
        const kind = (i + n) % 3;
        const r = kind === 0 ? await d.post('/v1/states/log/append', { text: 'ab' })
          : kind === 1 ? await d.post('/v1/completions', { state: 'log', prompt: 'a', max_tokens: 1, save_state: 'log', if_exists: 'new_version' })
            : await d.post('/v1/states', { name: 'log', base_state: 'log', text: 'ab', if_exists: 'new_version' });
        if (r.status === 409) {
          assert.equal(r.json.error.code, 'state_busy');
          busy++;
        } else {
          assert.ok(r.status === 200 || r.status === 201, r.text);
          n++;
        }
      }
    });
    await Promise.all(writers);
    reading = false;
    await reader;
    assert.ok(busy > 0);
    assert.ok(seen.size > 1);
    const { json } = await d.get('/v1/states/log/versions?limit=1000');
    assert.deepEqual(json.data.map((s) => s.version), Array.from({ length: 61 }, (_, i) => 61 - i));
    for (const [i, s] of json.data.entries()) {
      assert.equal(s.n_tokens, 1 + 2 * (s.version - 1), s.ref); // no update is lost
      if (s.version > 1) assert.deepEqual(s.parents, [json.data[i + 1].ref]);
    }
  });
});

test('the same key at the same time: one write, whoever comes first', async () => {
  await withDaemon({}, async (d) => {
    await create(d, { name: 'k', text: 'a' });
    const headers = { 'idempotency-key': 'one' };
    const all = await Promise.all(Array.from({ length: 16 }, async () => {
      for (;;) {
        const r = await d.post('/v1/states/k/append', { text: 'b' }, headers);
        if (r.status !== 409) return r;
      }
    }));
    for (const r of all) assert.deepEqual([r.status, r.json.version, r.json.n_tokens], [201, 2, 2]);
    assert.equal(all.filter((r) => !r.headers['idempotent-replayed']).length, 1);
    assert.equal((await d.get('/v1/states/k')).json.version, 2);
  });
});

test('If-Match: of many who saw the same version, one is taken', async () => {
  await withDaemon({}, async (d) => {
    const r = await d.post('/v1/states', { name: 'm', text: 'a' });
    const headers = { 'if-match': r.headers.etag };
    const all = await Promise.all(Array.from({ length: 12 }, async (_, i) => {
      for (;;) {
        const a = i % 2 ? await d.post('/v1/states/m/append', { text: 'b' }, headers) : await d.patch('/v1/states/m', { tags: [`t${i}`] }, headers);
        if (a.status !== 409) return a.status;
      }
    }));
    assert.equal(all.filter((s) => s < 300).length, 1);
    assert.equal(all.filter((s) => s === 412).length, 11);
  });
});

test('kill -9 after an answered write: the write and its key are there, the revision too', async () => {
  const data = scratch();
  const d = await Daemon.start({ model, data });
  await create(d, { name: 's', text: 'abc', description: 'd', tags: ['t'], expires_in: 86400 });
  const headers = { 'idempotency-key': 'durable' };
  const append = await d.post('/v1/states/s/append', { text: 'def' }, headers);
  const patch = await d.patch('/v1/states/s', { pinned: true });
  await d.kill();
  await withDaemon({ data }, async (again) => {
    const got = await again.get('/v1/states/s');
    assert.deepEqual(got.json, patch.json);
    assert.equal(got.headers.etag, patch.headers.etag);
    assert.deepEqual([got.json.description, got.json.tags, got.json.pinned, got.json.expires_at], ['d', ['t'], true, null]);
    const replay = await again.post('/v1/states/s/append', { text: 'def' }, headers);
    assert.deepEqual([replay.status, replay.json.ref, replay.headers['idempotent-replayed']], [201, append.json.ref, 'true']);
    assert.equal((await again.patch('/v1/states/s', { pinned: false }, { 'if-match': append.headers.etag })).status, 412);
  });
});

test('a state whose time has come is gone; a pinned one stays', async () => {
  await withDaemon({}, async (d) => {
    await create(d, { name: 'short', text: 'a', expires_in: 1 });
    const pinned = await create(d, { name: 'pinned', text: 'a', expires_in: 1, pinned: true });
    while ((await d.get('/v1/states/short')).status === 200);
    assert.ok(Date.now() / 1000 >= pinned.expires_at);
    assert.equal((await d.post('/v1/completions', { state: 'short', max_tokens: 1 })).status, 404);
    assert.deepEqual((await d.get('/v1/states')).json.data.map((s) => s.name), ['pinned']);
    assert.equal((await create(d, { name: 'short', text: 'b' })).version, 2);
  });
});
