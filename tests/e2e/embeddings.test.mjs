// POST /v1/embeddings: the shape, the numbers' two encodings, hostile input, clients that leave.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, randModel } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

let d;
before(async () => { d = await Daemon.start({ model: [byteModel('tiny.safetensors'), `ids=${randModel}`], args: ['--max-sequences', '4'] }); });
after(async () => { await d?.stop(); });

async function embed(body) {
  const r = await d.post('/v1/embeddings', body);
  assert.equal(r.status, 200, r.text);
  return r.json;
}
const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);

test('unit vectors, the same alone and in any company', async () => {
  const texts = Array.from({ length: 70 }, (_, i) => 'word '.repeat(1 + (i % 9)) + i);
  const all = await embed({ input: texts });
  assert.equal(all.object, 'list');
  assert.equal(all.model, 'tiny');
  const bytes = texts.reduce((s, t) => s + t.length, 0);
  assert.deepEqual(all.usage, { prompt_tokens: bytes, total_tokens: bytes });
  assert.deepEqual(all.data.map((x) => x.index), texts.map((_, i) => i));
  for (const i of [0, 3, 4, 37, 69]) {
    const v = all.data[i].embedding;
    assert.equal(v.length, 128);
    assert.ok(Math.abs(dot(v, v) - 1) < 1e-6);
    assert.deepEqual((await embed({ input: texts[i] })).data[0].embedding, v);
    assert.deepEqual((await embed({ input: [...Buffer.from(texts[i])] })).data[0].embedding, v);
  }
});

test('base64 is the same numbers as little-endian F32', async () => {
  const input = ['one', 'two words'];
  const text = await embed({ input, encoding_format: 'float' });
  const packed = await embed({ input, encoding_format: 'base64', dimensions: 128 });
  for (const i of [0, 1]) {
    const b = Buffer.from(packed.data[i].embedding, 'base64');
    assert.equal(b.length, 4 * 128);
    assert.deepEqual(Array.from({ length: 128 }, (_, k) => b.readFloatLE(4 * k)), text.data[i].embedding.map(Math.fround));
  }
});

test('from a named state', async () => {
  assert.equal((await d.post('/v1/states', { name: 'sea', text: 'Call me Ishmael.' })).status, 201);
  const plain = (await embed({ input: ' Hello' })).data[0].embedding;
  const from = await embed({ input: [' Hello', 'x', ' Hello'], state: 'sea' });
  assert.deepEqual(from.started_from, { ref: 'sea@1', other_weights_type: false });
  assert.notDeepEqual(from.data[0].embedding, plain);
  assert.deepEqual(from.data[0].embedding, from.data[2].embedding);
  assert.equal(from.usage.prompt_tokens, 13);
});

test('what is wrong is told, and where', async () => {
  const refused = async (body, status, param) => {
    const r = await d.post('/v1/embeddings', body);
    assert.equal(r.status, status, r.text);
    assert.equal(r.json.error.param, param, r.text);
  };
  await refused({}, 400, 'input');
  await refused({ input: '' }, 400, 'input');
  await refused({ input: [] }, 400, 'input');
  await refused({ input: ['a', ''] }, 400, 'input');
  await refused({ input: ['a', 7] }, 400, 'input');
  await refused({ input: [[1, 2], 'a'] }, 400, 'input');
  await refused({ input: [300] }, 400, 'input');
  await refused({ input: 7 }, 400, 'input');
  await refused({ input: { a: 1 } }, 400, 'input');
  await refused({ input: Array(2049).fill('a') }, 400, 'input');
  await refused({ input: 'a', encoding_format: 'int8' }, 400, 'encoding_format');
  await refused({ input: 'a', dimensions: 64 }, 400, 'dimensions');
  await refused({ input: 'a', model: 'x' }, 404, 'model');
  await refused({ input: 'a', state: 'nobody' }, 404, 'state');
  const r = await d.post('/v1/embeddings', { input: 'text', model: 'ids' });
  assert.equal(r.status, 400);
  assert.match(r.json.error.message, /--vocab/);
});

test('a client that leaves frees its places', async () => {
  const before = await d.metric('dreamstate_cancelled_total');
  const lost = d.post('/v1/embeddings', { input: Array(8).fill('long text '.repeat(20000)) }).catch((e) => e);
  await d.until('dreamstate_sequences_active', (v) => v === 4);
  d.agent.destroy();
  assert.ok(await lost instanceof Error);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  assert.equal(await d.metric('dreamstate_cancelled_total'), before + 4);
});
