// response_format: whatever the model would rather say, the answer is the JSON that was asked for.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { frames, Raw } from '../lib/raw.mjs';
import { missing } from '../lib/spec.mjs';

let d, validator;
before(async () => {
  d = await Daemon.start({ model: byteModel() });
  if (!missing) {
    const Ajv = (await import('ajv/dist/2020.js')).default;
    validator = (schema) => new Ajv({ strict: false }).compile(schema);
  }
});
after(async () => { await d?.stop(); });

const person = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 8 }, age: { type: 'integer', minimum: 0, maximum: 150 },
    tags: { type: 'array', items: { enum: ['a', 'bc', null] }, maxItems: 3 },
    at: { anyOf: [{ type: 'null' }, { type: 'string', pattern: '^\\d{4}-\\d{2}$' }] },
  },
  required: ['name', 'age', 'tags', 'at'],
  additionalProperties: false,
};
const format = (schema) => ({ type: 'json_schema', json_schema: { name: 'x', strict: true, schema } });
const messages = [{ role: 'user', content: 'hi' }];

test('an answer by a schema is valid, for every seed, and ends by itself', { skip: missing }, async () => {
  const valid = validator(person);
  const all = await Promise.all(Array.from({ length: 12 }, (_, seed) =>
    d.post('/v1/chat/completions', { messages, seed, temperature: 1.5, response_format: format(person), max_tokens: 4000 })));
  for (const { status, text, json } of all) {
    assert.equal(status, 200, text);
    const [c] = json.choices;
    assert.equal(c.finish_reason, 'stop');
    const v = JSON.parse(c.message.content);
    assert.ok(valid(v), c.message.content);
  }
  assert.ok(await d.metric('dreamstate_mask_seconds_count') > 0);
});

test('json_object, and json_schema as llama-server has it, in both kinds of completions', async () => {
  const bias = { logit_bias: { ['}'.charCodeAt(0)]: 20, ['"'.charCodeAt(0)]: 20 } };
  for (const ask of [{ response_format: { type: 'json_object' } }, { json_schema: { type: 'object', maxProperties: undefined } },
    { response_format: { type: 'json_object', schema: { type: 'object' } } }]) {
    const r = await d.complete({ prompt: 'a', max_tokens: 5000, seed: 1, ...ask, ...bias });
    assert.equal(r.choices[0].finish_reason, 'stop');
    assert.equal(typeof JSON.parse(r.choices[0].text), 'object');
  }
  const text = await d.complete({ prompt: 'a', max_tokens: 5, seed: 1, response_format: { type: 'text' } });
  assert.equal(text.choices[0].text, (await d.complete({ prompt: 'a', max_tokens: 5, seed: 1 })).choices[0].text);
});

test('a stream says the same, n choices beside other work too; cut off it is length', async () => {
  const ask = { messages, n: 3, seed: 4, response_format: format(person), max_tokens: 3000 };
  const whole = (await d.post('/v1/chat/completions', ask)).json;
  const [stream] = await Promise.all([
    d.post('/v1/chat/completions', { ...ask, stream: true }),
    ...Array.from({ length: 6 }, (_, i) => d.complete({ prompt: 'x', max_tokens: 100, seed: i })),
  ]);
  const texts = ['', '', ''];
  for (const f of frames(stream.text).slice(0, -1)) texts[f.choices[0].index] += f.choices[0].delta.content ?? '';
  assert.deepEqual(texts, whole.choices.map((c) => c.message.content));
  const cut = (await d.post('/v1/chat/completions', { ...ask, n: 1, max_tokens: 5 })).json;
  assert.equal(cut.choices[0].finish_reason, 'length');
});

test('a kept state has read the whole document', async () => {
  const ask = { prompt: 'a', max_tokens: 100, json_schema: { const: 'yes' }, save_state: 'said' };
  const r = await d.complete(ask);
  assert.deepEqual([r.choices[0].finish_reason, JSON.parse(r.choices[0].text)], ['stop', 'yes']);
  assert.equal(r.state.n_tokens, 1 + r.usage.completion_tokens);
  const on = await d.complete({ prompt: '!', state: 'said', max_tokens: 6, temperature: 0 });
  const again = await d.complete({ prompt: `a${r.choices[0].text}!`, max_tokens: 6, temperature: 0 });
  assert.equal(on.choices[0].text, again.choices[0].text);
});

test('a client that leaves while its mask is computed, and errors beside', async () => {
  const hard = { anyOf: Array.from({ length: 32 }, (_, i) => ({ type: 'string', pattern: `[a-z]*${String.fromCharCode(97 + (i % 26))}.{${20 + i}}` })) };
  const gone = await Promise.all(Array.from({ length: 8 }, async () => (await Raw.open(d.port)).post('/v1/completions', JSON.stringify({ prompt: 'a', max_tokens: 100000, json_schema: hard }))));
  await d.until('dreamstate_sequences_active', (v) => v > 0);
  for (const g of gone) g.destroy();
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  const bad = await d.post('/v1/completions', { prompt: 'a', json_schema: { type: 'object', properties: { a: { format: 'date' } } } });
  assert.equal(bad.status, 400);
  assert.match(bad.json.error.message, /format/);
  assert.match(bad.json.error.message, /properties\/a|#.*a/);
});
