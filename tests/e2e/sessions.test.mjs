// Chats that go on: the whole history comes each time, and only what is new is read.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

let d, model;
before(async () => { model = byteModel(); d = await Daemon.start({ model }); });
after(async () => { await d?.stop(); });

const user = (content) => ({ role: 'user', content });
const assistant = (content) => ({ role: 'assistant', content });
// Letters and spaces only, so that an answer reads the same in the history as it was said.
const letters = Object.fromEntries(Array.from('abcdefgh ', (c) => [c.charCodeAt(0), 100]));
const base = { max_tokens: 12, seed: 3, temperature: 1, logit_bias: letters };

async function chat(messages, more = {}, on = d, headers = {}) {
  const r = await on.post('/v1/chat/completions', { messages, ...base, ...more }, headers);
  assert.equal(r.status, 200, r.text);
  return { text: r.json.choices[0].message.content, cached: r.json.timings.cache_n, read: r.json.timings.prompt_n, all: r.json };
}

test('each turn reads its own message only, and says what it would have said without', async () => {
  const history = [{ role: 'system', content: 'first chat' }];
  let before = 0;
  for (const say of ['hello', 'and then', 'the third', 'x']) {
    history.push(user(say));
    const turn = await chat(history);
    const fresh = await chat(history, { no_cache: true });
    assert.equal(turn.text, fresh.text);
    assert.deepEqual([fresh.cached, turn.cached + turn.read], [0, fresh.read]);
    assert.ok(turn.cached >= before, `${turn.cached} of ${before}`);
    assert.equal(turn.all.usage.prompt_tokens_details.cached_tokens, turn.cached);
    assert.equal(turn.all.usage.prompt_tokens, fresh.all.usage.prompt_tokens);
    before = fresh.read; // where this prompt ended, at least, is where the next turn begins
    history.push(assistant(turn.text.trim()));
  }
});

test('the same question again reads nothing; another seed differs; a changed history starts where it changed', async () => {
  const one = await chat([user('what is it')]);
  const again = await chat([user('what is it')]);
  assert.deepEqual([again.read, again.cached, again.text], [0, one.read, one.text]);
  assert.notEqual((await chat([user('what is it')], { seed: 77 })).text, one.text);
  const other = await chat([user('what is that')]);
  assert.equal(other.cached, 0);
  const edited = await chat([user('what is it'), assistant(`${one.text} no`), user('so')]);
  assert.equal(edited.text, (await chat([user('what is it'), assistant(`${one.text} no`), user('so')], { cache_prompt: false })).text);
  assert.ok(edited.cached >= one.read);
});

test('streams, choices and JSON answers park and go on too', async () => {
  const messages = [user('several')];
  const n = await chat(messages, { n: 3 });
  const again = await chat(messages, { n: 3 });
  assert.deepEqual(again.all.choices, n.all.choices);
  assert.equal(again.read, 0);
  const json = { response_format: { type: 'json_schema', json_schema: { schema: { enum: ['abc', 'bcd'] } } }, logit_bias: {} };
  assert.equal((await chat(messages, json)).text, (await chat(messages, { ...json, no_cache: true })).text);
});

test('another user, another model, another state: nothing is shared', async () => {
  const messages = [user('a secret that is long enough')];
  const mine = await chat(messages, { user: 'me' });
  assert.equal(mine.cached, 0);
  assert.equal((await chat(messages, { user: 'you' })).cached, 0);
  assert.equal((await chat(messages)).cached, 0);
  assert.equal((await chat(messages, { user: 'me' })).read, 0);
  await d.post('/v1/states', { name: 'p', text: 'persona' });
  const behind = await chat(messages, { state: 'p' });
  assert.equal(behind.cached, 7);
  const twice = await chat(messages, { state: 'p' });
  assert.deepEqual([twice.text, twice.read, twice.cached], [behind.text, 0, 7 + behind.read]);
  await d.post('/v1/states', { name: 'p', text: 'another', if_exists: 'new_version' });
  assert.equal((await chat(messages, { state: 'p' })).cached, 7);
  assert.equal((await chat(messages, { state: 'p@1' })).read, 0);
  await d.delete('/v1/states/p');
  assert.equal((await d.post('/v1/chat/completions', { messages, state: 'p@1' })).status, 404);
});

test('completions take part only where they ask', async () => {
  const ask = { prompt: 'a text of its own', max_tokens: 4, seed: 1 };
  const one = await d.complete(ask);
  assert.equal((await d.complete(ask)).timings.cache_n, 0);
  assert.equal((await d.complete({ ...ask, cache_prompt: true })).timings.cache_n, 0);
  const two = await d.complete({ ...ask, cache_prompt: true });
  assert.deepEqual([two.timings.prompt_n, two.choices[0].text], [0, one.choices[0].text]);
});

test('a client that leaves in the middle of its answer parks the prompt, and no answer', async () => {
  const parked = await d.metric('dreamstate_sessions_parked_total');
  const abort = new AbortController();
  const r = await fetch(`${d.url}/v1/chat/completions`, {
    method: 'POST', signal: abort.signal, headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [user('leaving')], max_tokens: 1000000, stream: true }),
  });
  await r.body.getReader().read();
  abort.abort();
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  assert.equal(await d.metric('dreamstate_sessions_parked_total'), parked + 1);
});

test('bounded in number and bytes, and off', async () => {
  for (const [args, most] of [[['--sessions', '3'], 3], [['--session-bytes', '100K'], 100 * 1024], [['--sessions', '0'], 0]]) {
    const m = await Daemon.start({ model, args });
    try {
      for (let i = 0; i < 5; i++) await chat([user(`number ${i}`)], {}, m);
      const gauge = args[0] === '--sessions' ? 'dreamstate_sessions' : 'dreamstate_session_bytes';
      assert.ok(await m.metric(gauge) <= most, `${gauge} ${await m.metric(gauge)}`);
      assert.equal((await chat([user('number 0')], {}, m)).cached, 0);
      if (most) assert.ok(await m.metric('dreamstate_sessions_evicted_total') > 0 || args[0] === '--session-bytes');
    } finally {
      await m.stop();
    }
  }
});

test('each API key has its own', async () => {
  const keys = join(scratch(), 'keys');
  writeFileSync(keys, 'anna generate key-of-anna-000000\nbert generate key-of-bert-000000\n', { mode: 0o600 });
  const m = await Daemon.start({ model, args: ['--api-keys', keys] });
  try {
    const as = (who) => chat([user('ours or mine')], {}, m, { authorization: `Bearer key-of-${who}-000000` });
    assert.equal((await as('anna')).cached, 0);
    assert.equal((await as('bert')).cached, 0);
    assert.equal((await as('anna')).read, 0);
  } finally {
    await m.stop();
  }
});
