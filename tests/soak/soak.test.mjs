// A long mixed load: completions whole and streamed, states baked, continued and deleted, clients that leave,
// bad requests. At the end: no answer was wrong, the counters say what was sent, nothing is left active, and
// memory is where it was after the first fifth. SOAK_SECONDS (default 120).
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const seconds = Number(process.env.SOAK_SECONDS ?? 120);
const clients = 12;

function random(seed) {
  let s = BigInt(seed) * 2654435761n + 1n;
  return (n) => {
    s = (s * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number((s >> 33n) % BigInt(n));
  };
}

const megabytes = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]) / 1024;

test(`${seconds} s of mixed load`, async () => {
  const d = await Daemon.start({ model: byteModel(), args: ['--max-queue', '1000'] });
  const base = 'The quick brown fox jumps over the lazy dog. ';
  await d.post('/v1/states', { name: 'base', text: base });
  const ask = { state: 'base', prompt: 'Then', max_tokens: 12, seed: 5 };
  const want = (await d.complete(ask)).choices[0].text;
  const sent = { '/v1/completions': 1, '/v1/states': 1 };
  const end = Date.now() + seconds * 1000;
  const count = (route) => { sent[route] = (sent[route] ?? 0) + 1; };

  const acts = [
    async () => { count('/v1/completions'); assert.equal((await d.complete(ask)).choices[0].text, want); },
    async (r) => {
      count('/v1/completions');
      const raw = await Raw.open(d.port);
      raw.post('/v1/completions', JSON.stringify({ prompt: base.repeat(r(8)), max_tokens: 1 + r(30), seed: r(1000), stream: true }));
      const all = frames((await raw.answer()).body.toString('utf8'));
      raw.destroy();
      assert.equal(all.at(-1), '[DONE]');
    },
    async (r, me) => {
      const name = `soak-${me}`;
      count('/v1/states');
      const made = await d.post('/v1/states', { name, text: base.slice(r(40)), if_exists: 'new_version' });
      assert.equal(made.status, 201);
      count('/v1/completions');
      const c = await d.complete({ state: made.json.ref, prompt: 'x', max_tokens: 2 });
      assert.equal(c.timings.cache_n, made.json.n_tokens);
      assert.equal(c.timings.prompt_n, 1);
      count('/v1/states/{ref}');
      assert.equal((await d.delete(`/v1/states/${made.json.ref}`)).status, 200);
    },
    async (r) => {
      const raw = await Raw.open(d.port);
      const stream = r(2) === 0;
      raw.post('/v1/completions', JSON.stringify({ prompt: 'y'.repeat(1 + r(3000)), max_tokens: 100000, stream, n: 1 + r(3) }));
      if (stream && r(2)) await raw.until((b) => b.length > 0);
      raw.destroy();
    },
    async (r) => {
      count('/v1/completions');
      const bad = ['{', '{"prompt":"a","n":-1}', '{"prompt":"a","state":"nobody"}', '{"prompt":[99999]}'][r(4)];
      assert.ok([400, 404].includes((await d.post('/v1/completions', bad)).status));
    },
  ];
  let left = 0, done = 0;
  async function client(me) {
    const r = random(me + 1);
    while (Date.now() < end) {
      const i = r(10) < 4 ? 0 : r(acts.length);
      if (i === 3) left++;
      await acts[i](r, me);
      done++;
    }
  }
  const all = Promise.all(Array.from({ length: clients }, (_, i) => client(i)));
  let early = 0;
  const watch = (async () => {
    while (Date.now() < end - seconds * 800) await d.get('/health');
    early = megabytes(d.child.pid);
  })();
  await Promise.all([all, watch]);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  await d.until('dreamstate_sequences_waiting', (v) => v === 0);
  const late = megabytes(d.child.pid);
  console.log(`${done} actions, ${left} clients left, ${early.toFixed(0)} MB early, ${late.toFixed(0)} MB late`);
  assert.ok(late < early + 24, `memory grew from ${early} to ${late} MB`);
  const { text } = await d.get('/metrics');
  for (const [route, n] of Object.entries(sent)) {
    let seen = 0;
    for (const m of text.matchAll(/^dreamstate_http_requests_total\{route="([^"]*)",status="(\d+)"\} (\d+)$/gm))
      if (m[1] === route && m[2] !== '499') seen += Number(m[3]);
    assert.equal(seen, n, route);
  }
  assert.equal((await d.get('/v1/states')).json.data.length, 1);
  await d.stop();
});
