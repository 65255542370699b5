// kill -9 and a new start: whatever a state was made by, what follows reads the new tokens only and says, to the
// bit, what it would have said if nothing had happened.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { ok } from '../lib/answers.mjs';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const greedy = { temperature: 0, logprobs: 3, return_tokens: true };
const user = (content) => ({ role: 'user', content });

// Every way to make a state; each returns its record.
const ways = {
  bake: (d) => ok(d.post('/v1/states', { name: 'bake', text: 'Call me Ishmael. Some years ago'.repeat(9) })),
  bake_on: (d) => ok(d.post('/v1/states', { name: 'bake_on', base_state: 'bake', text: ' and more' })),
  fork: (d) => ok(d.post('/v1/states/bake/fork', { name: 'fork' })),
  append: async (d) => {
    await ok(d.post('/v1/states', { name: 'append', tokens: [72, 105] }));
    return ok(d.post('/v1/states/append/append', { text: ' there, read on' }));
  },
  rollback: async (d) => {
    await ok(d.post('/v1/states', { name: 'rollback', text: 'the first' }));
    await ok(d.post('/v1/states/rollback/append', { text: ' the second' }));
    return ok(d.post('/v1/states/rollback/rollback', { version: 1 }));
  },
  imported: async (d) => {
    const file = (await d.get('/v1/states/bake_on/data')).body;
    return ok(d.post('/v1/states/import?name=imported', file, { 'content-type': 'application/octet-stream' }));
  },
  saved: async (d) => (await d.complete({ state: 'bake', prompt: 'He', max_tokens: 17, save_state: 'saved', temperature: 1.1, seed: 4 })).state,
  talk: async (d) => (await ok(d.post('/v1/chat/completions', { messages: [user('hi')], max_tokens: 9, seed: 2, save_state: 'talk' }), 200)).state,
  talk_on: async (d) => (await ok(d.post('/v1/chat/completions', { state: 'talk', messages: [user('go on')], max_tokens: 9, seed: 2, save_state: 'talk_on' }), 200)).state,
};

// What is asked of each: with new tokens, with none (from the stored logits), sampled, as a chat.
const asks = {
  new_tokens: { prompt: 'And then', max_tokens: 24, ...greedy },
  one_token: { prompt: ' ', max_tokens: 24, ...greedy },
  no_token: { max_tokens: 24, ...greedy },
  sampled: { prompt: 'So', max_tokens: 24, temperature: 1.3, top_p: 0.9, presence_penalty: 0.4, seed: 11, return_tokens: true },
  chat: { messages: [user('and now?')], max_tokens: 16, temperature: 0, logprobs: true },
};

async function answers(d, ref) {
  const all = {};
  for (const [kind, body] of Object.entries(asks)) {
    const r = await ok(d.post(kind === 'chat' ? '/v1/chat/completions' : '/v1/completions', { state: ref, no_cache: true, ...body }), 200);
    all[kind] = { choice: r.choices[0], cache_n: r.timings.cache_n, prompt_n: r.timings.prompt_n, cached: r.usage.prompt_tokens_details.cached_tokens, from: r.started_from };
  }
  return all;
}

test('after kill -9, all states go on exactly, and only new tokens are read', async () => {
  const model = byteModel(), data = scratch();
  const d = await Daemon.start({ model, data });
  const records = {}, before = {};
  for (const [name, make] of Object.entries(ways)) records[name] = await make(d);
  for (const [name, r] of Object.entries(records)) before[name] = await answers(d, r.ref);
  // No two states answer alike, but a fork and an import what they were made of: a substitute would be seen.
  const told = new Set(Object.values(before).map((a) => JSON.stringify(a.no_token.choice)));
  assert.equal(told.size, Object.keys(ways).length - 2);
  // 40 tokens without a break; below, 16 of them lie before the kill and 24 behind it.
  const whole = (await d.complete({ prompt: 'Once upon a time', max_tokens: 40, ...greedy })).choices[0];
  const part = (await d.complete({ prompt: 'Once upon a time', max_tokens: 16, save_state: 'part', ...greedy })).choices[0];
  await d.kill();

  const again = await Daemon.start({ model, data });
  try {
    for (const [name, r] of Object.entries(records)) {
      const stored = (await again.get(`/v1/states/${r.ref}`)).json;
      assert.deepEqual([stored.sha256, stored.n_tokens, stored.has_logits], [r.sha256, r.n_tokens, true], name);
      const after = await answers(again, r.ref);
      for (const kind of Object.keys(asks)) {
        const a = after[kind], what = `${name}, ${kind}`;
        assert.deepEqual(a, before[name][kind], what);
        assert.deepEqual([a.cache_n, a.cached, a.from.ref], [r.n_tokens, r.n_tokens, r.ref], what);
        if (kind !== 'chat') assert.equal(a.prompt_n, asks[kind].prompt?.length ?? 0, what);
      }
      // What a chat reads does not depend on how long the state is.
      assert.equal(after.chat.prompt_n, before.bake.chat.prompt_n, name);
    }
    const rest = await again.complete({ state: 'part', max_tokens: 24, ...greedy });
    assert.deepEqual([rest.timings.cache_n, rest.timings.prompt_n], [16 + 16, 0]);
    for (const key of ['tokens', 'token_logprobs', 'top_logprobs']) {
      const of = (c) => c.logprobs[key] ?? c.tokens;
      assert.deepEqual([...of(part), ...of(rest.choices[0])], of(whole), key);
    }
    assert.equal(part.text + rest.choices[0].text, whole.text);
  } finally {
    await again.stop();
  }
});
