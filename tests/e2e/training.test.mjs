// From texts to states: what is baked of a data set, and that none of it depends on how often the process dies.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ok, refused } from '../lib/answers.mjs';
import { bundledModel, scratch } from '../lib/daemon.mjs';
import { done, ended, follow, make, starter } from '../lib/jobs.mjs';
import { byteModel, readSafetensors } from '../lib/model.mjs';
import { random } from '../lib/random.mjs';

const model = byteModel();
const start = starter(model);

// Documents of sentences under the labels sea, law and law/old.
function texts(documents, sentences, seed = 1) {
  const r = random(seed), pick = (...of) => of[r(of.length)];
  const sentence = () => `${pick('The whale', 'A sailor', 'The captain', 'My shepherd', 'The king')} ${
    pick('rose from the deep', 'looked upon the sea', 'spoke unto the people', 'gave the law', 'kept the flock')}.`;
  return Array.from({ length: documents }, (_, i) => JSON.stringify({
    text: Array.from({ length: sentences }, sentence).join(' '), label: ['sea', 'law', 'law/old'][i % 3], document: `d${i}`,
  })).join('\n');
}

async function add(d, body, name = 'voices') {
  const r = await d.fetch('POST', `/v1/datasets/${name}`, body, { 'content-type': 'application/jsonl' });
  assert.ok(r.status < 300, r.text);
  return r.json;
}

const bake = { kind: 'bake_dataset', dataset: 'voices', segment_bytes: 64 };
const files = (d, folder) => (existsSync(join(d.data, folder)) ? readdirSync(join(d.data, folder)).sort() : []);
const sha = (path) => createHash('sha256').update(readFileSync(path)).digest('hex');
const statesFile = (d) => join(d.data, 'datasets', ...files(d, 'datasets'));
const record = async (d) => (await d.get('/v1/datasets/voices')).json;

test('baking: what was estimated, told, made, and taken away again', async () => {
  const d = await start();
  const set = await add(d, texts(30, 12));
  const id = await make(d, bake);
  const { plan } = (await d.get(`/v1/jobs/${id}`)).json;
  assert.deepEqual([plan.texts, plan.parts], [30, 1]);
  const last = await ended(d, id);
  assert.equal(last.status, 'succeeded', JSON.stringify(last.error));
  assert.deepEqual(last.plan, plan);
  const [baked] = (await record(d)).baked;
  assert.deepEqual(last.result, { dataset: 'voices', baked });
  assert.deepEqual([baked.labels, baked.texts, baked.job, baked.segment_bytes], [3, 30, id, 64]);
  assert.deepEqual([last.step, last.total_steps], [baked.rows, baked.rows]);
  assert.ok(baked.rows <= plan.rows && baked.bytes <= plan.bytes, JSON.stringify({ baked, plan }));
  assert.ok(plan.bytes < 3 * baked.bytes, 'an estimate that means something');
  const t = readSafetensors(statesFile(d));
  assert.deepEqual([t.states.dtype, t.states.shape[0], readFileSync(statesFile(d)).length], ['F16', baked.rows, baked.bytes]);
  // Every tenth document of a label is held out, as a whole.
  const heldout = [...t.heldout.data], document = (i) => t.documents.data.readInt32LE(4 * i);
  assert.equal(heldout.filter((h) => h).length, baked.heldout_rows);
  const held = new Set(heldout.flatMap((h, i) => (h ? [document(i)] : [])));
  assert.deepEqual(heldout.flatMap((h, i) => (!h && held.has(document(i)) ? [i] : [])), []);
  assert.equal(held.size, 3);
  assert.deepEqual(files(d, 'jobs'), []);
  // Texts that came later are read by the next one, which takes the place of this.
  await add(d, texts(3, 12, 2));
  const again = (await done(d, { ...bake, segments: 20 })).result.baked;
  assert.deepEqual([again.rows, again.texts, files(d, 'datasets').length], [20, set.texts + 3, 1]);
  assert.deepEqual((await record(d)).baked, [again]);
  assert.equal((await d.delete('/v1/datasets/voices')).status, 200);
  assert.deepEqual(files(d, 'datasets'), []);
  await d.stop();
});

test('baking goes on after kill -9 and SIGTERM to the same bytes, and leaves nothing when it is cancelled', async () => {
  const body = texts(60, 60);
  let d = await start();
  await add(d, body);
  await done(d, bake);
  const whole = sha(statesFile(d)), { rows } = (await record(d)).baked[0];
  await d.stop();
  d = await start();
  await add(d, body);
  const id = await make(d, bake);
  await add(d, texts(2, 9)); // not of this job
  let steps = 0;
  for (const end of ['kill', 'stop']) {
    const seen = (await follow(d, id, (j) => j.status === 'running' && j.step > steps)).at(-1);
    assert.equal(seen.status, 'running', `${seen.step} of ${rows} rows`);
    steps = seen.step;
    await d[end]();
    assert.deepEqual(files(d, 'datasets'), []);
    d = await start({ data: d.data });
  }
  const last = await ended(d, id);
  assert.deepEqual([last.status, last.resumed, last.step], ['succeeded', true, rows]);
  assert.equal(sha(statesFile(d)), whole);
  const other = await make(d, { ...bake, segment_bytes: 40 });
  await follow(d, other, (j) => j.step > 0);
  await d.kill();
  d = await start({ data: d.data });
  await follow(d, other, (j) => j.step > 0);
  await d.delete(`/v1/jobs/${other}`);
  assert.equal((await ended(d, other)).status, 'cancelled');
  assert.deepEqual([files(d, 'jobs'), sha(statesFile(d))], [[], whole]);
  // One that runs when its data set is deleted ends without a trace.
  const orphan = await make(d, { ...bake, segments: 1000 });
  await follow(d, orphan, (j) => j.step > 0);
  await d.delete('/v1/datasets/voices');
  const failed = await ended(d, orphan);
  assert.deepEqual([failed.status, failed.error.code], ['failed', 'dataset_not_found']);
  assert.deepEqual([files(d, 'jobs'), files(d, 'datasets')], [[], []]);
  await d.stop();
});

test('baking is refused before it begins: quota, memory, nothing to read', async () => {
  const d = await start({ args: ['--dataset-bytes', '1M', '--train-memory', '64M'] });
  await add(d, texts(90, 60));
  const no = (more, ...want) => refused(d.post('/v1/jobs', { ...bake, ...more }), ...want);
  await no({}, 507, 'storage_full', null);
  await no({ dataset: 'nobody' }, 404, 'dataset_not_found', 'dataset');
  await no({ segment_bytes: 15 }, 400, 'invalid_request', 'segment_bytes');
  await add(d, JSON.stringify({ text: 'Call me.', label: 'a' }), 'short');
  await no({ dataset: 'short' }, 400, 'invalid_request', 'dataset');
  await add(d, JSON.stringify({ text: 'x'.repeat(500), label: 'a' }), 'endless');
  const { json } = await d.post('/v1/jobs', { ...bake, dataset: 'endless' });
  const failed = await ended(d, json.id); // that no sentence ends is found when it is read
  assert.deepEqual([failed.status, failed.error.code, failed.error.param], ['failed', 'invalid_request', 'dataset']);
  assert.deepEqual((await d.get('/v1/jobs')).json.data.length, 1);
  await d.stop();
  const small = await start({ args: ['--train-memory', '16M'] });
  await add(small, texts(3, 10));
  await refused(small.post('/v1/jobs', bake), 409, 'memory_limit');
  await small.stop();
});

const dit = { kind: 'train_dit', dataset: 'voices', name: 'dreamer', steps: 6, batch: 8, components: 8, n_embd: 16, n_head: 2, n_block: 1, eval_every: 3, checkpoint_every: 2 };
const diffuser = async (d, name) => (await d.get(`/v1/diffusers/${name}`)).json;

test('from texts to a generated state, on quantised weights', { skip: !bundledModel }, async () => {
  const d = await start({ model: bundledModel, args: ['--weights-type', 'q8_0'] });
  await add(d, texts(6, 6));
  assert.equal((await done(d, bake)).result.baked.weights_type, 'q8_0');
  await refused(d.post('/v1/jobs', { kind: 'train_state', name: 'tuned', text: 'The sea. '.repeat(9) }), 409, 'weights_quantized', 'model');
  const id = await make(d, dit), events = await follow(d, id), last = events.at(-2);
  assert.equal(last.status, 'succeeded', JSON.stringify(last.error));
  assert.deepEqual([last.step, last.total_steps, last.metrics.samples], [6, 6, 48]);
  assert.ok(last.metrics.loss > 0 && last.metrics.first_loss > 0 && last.metrics.x0_error > 0, JSON.stringify(last.metrics));
  const { evaluation } = last.result, of = Object.values(evaluation.x0_error);
  assert.deepEqual([evaluation.step, of.length], [6, 20]);
  assert.ok(Math.abs(evaluation.mean - of.reduce((a, b) => a + b) / 20) < 1e-6);
  const made = await diffuser(d, 'dreamer');
  assert.deepEqual([made.sha256, made.meta.steps, made.meta.labels], [last.result.sha256, 6, ['sea', 'law', 'law/old']]);
  assert.deepEqual(made.meta.training, { job: id, dataset: 'voices', evaluation });
  assert.equal(made.meta.n_params, last.plan.parameters);
  await ok(d.post('/v1/states/generations', { name: 'dreamt', condition: { label: 'sea' }, num_inference_steps: 2, seed: 1 }));
  await d.complete({ state: 'dreamt', prompt: 'The ', max_tokens: 4 });
  await d.stop();
});

test('a training goes on after kill -9 and SIGTERM to the same bytes, even when its data set is gone', async () => {
  let d = await start();
  await add(d, texts(30, 12));
  await done(d, bake);
  const long = { ...dit, steps: 600, batch: 40, n_embd: 64, n_block: 2, checkpoint_every: 20, eval_every: 100 };
  const whole = (await done(d, { ...long, name: 'whole' })).result;
  const id = await make(d, { ...long, name: 'cut' });
  let steps = 0;
  for (const end of ['kill', 'stop', 'kill']) {
    const seen = (await follow(d, id, (j) => j.status === 'running' && j.step > steps)).at(-1);
    assert.equal(seen.status, 'running', `${seen.step} of 600 steps`);
    steps = seen.step;
    if (end === 'stop') assert.equal((await d.delete('/v1/datasets/voices')).status, 200);
    await d[end]();
    d = await start({ data: d.data });
  }
  const last = await ended(d, id);
  assert.deepEqual([last.status, last.resumed, last.step], ['succeeded', true, 600], JSON.stringify(last.error));
  assert.deepEqual([last.result.sha256, last.result.evaluation], [whole.sha256, whole.evaluation]);
  assert.equal((await diffuser(d, 'cut')).sha256, (await diffuser(d, 'whole')).sha256);
  assert.deepEqual(files(d, 'jobs'), []);
  await d.stop();
});

test('a training is refused with the reason, and cancelled without a trace', async () => {
  const d = await start({ args: ['--train-memory', '64M'] });
  await add(d, texts(30, 12));
  const no = (more, ...want) => refused(d.post('/v1/jobs', { ...dit, ...more }), ...want);
  await no({}, 409, 'not_baked', 'dataset');
  await no({ dataset: 'nobody' }, 404, 'dataset_not_found', 'dataset');
  await done(d, { ...bake, segments: 60 });
  assert.match(await no({ n_embd: 1024, n_block: 12 }, 409, 'memory_limit', null), /parameters would want \d+ bytes/);
  await no({ n_embd: 16384, n_head: 1, n_block: 256, n_mlp: 65536 }, 409, 'memory_limit', null);
  await no({ components: 64 }, 400, 'invalid_request', 'components');
  await no({ components: 65536 }, 400, 'invalid_request', 'components');
  await no({ basis: 200 }, 400, 'invalid_request', 'basis');
  await no({ out: '/tmp/x' }, 400, 'invalid_request', 'out');
  await no({ max_minutes: 1 }, 400, 'invalid_request', 'max_minutes');
  await no({ n_head: 3 }, 400, 'invalid_request', 'n_head');
  const first = (await done(d, dit)).result;
  await no({}, 409, 'name_exists', 'name');
  const other = (await done(d, { ...dit, seed: 2, if_exists: 'replace' })).result;
  assert.notEqual(other.sha256, first.sha256);
  assert.equal((await diffuser(d, 'dreamer')).sha256, other.sha256);
  assert.equal((await done(d, { ...dit, name: 'again' })).result.sha256, first.sha256);
  const id = await make(d, { ...dit, name: 'never', steps: 1000000 });
  await follow(d, id, (j) => j.step > 0);
  await d.delete(`/v1/jobs/${id}`);
  assert.equal((await ended(d, id)).status, 'cancelled');
  assert.equal((await d.get('/v1/diffusers/never')).status, 404);
  assert.deepEqual(files(d, 'jobs'), []);
  await d.stop();
});

const tune = { kind: 'train_state', steps: 8, batch: 2, sequence: 32, checkpoint_every: 2 };
const state = async (d, ref) => (await d.get(`/v1/states/${ref}`)).json;

test('a state is tuned on a data set, or on one label of it and its styles', async () => {
  const d = await start();
  const text = 'Call me Ishmael. Some years ago, never mind how long precisely.\n'.repeat(9);
  const lines = [['law', text], ['sea', 'The whale rose. '.repeat(20)], ['law/old', 'Honour thy father. '.repeat(20)]];
  await add(d, lines.map(([label, t]) => JSON.stringify({ label, text: t })).join('\n'));
  await add(d, JSON.stringify({ label: 'law', text }), 'one');
  const made = async (name, more) => {
    const job = await done(d, { ...tune, name, ...more }), s = await state(d, name);
    return { sha256: s.sha256, origin: s.origin, plan: job.plan };
  };
  const inline = await made('inline', { text }), one = await made('one', { dataset: 'one' });
  assert.equal(one.sha256, inline.sha256);
  assert.equal(inline.plan.bytes, text.length);
  assert.deepEqual([one.origin.dataset, one.origin.label], ['one', undefined]);
  const old = await made('old', { dataset: 'voices', label: 'law/old' }), law = await made('law', { dataset: 'voices', label: 'law' });
  const all = await made('all', { dataset: 'voices' });
  assert.deepEqual([old.plan.bytes, law.plan.bytes, all.plan.bytes], [19 * 20, text.length + 19 * 20, text.length + 16 * 20 + 19 * 20]);
  assert.deepEqual([law.origin.dataset, law.origin.label], ['voices', 'law']);
  assert.equal(new Set([one, old, law, all].map((s) => s.sha256)).size, 4);
  for (const [more, status, code, param] of [
    [{ dataset: 'voices', label: 'la' }, 400, 'invalid_request', 'label'], [{ dataset: 'nobody' }, 404, 'dataset_not_found', 'dataset'],
    [{ text, label: 'law' }, 400, 'invalid_request', 'label'], [{ text, dataset: 'one' }, 400, 'invalid_request', 'dataset'],
    [{}, 400, 'invalid_request', 'text']])
    await refused(d.post('/v1/jobs', { ...tune, name: 'never', ...more }), status, code, param);
  await d.stop();
  const small = await start({ args: ['--train-memory', '100K'] });
  await refused(small.post('/v1/jobs', { ...tune, name: 'never', text }), 409, 'memory_limit');
  await small.stop();
});

test('tuning on a data set goes on after kill -9 to the same bytes, even when the data set is gone', async () => {
  let d = await start();
  await add(d, texts(9, 20));
  const long = { ...tune, dataset: 'voices', steps: 300, checkpoint_every: 10 };
  await done(d, { ...long, name: 'whole' });
  const id = await make(d, { ...long, name: 'cut' });
  await add(d, texts(9, 20, 2)); // not of this job
  await follow(d, id, (j) => j.step > 0);
  await d.delete('/v1/datasets/voices');
  await d.kill();
  d = await start({ data: d.data });
  const last = await ended(d, id);
  assert.deepEqual([last.status, last.resumed], ['succeeded', true], JSON.stringify(last.error));
  assert.equal((await state(d, 'cut')).sha256, (await state(d, 'whole')).sha256);
  await d.stop();
});
