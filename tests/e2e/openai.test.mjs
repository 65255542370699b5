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

test('chat, whole and streamed, by its stream helper too', { skip }, async () => {
  const ask = { model: 'tiny', messages: [{ role: 'developer', content: 'x' }, { role: 'user', content: 'Hello' }],
    max_completion_tokens: 10, seed: 4, temperature: 0.5, logprobs: true, top_logprobs: 2, user: 'u' };
  const whole = await client.chat.completions.create(ask);
  const [choice] = whole.choices;
  assert.deepEqual([whole.object, choice.message.role, choice.finish_reason], ['chat.completion', 'assistant', 'length']);
  assert.equal(choice.logprobs.content.length, 10);
  const helper = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
  const final = await helper.finalChatCompletion();
  assert.equal(final.choices[0].message.content, choice.message.content);
  assert.deepEqual(final.choices[0].logprobs.content, choice.logprobs.content);
  const usage = await helper.totalUsage();
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens], [whole.usage.prompt_tokens, 10]);
  // The same question again: its prompt was read already.
  assert.equal(final.usage.prompt_tokens_details.cached_tokens, whole.usage.prompt_tokens);
});

test('structured outputs parse', { skip }, async () => {
  const schema = { type: 'object', properties: { n: { type: 'integer', minimum: 1, maximum: 5 } }, required: ['n'], additionalProperties: false };
  const r = await client.chat.completions.parse({
    model: 'tiny', messages: [{ role: 'user', content: 'a number' }], seed: 1,
    response_format: { type: 'json_schema', json_schema: { name: 'number', strict: true, schema } },
  });
  assert.equal(r.choices[0].finish_reason, 'stop');
  const { n } = JSON.parse(r.choices[0].message.content);
  assert.ok(n >= 1 && n <= 5);
});

test('a full queue is tried again until there is room', { skip }, async () => {
  const m = await Daemon.start({ model: byteModel('tiny.safetensors'), args: ['--max-sequences', '1', '--max-queue', '0'] });
  try {
    const own = (maxRetries) => new OpenAI({ baseURL: `${m.url}/v1`, apiKey: 'none', maxRetries });
    const ask = { model: 'tiny', messages: [{ role: 'user', content: 'a' }] };
    const busy = await own(0).chat.completions.create({ ...ask, max_tokens: 1000000, stream: true });
    await m.until('dreamstate_sequences_active', (v) => v === 1);
    await assert.rejects(own(0).chat.completions.create({ ...ask, max_tokens: 2 }), (e) => e instanceof OpenAI.RateLimitError);
    const refused = await m.metric('dreamstate_refused_total');
    const later = own(20).chat.completions.create({ ...ask, max_tokens: 2 });
    await m.until('dreamstate_refused_total', (v) => v > refused);
    busy.controller.abort();
    assert.equal((await later).usage.completion_tokens, 2);
  } finally {
    await m.stop();
  }
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

test('giving up, by signal or by time, frees the sequence of a whole answer too', { skip }, async () => {
  const ask = [{ model: 'tiny', messages: [{ role: 'user', content: 'a' }], max_tokens: 1000000 }];
  const abort = new AbortController();
  const left = client.chat.completions.create(...ask, { signal: abort.signal });
  await d.until('dreamstate_sequences_active', (v) => v === 1);
  abort.abort();
  await assert.rejects(left, (e) => e instanceof OpenAI.APIUserAbortError);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  await assert.rejects(client.chat.completions.create(...ask, { timeout: 50 }), (e) => e instanceof OpenAI.APIConnectionTimeoutError);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
});

test('request ids, and a key that is wrong', { skip }, async () => {
  const { data, request_id } = await client.models.list().withResponse();
  assert.match(request_id, /^req-/);
  assert.equal(data.data[0].id, 'tiny');
  const m = await Daemon.start({ model: byteModel('tiny.safetensors'), env: { DREAMSTATE_API_KEY: 'key-of-the-daemon-0' } });
  try {
    const as = (apiKey) => new OpenAI({ baseURL: `${m.url}/v1`, apiKey, maxRetries: 0 }).models.list();
    await assert.rejects(as('another'), (e) => e instanceof OpenAI.AuthenticationError && e.code === 'invalid_api_key');
    assert.equal((await as('key-of-the-daemon-0')).data.length, 1);
  } finally {
    await m.stop();
  }
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
