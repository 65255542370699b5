// A stock OpenAI client, unchanged.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const [major] = process.versions.node.split('.').map(Number);
let OpenAI;
try {
  OpenAI = (await import('openai')).default;
} catch (e) {
  console.log(`skip: no openai client (${e.code}): npm ci in tests/`);
}
const skip = !OpenAI ? 'the openai client is not installed' : major < 20 ? 'the openai client needs Node 20' : false;
if (skip) console.log(`skip: ${skip}`);

let d, client;
before(async () => {
  if (skip) return;
  d = await Daemon.start({ model: byteModel('tiny.safetensors') });
  client = new OpenAI({ baseURL: `${d.url}/v1`, apiKey: 'none', maxRetries: 0 });
});
after(async () => { await d?.stop(); });

test('models', { skip }, async () => {
  const ids = [];
  for await (const m of client.models.list()) ids.push(m.id);
  assert.deepEqual(ids, ['tiny']);
  assert.equal((await client.models.retrieve('tiny')).object, 'model');
  await assert.rejects(client.models.retrieve('nobody'), (e) => e.status === 404 && e.code === 'model_not_found');
});

test('completions, whole and streamed', { skip }, async () => {
  const ask = { model: 'tiny', prompt: 'Hello', max_tokens: 8, seed: 4, temperature: 0.5, stop: '\n\n', user: 'u' };
  const whole = await client.completions.create(ask);
  assert.equal(whole.object, 'text_completion');
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  let text = '', usage, finish;
  for await (const c of await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })) {
    text += c.choices[0]?.text ?? '';
    finish = c.choices[0]?.finish_reason ?? finish;
    usage = c.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].text);
  assert.equal(finish, whole.choices[0].finish_reason);
  assert.deepEqual(usage, whole.usage);
});

test('a named state as an extra field', { skip }, async () => {
  await d.post('/v1/states', { name: 'greeting', text: 'Good morning' });
  const r = await client.completions.create({ model: 'tiny', prompt: '!', max_tokens: 2, state: 'greeting' });
  assert.equal(r.timings.cache_n, 12);
  assert.equal(r.timings.prompt_n, 1);
});

test('errors are the client\'s own classes', { skip }, async () => {
  const create = (body) => client.completions.create({ model: 'tiny', prompt: 'a', ...body });
  await assert.rejects(create({ temperature: 'x' }), (e) => e instanceof OpenAI.BadRequestError && e.param === 'temperature');
  await assert.rejects(create({ state: 'nobody' }), (e) => e instanceof OpenAI.NotFoundError && e.code === 'state_not_found');
  await assert.rejects(create({ state: 'nobody', stream: true }), (e) => e instanceof OpenAI.NotFoundError);
  await assert.rejects(create({ model: 'gpt-x' }), (e) => e instanceof OpenAI.NotFoundError && e.type === 'not_found_error');
  await assert.rejects(create({ save_state: 'greeting', max_tokens: 1 }), (e) => e instanceof OpenAI.ConflictError);
});

// The client asks for base64 unless told otherwise, and unpacks it itself.
test('embeddings', { skip }, async () => {
  const input = ['Hello', 'Good morning'];
  const packed = await client.embeddings.create({ model: 'tiny', input });
  const floats = await client.embeddings.create({ model: 'tiny', input, encoding_format: 'float' });
  assert.deepEqual(packed.usage, { prompt_tokens: 17, total_tokens: 17 });
  for (const i of [0, 1]) {
    assert.equal(packed.data[i].embedding.length, 128);
    assert.deepEqual([...packed.data[i].embedding], floats.data[i].embedding.map(Math.fround));
  }
  await assert.rejects(client.embeddings.create({ model: 'tiny', input, dimensions: 5 }),
    (e) => e instanceof OpenAI.BadRequestError && e.param === 'dimensions');
});

test('aborting a stream is harmless', { skip }, async () => {
  const stream = await client.completions.create({ model: 'tiny', prompt: 'a', max_tokens: 100000, stream: true });
  let n = 0;
  for await (const c of stream) {
    assert.equal(c.choices.length, 1);
    if (++n === 5) stream.controller.abort();
  }
  await d.until('dreamstate_sequences_active', (v) => v === 0);
});
