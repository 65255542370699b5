// A stock client of another family, unchanged: the AI SDK with its provider for OpenAI's interface.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const [major] = process.versions.node.split('.').map(Number);
let ai, provider;
try {
  ai = await import('ai');
  provider = (await import('@ai-sdk/openai-compatible')).createOpenAICompatible;
} catch (e) {
  console.log(`skip: no AI SDK (${e.code}): npm ci in tests/`);
}
const skip = !ai ? 'the AI SDK is not installed' : major < 18 ? 'the AI SDK needs Node 18' : false;
if (skip) console.log(`skip: ${skip}`);

let d, dreamstate;
before(async () => {
  if (skip) return;
  d = await Daemon.start({ model: byteModel('tiny.safetensors') });
  dreamstate = provider({ name: 'dreamstate', baseURL: `${d.url}/v1`, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true });
});
after(async () => { await d?.stop(); });

const ask = { maxOutputTokens: 12, temperature: 0.5, seed: 3, maxRetries: 0 };
const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: [{ type: 'text', text: 'hello' }] }];

test('generateText and streamText say the same', { skip }, async () => {
  const whole = await ai.generateText({ model: dreamstate('tiny'), messages, ...ask });
  assert.equal(whole.finishReason, 'length');
  assert.deepEqual([whole.usage.outputTokens, whole.usage.totalTokens], [12, whole.usage.inputTokens + 12]);
  const stream = ai.streamText({ model: dreamstate('tiny'), messages, ...ask });
  let text = '';
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text);
  assert.equal(await stream.finishReason, 'length');
  const usage = await stream.usage;
  assert.deepEqual([usage.inputTokens, usage.outputTokens], [whole.usage.inputTokens, 12]);
  assert.equal(usage.cachedInputTokens, whole.usage.inputTokens); // the same question: read already
});

test('completions, whole and streamed', { skip }, async () => {
  const call = { model: dreamstate.completionModel('tiny'), prompt: 'Hello', ...ask };
  const whole = await ai.generateText(call);
  assert.equal(whole.usage.outputTokens, 12);
  const stream = ai.streamText(call);
  let text = '';
  for await (const part of stream.textStream) text += part;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, 12);
});

test('embeddings', { skip }, async () => {
  const model = dreamstate.textEmbeddingModel('tiny');
  const values = ['Hello', 'Good morning', 'Hello'];
  const { embeddings, usage } = await ai.embedMany({ model, values });
  assert.equal(usage.tokens, 22);
  assert.deepEqual(embeddings[0], embeddings[2]);
  assert.ok(Math.abs(ai.cosineSimilarity(embeddings[0], embeddings[2]) - 1) < 1e-6);
  assert.deepEqual((await ai.embed({ model, value: 'Good morning' })).embedding, embeddings[1]);
});

test('generateObject: JSON by a schema', { skip }, async () => {
  const schema = ai.jsonSchema({
    type: 'object', properties: { name: { type: 'string', maxLength: 8 }, n: { type: 'integer', minimum: 0, maximum: 9 } },
    required: ['name', 'n'], additionalProperties: false,
  });
  const { object } = await ai.generateObject({ model: dreamstate('tiny'), schema, prompt: 'a', ...ask, maxOutputTokens: 2000 });
  assert.deepEqual(Object.keys(object).sort(), ['n', 'name']);
});

test('errors: the message, the status; a 429 is tried again', { skip }, async () => {
  const of = (model) => ai.generateText({ model, prompt: 'a', ...ask });
  await assert.rejects(of(dreamstate('nobody')), (e) => e.statusCode === 404 && /no model 'nobody'/.test(e.message));
  await assert.rejects(ai.generateText({ model: dreamstate('tiny'), prompt: 'a', ...ask, temperature: -1 }), (e) => e.statusCode === 400);
  let n = 0;
  const busyOnce = provider({
    name: 'busy', baseURL: `${d.url}/v1`,
    fetch: (...args) => (n++ ? fetch(...args) : Promise.resolve(new Response(
      JSON.stringify({ error: { message: 'busy', type: 'rate_limit_error', param: null, code: 'too_many_requests' } }),
      { status: 429, headers: { 'content-type': 'application/json', 'retry-after': '0' } }))),
  });
  assert.equal((await ai.generateText({ model: busyOnce('tiny'), prompt: 'a', ...ask, maxRetries: 1 })).usage.outputTokens, 12);
  assert.equal(n, 2);
});

test('an abort ends the sequence', { skip }, async () => {
  const abort = new AbortController();
  const stream = ai.streamText({
    model: dreamstate('tiny'), prompt: 'a', ...ask, maxOutputTokens: 1000000, abortSignal: abort.signal, onError() {},
  });
  let parts = 0;
  try {
    for await (const part of stream.fullStream) {
      if (part.type === 'text-delta' && ++parts === 3) abort.abort();
    }
  } catch (e) {
    assert.match(e.name, /Abort/);
  }
  assert.ok(parts >= 3);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
});
