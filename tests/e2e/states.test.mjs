// States are what they say: exact, used (not re-read), the same after kill -9, and the same under load.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, randModel, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const model = byteModel();
const greedy = { temperature: 0, logprobs: 5, return_tokens: true };
const shown = (r) => r.choices[0];

const withDaemon = (options, run) => Daemon.with({ model, ...options }, run);

test('kill -9, start again: continuing evaluates the new tokens only and gives the same bytes', async () => {
  const data = scratch();
  const d = await Daemon.start({ model, data });
  const text = 'It was the best of times, it was the worst of times. '.repeat(20);
  const bake = await d.post('/v1/states', { name: 'book', text });
  assert.equal(bake.status, 201);
  assert.equal(bake.json.timings.prompt_n, text.length);
  const ask = { state: 'book', prompt: 'And then', max_tokens: 24, ...greedy };
  const first = await d.complete(ask);
  const empty = await d.complete({ state: 'book', max_tokens: 24, ...greedy });
  await d.kill();
  await withDaemon({ data }, async (again) => {
    const second = await again.complete(ask);
    assert.deepEqual(shown(second), shown(first));
    assert.equal(second.timings.prompt_n, 8);
    assert.equal(second.timings.cache_n, text.length);
    assert.deepEqual(second.usage.prompt_tokens_details, { cached_tokens: text.length });
    assert.equal(second.started_from.ref, 'book@1');
    const third = await again.complete({ state: 'book@1', max_tokens: 24, ...greedy });
    assert.deepEqual(shown(third), shown(empty));
    assert.equal(third.timings.prompt_n, 0);
    assert.deepEqual((await again.get('/v1/states/book')).json.sha256, bake.json.sha256);
    // Any number of completions leaves the state as it is.
    assert.deepEqual(shown(await again.complete(ask)), shown(first));
    assert.equal((await again.get('/v1/states/book')).json.version, 1);
  });
});

test('48 tokens at once are 16, a saved state, and 32 more; streamed or not', async () => {
  await withDaemon({}, async (d) => {
    const whole = shown(await d.complete({ prompt: 'Once upon', max_tokens: 48, ...greedy }));
    const a = await d.complete({ prompt: 'Once upon', max_tokens: 16, save_state: 'part', ...greedy });
    assert.equal(a.state.ref, 'part@1');
    assert.equal(a.state.n_tokens, 9 + 16);
    assert.equal(a.state.origin.kind, 'completion');
    const b = await d.complete({ state: 'part', max_tokens: 32, ...greedy });
    assert.equal(b.timings.prompt_n, 0);
    assert.equal(b.timings.cache_n, 25);
    assert.deepEqual([...shown(a).tokens, ...shown(b).tokens], whole.tokens);
    assert.deepEqual([...shown(a).logprobs.token_logprobs, ...shown(b).logprobs.token_logprobs], whole.logprobs.token_logprobs);
    const raw = await Raw.open(d.port);
    raw.post('/v1/completions', JSON.stringify({ prompt: 'Once upon', max_tokens: 16, save_state: 'part', if_exists: 'new_version', stream: true, ...greedy }));
    const last = frames((await raw.answer()).body.toString('utf8')).at(-2);
    raw.destroy();
    assert.equal(last.state.ref, 'part@2');
    assert.equal(last.state.sha256, a.state.sha256);
  });
});

test('a baked text and its continuation are the unsplit text, within rounding', async () => {
  await withDaemon({}, async (d) => {
    await d.post('/v1/states', { name: 'front', text: 'All happy families ' });
    const split = shown(await d.complete({ state: 'front', prompt: 'are alike;', max_tokens: 8, ...greedy }));
    const whole = shown(await d.complete({ prompt: 'All happy families are alike;', max_tokens: 8, ...greedy }));
    assert.deepEqual(split.tokens, whole.tokens);
    for (const [i, v] of split.logprobs.token_logprobs.entries())
      assert.ok(Math.abs(v - whole.logprobs.token_logprobs[i]) < 1e-4, `${i}: ${v}`);
  });
});

test('a seed means the same text alone, beside others, streamed, and from a state', async () => {
  await withDaemon({ args: ['--max-sequences', '16', '--max-queue', '1000'] }, async (d) => {
    await d.post('/v1/states', { name: 's', text: 'secret' });
    const asks = Array.from({ length: 12 }, (_, i) => ({
      prompt: 'prompt '.repeat(1 + (i % 5) * 7), max_tokens: 20 + i, seed: 1000 + i, top_p: 0.9, presence_penalty: 0.3, ...(i % 3 ? {} : { state: 's' }),
    }));
    const alone = [];
    for (const a of asks) alone.push(shown(await d.complete(a)).text);
    // Four rounds of all, among clients that leave.
    const leaving = await Promise.all(Array.from({ length: 8 }, async (_, i) =>
      (await Raw.open(d.port)).post('/v1/completions', JSON.stringify({ prompt: 'x'.repeat(50 * i + 1), max_tokens: 5000, seed: i, stream: i % 2 === 0 }))));
    const rounds = Promise.all(Array.from({ length: 48 }, (_, i) => d.complete(asks[i % 12])));
    for (const r of leaving) r.destroy();
    for (const [i, r] of (await rounds).entries()) assert.equal(shown(r).text, alone[i % 12], `request ${i}`);
    assert.equal((await d.complete({ prompt: 'a', max_tokens: 1 })).seed >= 0, true);
    const free = await d.complete({ prompt: 'a', max_tokens: 12 });
    assert.deepEqual(shown(await d.complete({ prompt: 'a', max_tokens: 12, seed: free.seed })).text, shown(free).text);
  });
});

test('SIGTERM in mid-stream: the stream ends whole, the exit is 0, what was saved is there', async () => {
  const data = scratch();
  const d = await Daemon.start({ model, data });
  const raw = await Raw.open(d.port);
  raw.post('/v1/completions', JSON.stringify({ prompt: 'a', max_tokens: 400, seed: 1, stream: true, save_state: 'kept' }));
  await raw.until((b) => b.includes('"text"'));
  d.child.kill('SIGTERM');
  const r = await raw.answer();
  const all = frames(r.body.toString('utf8'));
  assert.equal(all.at(-1), '[DONE]');
  assert.equal(all.at(-2).timings.predicted_n, 400);
  assert.equal(all.at(-2).state.ref, 'kept@1');
  d.agent.destroy();
  assert.deepEqual(await d.exited, { code: 0, signal: null });
  await withDaemon({ data }, async (again) => {
    assert.equal((await again.get('/v1/states/kept')).json.n_tokens, 401);
  });
});

test('SIGTERM with requests that do not end: they are told so after --drain-seconds, the exit is 0', async () => {
  const d = await Daemon.start({ model, args: ['--drain-seconds', '0'] });
  const endless = { prompt: 'a', max_tokens: 1048576 };
  const [stream, whole] = [await Raw.open(d.port), await Raw.open(d.port)];
  stream.post('/v1/completions', JSON.stringify({ ...endless, stream: true }));
  whole.post('/v1/completions', JSON.stringify(endless));
  await stream.until((b) => b.includes('"text"'));
  await d.until('dreamstate_sequences_active', (v) => v === 2);
  d.child.kill('SIGTERM');
  const last = frames((await stream.answer()).body.toString('utf8')).at(-1);
  assert.equal(last.error.code, 'unavailable');
  const r = await whole.answer();
  assert.equal(r.status, 503);
  assert.equal(JSON.parse(r.body).error.code, 'unavailable');
  for (const raw of [stream, whole]) raw.destroy();
  d.agent.destroy();
  assert.deepEqual(await d.exited, { code: 0, signal: null });
});

test('a model without a vocabulary takes and gives ids, and says so', async () => {
  await withDaemon({ model: randModel }, async (d) => {
    assert.equal((await d.get('/v1/models')).json.data[0].meta.tokenizer, 'none');
    for (const [path, body, param] of [
      ['/v1/completions', { prompt: 'text' }, 'prompt'], ['/v1/states', { name: 'n', text: 'text' }, 'text'],
      ['/tokenize', { content: 'text' }, null], ['/detokenize', { tokens: [1] }, null], ['/v1/completions', { prompt: 'a', stream: true }, 'prompt']]) {
      const r = await d.post(path, body);
      assert.equal(r.status, 400, path);
      assert.match(r.json.error.message, /--vocab/);
      if (param) assert.equal(r.json.error.param, param);
    }
    const c = shown(await d.complete({ prompt: [1, 999, 3], max_tokens: 5, echo: true, ...greedy }));
    assert.deepEqual(c.tokens.slice(0, 3), [1, 999, 3]);
    assert.equal(c.text, c.tokens.map((t) => `<${t}>`).join(''));
    assert.deepEqual(c.logprobs.tokens, c.tokens.map((t) => `<${t}>`));
    assert.equal((await d.post('/v1/completions', { prompt: [1000] })).status, 400);
    assert.equal((await d.post('/v1/states', { name: 'ids', tokens: [1, 2] })).status, 201);
    const state = shown(await d.complete({ state: 'ids', prompt: [3], max_tokens: 3, ...greedy }));
    assert.equal(state.tokens.length, 3);
  });
});
