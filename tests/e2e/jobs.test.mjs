// Jobs: their life, their end by every way, and that none is lost with the process.
import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { refused } from '../lib/answers.mjs';
import { Daemon, bundledModel, scratch } from '../lib/daemon.mjs';
import { follow, make } from '../lib/jobs.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const text = 'Call me Ishmael. Some years ago, never mind how long precisely.\n'.repeat(30);
const tune = { kind: 'train_state', name: 'tuned', text, steps: 12, batch: 2, sequence: 32, checkpoint_every: 2 };
const running = new Set();
after(async () => { for (const d of running) await d.kill(); });

async function start(options) {
  const d = await Daemon.start({ model, args: ['--threads', '2'], ...options });
  running.add(d);
  return d;
}

const get = async (d, id) => (await d.get(`/v1/jobs/${id}`)).json;
const sha = async (d, ref) => (await d.get(`/v1/states/${ref}`)).json.sha256;

test('a job lives: at once an id, events to the end, a result that is used', async () => {
  const d = await start();
  const id = await make(d, tune);
  const events = await follow(d, id);
  assert.equal(events.pop(), '[DONE]');
  const last = events.at(-1);
  assert.ok(['queued', 'running'].includes(events[0].status));
  assert.deepEqual([last.status, last.step, last.total_steps, last.progress, last.error], ['succeeded', 12, 12, 1, null]);
  assert.ok(last.metrics.loss < last.metrics.first_loss, JSON.stringify(last.metrics));
  assert.equal(last.result.state, 'tuned@1');
  assert.deepEqual(await get(d, id), last);
  assert.deepEqual((await follow(d, id)), [last, '[DONE]']); // who comes late sees the end
  const state = (await d.get('/v1/states/tuned')).json;
  assert.deepEqual([state.origin.kind, state.origin.job, state.has_logits], ['train_state', id, false]);
  assert.equal((await d.complete({ state: 'tuned', prompt: 'C', max_tokens: 4 })).started_from.ref, 'tuned@1');
  const again = await make(d, tune); // the name is taken
  const failed = (await follow(d, again)).at(-2);
  assert.deepEqual([failed.status, failed.error.code, failed.step], ['failed', 'state_exists', 0]);
  const pages = (await d.get('/v1/jobs?limit=1')).json;
  assert.deepEqual([pages.data[0].id, pages.has_more], [again, true]);
  const older = (await d.get(`/v1/jobs?limit=1&before=${pages.next_before}`)).json;
  assert.deepEqual([older.data[0].id, older.has_more], [id, false]);
  assert.deepEqual((await d.get('/v1/jobs?status=failed')).json.data.map((j) => j.id), [again]);
  assert.equal((await d.fetch('DELETE', `/v1/jobs/${id}`)).json.deleted, true);
  assert.equal((await d.get(`/v1/jobs/${id}`)).json.error.code, 'job_not_found');
  assert.equal((await d.fetch('DELETE', `/v1/jobs/${id}`)).status, 404);
  await d.stop();
});

test('jobs are cancelled while they wait and while they run; their number is bounded', async () => {
  const d = await start();
  const long = { ...tune, steps: 100000 };
  const first = await make(d, { ...long, name: 'a' });
  await follow(d, first, (j) => j.step > 0);
  const second = await make(d, { ...long, name: 'b' });
  assert.equal((await get(d, second)).status, 'queued');
  const waits = follow(d, second);
  const gone = (await d.fetch('DELETE', `/v1/jobs/${second}`)).json;
  assert.deepEqual([gone.status, gone.cancel_requested], ['cancelled', true]);
  assert.equal((await waits).at(-1), '[DONE]');
  for (let i = 1; i < 32; i++) await make(d, { ...long, name: `c${i}` });
  const full = await d.post('/v1/jobs', long);
  assert.deepEqual([full.status, full.json.error.code], [429, 'too_many_requests']);
  assert.ok(full.headers['retry-after']);
  const ends = follow(d, first);
  assert.equal((await d.fetch('DELETE', `/v1/jobs/${first}`)).json.cancel_requested, true);
  assert.equal((await ends).at(-2).status, 'cancelled');
  assert.equal((await d.get('/v1/states/a')).status, 404);
  await make(d, { ...long, name: 'd' }); // a place is free
  await d.stop();
});

test('kill -9: a job goes on from its checkpoint to the same bytes, and one that waited is run', async () => {
  const data = scratch();
  let d = await start({ data });
  const whole = await make(d, { ...tune, name: 'whole', steps: 400 });
  await follow(d, whole);
  const cut = await make(d, { ...tune, name: 'cut', steps: 400 });
  const next = await make(d, { ...tune, name: 'next' });
  const asked = await make(d, { ...tune, name: 'asked' });
  await d.fetch('DELETE', `/v1/jobs/${asked}`);
  await follow(d, cut, (j) => j.step >= 10);
  await d.kill();
  d = await start({ data });
  const last = (await follow(d, cut)).at(-2);
  assert.deepEqual([last.status, last.resumed, last.attempts], ['succeeded', true, 2]);
  assert.equal(await sha(d, 'cut'), await sha(d, 'whole'));
  const done = (await follow(d, next)).at(-2);
  assert.deepEqual([done.status, done.resumed], ['succeeded', false]);
  assert.equal((await get(d, asked)).status, 'cancelled');
  await d.stop();
});

test('a folder that belongs to no job that goes on is gone after a start', async () => {
  const data = scratch(), folders = () => readdirSync(join(data, 'jobs')).sort();
  let d = await start({ data });
  const ended = await make(d, tune);
  await follow(d, ended);
  const cut = await make(d, { ...tune, name: 'cut', steps: 100000 });
  await follow(d, cut, (j) => j.step >= 3);
  await d.kill();
  // What a process leaves that dies between the last word about a job and the end of its folder.
  for (const name of [ended, 'job-00000000000000000000', 'no name of a job']) {
    mkdirSync(join(data, 'jobs', name));
    writeFileSync(join(data, 'jobs', name, 'checkpoint.safetensors'), 'x');
  }
  assert.equal(folders().length, 4);
  d = await start({ data });
  assert.deepEqual(folders(), [cut]);
  const seen = (await follow(d, cut, (j) => j.status === 'running' && j.step >= 4)).at(-1);
  assert.ok(seen.resumed, JSON.stringify(seen));
  await d.delete(`/v1/jobs/${cut}`);
  await follow(d, cut);
  assert.deepEqual(folders(), []);
  await d.stop();
});

test('SIGTERM: a job stops with a checkpoint, who follows it is told, the next start goes on', async () => {
  const data = scratch();
  let d = await start({ data });
  const id = await make(d, { ...tune, steps: 200, checkpoint_every: 100000 });
  await follow(d, id, (j) => j.step >= 3);
  let told;
  await new Promise((first) => { told = follow(d, id, () => first()); });
  await d.stop();
  assert.equal((await told).at(-1).error.code, 'unavailable');
  d = await start({ data });
  const [seen] = await follow(d, id, (j) => j.step > 0).then((e) => e.slice(-1));
  assert.ok(seen.step >= 3 && seen.resumed, JSON.stringify(seen));
  await d.fetch('DELETE', `/v1/jobs/${id}`);
  await follow(d, id);
  assert.equal((await get(d, id)).status, 'cancelled');
  await d.stop();
});

test('quantised weights: no gradients', { skip: !bundledModel }, async () => {
  const d = await start({ model: bundledModel, args: ['--weights-type', 'q8_0'] });
  await refused(d.post('/v1/jobs', tune), 409, 'weights_quantized', 'model');
  await d.stop();
});
