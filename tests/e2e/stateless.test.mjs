// A client that keeps its states itself: sent with the request, given back with the answer, nothing kept here.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const model = byteModel();
const greedy = { temperature: 0, return_tokens: true };

test('sent and given back, a state goes on exactly; nothing is kept', async () => {
  const d = await Daemon.start({ model });
  try {
    const whole = await d.complete({ prompt: 'Once upon', max_tokens: 24, ...greedy });
    let state, text = '', tokens = [];
    for (let i = 0; i < 3; i++) {
      const r = await d.complete({ ...(state ? { state } : { prompt: 'Once upon' }), max_tokens: 8, return_state: i % 2 ? true : 'base64', ...greedy });
      state = r.returned_state;
      const file = Buffer.from(state.data, 'base64');
      assert.equal(state.bytes, file.length);
      assert.equal(state.sha256, createHash('sha256').update(file).digest('hex'));
      assert.deepEqual([state.n_tokens, state.has_logits], [9 + 8 * (i + 1), true]);
      if (i) assert.deepEqual([r.timings.cache_n, r.timings.prompt_n, r.started_from], [9 + 8 * i, 0, undefined]);
      text += r.choices[0].text;
      tokens = tokens.concat(r.choices[0].tokens);
    }
    assert.equal(text, whole.choices[0].text);
    assert.deepEqual(tokens, whole.choices[0].tokens);
    assert.equal((await d.get('/v1/states')).json.data.length, 0);
    // Kept too, it is the same state; as a file it is imported as the same.
    const both = await d.complete({ state, prompt: 'x', max_tokens: 2, return_state: true, save_state: 'kept', ...greedy });
    assert.equal(both.state.sha256, both.returned_state.sha256);
    assert.deepEqual(both.state.parents, []);
    const file = (await d.get('/v1/states/kept/data')).body;
    assert.equal(file.toString('base64'), both.returned_state.data);
    // Many choices from one.
    const many = await d.complete({ state, prompt: ['a', 'b'], n: 3, max_tokens: 2, seed: 1 });
    assert.equal(many.choices.length, 6);
    // A stream gives it in the last chunk before [DONE]; with usage, before that one.
    for (const include_usage of [false, true]) {
      const raw = await Raw.open(d.port);
      raw.post('/v1/completions', JSON.stringify({ state, prompt: 'x', max_tokens: 2, return_state: true, stream: true, stream_options: { include_usage }, ...greedy }));
      const all = frames((await raw.answer()).body.toString('utf8'));
      raw.destroy();
      assert.equal(all.pop(), '[DONE]');
      const last = all[all.length - (include_usage ? 2 : 1)];
      assert.equal(last.returned_state.sha256, both.returned_state.sha256);
      assert.equal(all.filter((f) => f.returned_state).length, 1);
    }
    // A stop string: what comes back has read the shown text only.
    const stop = whole.choices[0].text.slice(6, 8);
    const cut = await d.complete({ prompt: 'Once upon', max_tokens: 24, stop, return_state: true, ...greedy });
    const on = await d.complete({ state: cut.returned_state, max_tokens: 4, ...greedy });
    assert.ok((cut.choices[0].text + on.choices[0].text).startsWith(whole.choices[0].text.slice(0, cut.choices[0].text.length + 4)));
    // Chat does the same.
    const messages = [{ role: 'user', content: 'hello' }];
    const chat = await d.post('/v1/chat/completions', { messages, state, max_tokens: 3, return_state: true });
    assert.equal(chat.status, 200, chat.text);
    const next = await d.post('/v1/chat/completions', { messages, state: chat.json.returned_state, max_tokens: 3 });
    assert.equal(next.json.timings.cache_n, chat.json.returned_state.n_tokens);
  } finally {
    await d.stop();
  }
});

test('of other weights, damaged, ambiguous: refused, never another state', async () => {
  const other = byteModel('other.safetensors', (t) => {
    const head = Buffer.from(t['head.weight'].data);
    head.writeFloatLE(head.readFloatLE(0) + 0.5, 0);
    t['head.weight'].data = head;
  });
  const d = await Daemon.start({ model: [`one=${model}`, `two=${other}`] });
  try {
    const { returned_state: state } = await d.complete({ model: 'one', prompt: 'ab', max_tokens: 1, return_state: true });
    const ask = async (s, status, stream) => {
      const r = await d.post('/v1/completions', { model: 'two', state: s, prompt: 'a', max_tokens: 1, stream });
      assert.equal(r.status, status, r.text);
      return r.json?.error;
    };
    for (const stream of [false, true]) {
      const e = await ask(state, 409, stream);
      assert.deepEqual([e.code, e.param], ['state_incompatible', 'state']);
    }
    const bytes = Buffer.from(state.data, 'base64');
    bytes.writeFloatLE(NaN, bytes.length - 4);
    const r = await d.post('/v1/completions', { model: 'one', state: { data: bytes.toString('base64') }, max_tokens: 1 });
    assert.deepEqual([r.status, r.json.error.code], [422, 'state_corrupt']);
    assert.equal((await ask({ data: bytes.subarray(0, 500).toString('base64') }, 422)).code, 'invalid_file');
  } finally {
    await d.stop();
  }
});

test('no_cache neither looks for a state in memory nor keeps it there', async () => {
  const d = await Daemon.start({ model });
  const metric = (name) => d.metric(`dreamstate_state_cache_${name}`);
  try {
    await d.complete({ prompt: 'a', max_tokens: 1, save_state: 's', no_cache: true });
    await d.complete({ state: 's', max_tokens: 1, no_cache: true });
    assert.deepEqual([await metric('states'), await metric('hits_total'), await metric('misses_total')], [0, 0, 0]);
    await d.complete({ state: 's', max_tokens: 1 });
    await d.complete({ state: 's', max_tokens: 1 });
    assert.deepEqual([await metric('states'), await metric('hits_total'), await metric('misses_total')], [1, 1, 1]);
    assert.ok(await metric('bytes') > 0);
  } finally {
    await d.stop();
  }
});
