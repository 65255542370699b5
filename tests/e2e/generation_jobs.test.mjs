// Generations that are longer than a request should be: jobs, with the states that one request would have made.
import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { ok, refused } from '../lib/answers.mjs';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { diffuserFile } from '../lib/diffuser.mjs';
import { ended, follow } from '../lib/jobs.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const running = new Set();
after(async () => { for (const d of running) await d.kill(); });

// With a diffuser and a condition, unless the data has them already.
async function start({ data, args = [] } = {}) {
  const d = await Daemon.start({ model, data: data ?? scratch(), args: ['--threads', '2', ...args] });
  running.add(d);
  if (data) return d;
  const { meta } = (await d.get('/v1/models?limit=0')).json.data[0];
  await ok(d.post('/v1/diffusers?name=d', diffuserFile(meta), { 'content-type': 'application/octet-stream' }));
  await ok(d.post('/v1/conditions', { name: 'sea', text: 'The whale swam on.' }));
  return d;
}

const post = (d, body, headers) => d.post('/v1/states/generations', { condition: 'sea', seed: 7, steps: 10, ...body }, headers);
const background = async (d, body) => (await ok(post(d, { background: true, ...body }), 202)).id;
const list = async (d, prefix) => (await d.get(`/v1/states?limit=1000&prefix=${prefix}`)).json.data;
const sums = async (d, prefix) => Object.fromEntries((await list(d, prefix)).map((s) => [s.name.slice(prefix.length), s.sha256]));
const numbered = (name, n) => Array.from({ length: n }, (_, i) => (i ? `${name}-${i + 1}@1` : `${name}@1`));

test('a job makes what the request that waits makes, and its info replays', async () => {
  const d = await start();
  for (const [i, more] of [{}, { condition: [{ text: 'Call me.', weight: 2 }, 'sea'], negative_condition: { label: 'land' }, first: 3 },
    { scheduler: 'ddpm', products: 'f32', guidance_scale: 1.2345678901234567, eta: 0.1, tags: ['made'], description: 'by night', pinned: true }].entries()) {
    const now = await ok(post(d, { name: `now${i}_`, num_states: 5, ...more }));
    const r = await post(d, { name: `later${i}_`, num_states: 5, background: true, ...more });
    assert.deepEqual([r.status, r.headers.location, r.json.kind], [202, `/v1/jobs/${r.json.id}`, 'generate_states'], r.text);
    const events = await follow(d, r.json.id), last = events.at(-2);
    assert.deepEqual([last.status, last.step, last.total_steps, last.metrics.states <= 5], ['succeeded', 50, 50, true], JSON.stringify(last));
    assert.deepEqual(last.plan, { num_states: 5, bytes: last.plan.bytes, diffuser: 'd', diffuser_sha256: now.info.diffuser_sha256 });
    assert.deepEqual(last.result.states, numbered(`later${i}_`, 5));
    assert.deepEqual(await sums(d, `later${i}_`), await sums(d, `now${i}_`));
    const [a, b] = [(await list(d, `now${i}_`))[1], (await list(d, `later${i}_`))[1]];
    assert.deepEqual(b.origin, { ...a.origin, job: r.json.id });
    assert.deepEqual([b.tags, b.description, b.pinned], [a.tags, a.description, a.pinned]);
    assert.deepEqual({ ...last.result.info, guidance_scale: 0 }, { ...now.info, name: `later${i}_`, guidance_scale: 0 });
    const again = await ok(d.post('/v1/states/generations', { ...last.result.info, name: `again${i}_` }));
    if (i < 2) assert.deepEqual(again.data.map((s) => s.sha256), now.data.map((s) => s.sha256));
  }
  await d.stop();
});

test('what is long becomes a job, unless the request says what it wants', async () => {
  const d = await start({ args: ['--generation-seconds', '1'] });
  const long = { num_states: 64, steps: 60 };
  const { id } = await ok(post(d, { name: 'long', ...long }), 202);
  await ok(post(d, { name: 'waits', ...long, background: false }));
  await ok(post(d, { name: 'short' }));
  assert.equal((await ended(d, id)).status, 'succeeded');
  assert.deepEqual(await sums(d, 'long'), await sums(d, 'waits'));
  await d.stop();
  const never = await start({ args: ['--generation-seconds', '0'] });
  await ok(post(never, { name: 'waits', ...long }));
  await never.stop();
});

test('a job is refused at once for what the request that waits is refused for', async () => {
  const d = await start();
  await ok(d.post('/v1/states', { name: 'row-2', text: 'a' }));
  const no = (body, ...want) => refused(post(d, { name: 'x', background: true, ...body }), ...want);
  await no({ name: 'row', num_states: 2 }, 409, 'state_exists');
  await no({ condition: 'nobody' }, 404, 'condition_not_found');
  await no({ negative_condition: [{ label: 'nobody' }] }, 404, 'condition_not_found');
  await no({ diffuser: 'nobody' }, 404, 'diffuser_not_found', 'diffuser');
  await no({ diffuser_sha256: 'ab'.repeat(32) }, 409, 'model_mismatch', 'diffuser_sha256');
  await no({ num_states: 65 }, 400, 'invalid_request', 'num_states');
  await no({ steps: 1 }, 400, 'invalid_request', 'num_inference_steps');
  await no({ background: 'yes' }, 400, 'invalid_request', 'background');
  await no({ model: 'nobody' }, 404, 'model_not_found');
  await refused(post(d, { name: 'x', background: true }, { 'idempotency-key': 'k' }), 400, 'invalid_request', 'Idempotency-Key');
  await refused(d.post('/v1/jobs', { kind: 'generate_states', name: 'x' }), 400, 'invalid_request', 'kind');
  assert.deepEqual([(await d.get('/v1/jobs')).json.data, (await list(d, 'x')).length], [[], 0]);
  // What only the reading of it shows fails the job, and nothing is kept.
  const failed = await ended(d, await background(d, { name: 'x', condition_sha256: 'ab'.repeat(32) }));
  assert.deepEqual([failed.status, failed.error.code, failed.error.param, failed.result], ['failed', 'model_mismatch', 'condition_sha256', null]);
  assert.equal((await list(d, 'x')).length, 0);
  await d.stop();
});

const long = { num_states: 60, steps: 1000 }; // long beside what these tests do meanwhile

test('a job that is cancelled keeps what it has made; short requests do not wait for it', async () => {
  const d = await start();
  const id = await background(d, { name: 'long', ...long });
  const seen = (await follow(d, id, (j) => j.metrics?.states >= 4)).at(-1);
  assert.ok(seen.eta_seconds > 0 && seen.progress > 0 && seen.progress < 1, JSON.stringify(seen));
  await ok(post(d, { name: 'short' }));
  assert.equal((await d.get(`/v1/jobs/${id}`)).json.status, 'running');
  assert.equal((await d.delete(`/v1/jobs/${id}`)).status, 200);
  const last = await ended(d, id);
  assert.equal(last.status, 'cancelled');
  const kept = last.result.states;
  assert.ok(kept.length >= 4 && kept.length < 60, JSON.stringify(kept));
  assert.deepEqual(kept, numbered('long', kept.length));
  assert.equal((await list(d, 'long')).length, kept.length);
  // The rest, by its info: from the number of the first that is missing.
  const rest = await ok(d.post('/v1/states/generations', { ...last.result.info, name: 'rest', first: kept.length, num_states: 2 }));
  const one = await ok(post(d, { ...long, name: 'two', num_states: 2, first: kept.length }));
  assert.deepEqual(rest.data.map((s) => s.sha256), one.data.map((s) => s.sha256));
  // A name that is taken while it runs ends it; what it made before that stays.
  const other = await background(d, { name: 'other', ...long });
  await follow(d, other, (j) => j.step > 0);
  await ok(d.post('/v1/states', { name: 'other-30', text: 'a' }));
  const failed = await ended(d, other);
  assert.deepEqual([failed.status, failed.error.code, failed.result.states], ['failed', 'state_exists', numbered('other', 29)]);
  await d.stop();
});

test('a job goes on after kill -9 and SIGTERM: no state is made twice, all have the same bytes', async () => {
  let d = await start();
  await ok(post(d, { name: 'whole', ...long, background: false }));
  const whole = await sums(d, 'whole');
  const id = await background(d, { name: 'cut', ...long, if_exists: 'new_version', diffuser: undefined });
  const { meta } = (await d.get('/v1/models?limit=0')).json.data[0];
  let states = 0;
  for (const end of ['kill', 'stop', 'kill']) {
    const seen = (await follow(d, id, (j) => j.status === 'running' && j.metrics?.states > states)).at(-1);
    assert.equal(seen.status, 'running', JSON.stringify(seen));
    states = seen.metrics.states;
    if (end === 'stop') // another diffuser is the latest now; the job stays with its own
      await ok(d.post('/v1/diffusers?name=later', diffuserFile(meta, { seed: 2 }), { 'content-type': 'application/octet-stream' }));
    await d[end]();
    d = await start({ data: d.data });
  }
  const last = await ended(d, id);
  assert.deepEqual([last.status, last.resumed, last.step], ['succeeded', true, 60 * long.steps], JSON.stringify(last.error));
  assert.deepEqual(last.result.states, numbered('cut', 60));
  assert.deepEqual(await sums(d, 'cut'), whole);
  assert.deepEqual((await list(d, 'cut')).filter((s) => s.version !== 1), []);
  assert.deepEqual(readdirSync(join(d.data, 'jobs')), []);
  assert.equal((await ok(d.post('/v1/states/generations', { ...last.result.info, name: 'again', first: 59, num_states: 1 }))).data[0].sha256, whole['-60']);
  await d.stop();
});
