// From texts to a hybrid that requests run with: no restart between, none of it lost by one, none of it mixed up.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ok, refused } from '../lib/answers.mjs';
import { bundledModel } from '../lib/daemon.mjs';
import { hybridFile, metaOf } from '../lib/hybrid.mjs';
import { done, ended, follow, make, starter } from '../lib/jobs.mjs';
import { byteModel } from '../lib/model.mjs';
import { random } from '../lib/random.mjs';

const model = byteModel();
const type = { 'content-type': 'application/octet-stream' };
const start = starter(model);

// Long documents of sentences under the labels sea, law and law/old.
async function addTexts(d, name = 'voices', documents = 24) {
  const r = random(3), pick = (...of) => of[r(of.length)];
  const sentence = () => `${pick('The whale', 'A sailor', 'The captain', 'My shepherd', 'The king')} ${
    pick('rose from the deep', 'looked upon the sea', 'spoke unto the people', 'gave the law', 'kept the flock')}.`;
  const lines = Array.from({ length: documents }, (_, i) => JSON.stringify({
    text: Array.from({ length: 40 }, sentence).join(' '), label: ['sea', 'law', 'law/old'][i % 3], document: `d${i}` }));
  await ok(d.fetch('POST', `/v1/datasets/${name}`, lines.join('\n'), { 'content-type': 'application/jsonl' }));
}

const train = { kind: 'train_hybrid', dataset: 'voices', name: 'reader', steps: 6, pairs: 8, eval_pairs: 4, corpus_steps: 3, context_max: 256, continuations: 2,
  batch: 4, n_embd: 16, n_head: 2, n_block: 1, eval_every: 3, checkpoint_every: 2 };
const served = async (d) => (await d.get('/v1/models?limit=0')).json.data[0].meta.hybrid;
const context = (d, name, more) => d.post('/v1/contexts', { name, text: 'The whale swam on.', seed: 1, ...more });
const under = (d, name) => d.post('/v1/completions', { prompt: 'a', max_tokens: 4, seed: 1, hybrid: { context: name } });

test('a hybrid is trained, served at once and after a restart, replaced and deleted', async () => {
  let d = await start();
  await addTexts(d);
  await refused(context(d, 'c'), 409, 'no_hybrid');
  const id = await make(d, train);
  const events = await follow(d, id), last = events.at(-2);
  assert.equal(last.status, 'succeeded', JSON.stringify(last.error));
  assert.deepEqual([last.step, last.total_steps, last.metrics.tokens], [6, 6, 6 * 4 * 64]);
  assert.ok(last.metrics.loss > 0 && last.metrics.diffusion_loss > 0, JSON.stringify(last.metrics));
  const { evaluation, sha256 } = last.result;
  assert.deepEqual([last.result.hybrid, last.result.served, evaluation.step], ['reader', true, 6]);
  assert.deepEqual(Object.keys(evaluation.bits_per_byte), ['plain', 'context', 'wrong', 'none', 'diffusion']);
  const record = await ok(d.get('/v1/hybrids/reader'), 200);
  assert.deepEqual([record.sha256, record.meta.steps, record.meta.n_params], [sha256, 6, last.plan.parameters]);
  assert.deepEqual(record.meta.training, { job: id, dataset: 'voices', evaluation });
  const { body } = await d.get('/v1/hybrids/reader/data');
  assert.equal(createHash('sha256').update(body).digest('hex'), sha256);
  assert.equal(await served(d), sha256);
  const made = await ok(context(d, 'c'));
  assert.equal(made.hybrid, sha256);
  const said = (await ok(under(d, 'c'), 200)).hybrid;
  assert.deepEqual([readdirSync(join(d.data, 'jobs')), (await done(d, { ...train, name: 'again' })).result.sha256], [[], sha256]);
  await refused(d.post('/v1/jobs', train), 409, 'name_exists', 'name');
  await d.kill();
  d = await start({ data: d.data });
  assert.equal(await served(d), sha256);
  assert.deepEqual((await ok(under(d, 'c'), 200)).hybrid, said);
  // Another one takes its place: what the first made of a text is not taken for the second's.
  const second = (await done(d, { ...train, if_exists: 'replace', seed: 2, rank: 1 })).result;
  assert.notEqual(second.sha256, sha256);
  assert.equal(await served(d), second.sha256);
  await refused(under(d, 'c'), 409, 'model_mismatch', 'hybrid.context');
  assert.deepEqual([record.meta.rank, (await ok(d.get('/v1/hybrids/reader'), 200)).meta.rank], [0, 1]);
  const low = await ok(context(d, 'c', { if_exists: 'replace' }));
  assert.deepEqual([low.bytes, Object.keys(low.norms).length], [2 * made.bytes, 9]); // 12 vectors a layer, not 6
  await ok(under(d, 'c'), 200);
  await ok(d.delete('/v1/hybrids/reader'), 200);
  assert.equal(await served(d), sha256); // the one before: `again`
  await ok(d.delete('/v1/hybrids/again'), 200);
  await refused(under(d, 'c'), 409, 'no_hybrid');
  await refused(d.get('/v1/hybrids/again'), 404, 'hybrid_not_found');
  await d.stop();
});

test('which one: what --hybrid names, else the one stored last, else the one beside the model', async () => {
  const own = byteModel(), meta = await metaOf(own), beside = join(dirname(own), 'hybrid.safetensors'), named = join(dirname(own), 'named');
  const sha = (b) => createHash('sha256').update(b).digest('hex');
  const [a, b, c] = [1, 2, 3].map((seed) => hybridFile(meta, { seed }));
  writeFileSync(beside, a);
  writeFileSync(named, b);
  let d = await start({ model: own });
  assert.equal(await served(d), sha(a));
  await ok(d.post('/v1/hybrids?name=c', c, type));
  assert.equal(await served(d), sha(c));
  await d.stop();
  d = await start({ model: own, data: d.data, args: ['--hybrid', named] });
  assert.equal(await served(d), sha(b));
  await ok(d.post('/v1/hybrids?name=d', a, type));
  assert.equal(await served(d), sha(b));
  await d.stop();
  d = await start({ model: own, data: d.data });
  assert.equal(await served(d), sha(a));
  await ok(d.delete('/v1/hybrids/d'), 200);
  await ok(d.delete('/v1/hybrids/c'), 200);
  assert.equal(await served(d), sha(a));
  const other = await metaOf(byteModel('other.safetensors', (t) => { t['ln_out.bias'].data = Buffer.from(t['ln_out.bias'].data); t['ln_out.bias'].data.writeFloatLE(0.5, 0); }));
  await refused(d.post('/v1/hybrids?name=other', hybridFile(other), type), 409, 'model_mismatch');
  await refused(d.post('/v1/hybrids?name=bad', a.subarray(0, 400), type), 422, 'invalid_file');
  assert.deepEqual((await d.get('/v1/hybrids')).json.data, []);
  await d.stop();
});

test('requests run on while their model\'s hybrid is replaced', async () => {
  const d = await start();
  const { meta } = (await d.get('/v1/models?limit=0')).json.data[0];
  const files = [1, 2].map((seed) => hybridFile(meta, { seed })), sums = new Set();
  await ok(d.post('/v1/hybrids?name=first', files[0], type));
  let over = false;
  const ask = async () => {
    while (!over) sums.add((await ok(d.post('/v1/completions', { prompt: 'a', max_tokens: 3, seed: 1, hybrid: { context: { text: 'The whale. '.repeat(40) }, seed: 1 } }), 200)).hybrid.sha256);
  };
  const asking = [ask(), ask(), ask(), ask()];
  for (let i = 0; i < 20; i++) {
    await ok(d.post(`/v1/hybrids?name=n${i}`, files[(i + 1) % 2], type));
    if (i) await ok(d.delete(`/v1/hybrids/n${i - 1}`), 200);
  }
  over = true;
  await Promise.all(asking);
  assert.ok(sums.size <= 2, [...sums].join()); // never a mixture
  await d.stop();
});

test('a training goes on after kill -9 and SIGTERM to the same bytes, even when its data set is gone', async () => {
  let d = await start();
  await addTexts(d);
  const long = { ...train, steps: 300, pairs: 40, corpus_steps: 60, eval_every: 100, checkpoint_every: 20 };
  const whole = (await done(d, { ...long, name: 'whole' })).result;
  const id = await make(d, { ...long, name: 'cut' });
  let step = 0;
  for (const [end, test] of [['kill', (j) => j.metrics?.pairs > 0], ['stop', (j) => j.step > 0], ['kill', (j) => j.step > step]]) {
    const seen = (await follow(d, id, (j) => j.status === 'running' && test(j))).at(-1);
    assert.equal(seen.status, 'running', JSON.stringify(seen));
    step = seen.step;
    if (end === 'stop') await ok(d.delete('/v1/datasets/voices'), 200);
    await d[end]();
    d = await start({ data: d.data });
  }
  const last = await ended(d, id);
  assert.deepEqual([last.status, last.resumed, last.step], ['succeeded', true, 300], JSON.stringify(last.error));
  assert.deepEqual([last.result.sha256, last.result.evaluation], [whole.sha256, whole.evaluation]);
  assert.equal(await served(d), whole.sha256);
  assert.deepEqual(readdirSync(join(d.data, 'jobs')), []);
  await d.stop();
});

test('a training is refused with the reason, and cancelled without a trace', async () => {
  const d = await start({ args: ['--train-memory', '64M'] });
  await addTexts(d);
  const no = (more, ...want) => refused(d.post('/v1/jobs', { ...train, ...more }), ...want);
  await no({ dataset: 'nobody' }, 404, 'dataset_not_found', 'dataset');
  await no({ model: 'nobody' }, 404, 'model_not_found', 'model');
  assert.match(await no({ n_embd: 1024, n_block: 12 }, 409, 'memory_limit', null), /parameters would want \d+ bytes/);
  await no({ pairs: 1000000 }, 409, 'memory_limit', null);
  await no({ n_embd: 16384, n_head: 1, n_block: 256, n_mlp: 65536 }, 409, 'memory_limit', null);
  for (const [more, param] of [[{ steps: undefined }, 'steps'], [{ heldout: 0 }, 'heldout'], [{ max_context: 7 }, 'max_context'], [{ n_head: 3 }, 'n_head'], [{ out: '/tmp/x' }, 'out'],
    [{ eval: [] }, 'eval'], [{ max_minutes: 1 }, 'max_minutes'], [{ name: 'a b' }, 'name'], [{ if_exists: 'new_version' }, 'if_exists'], [{ corpus_steps: 0, target_steps: 0 }, 'target_steps'],
    [{ context_min: 300 }, 'context_min'], [{ products: 'f64' }, 'products'], [{ target_bytes: 65536 }, 'target_bytes'], [{ dataset: '' }, 'dataset']])
    await no(more, 400, 'invalid_request', param);
  // What only the texts tell.
  await ok(d.fetch('POST', '/v1/datasets/one', JSON.stringify({ label: 'sea', text: 'The whale rose. '.repeat(99) }), { 'content-type': 'application/jsonl' }));
  await ok(d.fetch('POST', '/v1/datasets/short', [1, 2, 3, 4].map((i) => JSON.stringify({ label: 'sea', text: `Whale ${i}.` })).join('\n'), { 'content-type': 'application/jsonl' }));
  for (const [dataset, param] of [['one', 'heldout'], ['short', null]]) {
    const failed = await ended(d, await make(d, { ...train, dataset, heldout: 0.5 }));
    assert.deepEqual([failed.status, failed.error.code, failed.error.param], ['failed', 'invalid_request', param], JSON.stringify(failed.error));
  }
  for (const seen of [(j) => j.metrics?.pairs > 0, (j) => j.step > 0]) {
    const id = await make(d, { ...train, name: 'never', steps: 1000000, pairs: 40, corpus_steps: 60 });
    await follow(d, id, seen);
    await d.delete(`/v1/jobs/${id}`);
    assert.equal((await ended(d, id)).status, 'cancelled');
  }
  assert.deepEqual([(await d.get('/v1/hybrids')).json.data, readdirSync(join(d.data, 'jobs')), await served(d)], [[], [], null]);
  await d.stop();
});

test('weights that gradients cannot go through', { skip: !bundledModel }, async () => {
  const d = await start({ model: bundledModel, args: ['--weights-type', 'q8_0'] });
  await refused(d.post('/v1/jobs', train), 409, 'weights_quantized', 'model');
  await d.stop();
});
