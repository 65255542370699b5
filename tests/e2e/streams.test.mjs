// Event streams byte by byte: frames, chunks, characters, stop strings, slow readers.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

let d;
before(async () => { d = await Daemon.start({ model: byteModel() }); });
after(async () => { await d?.stop(); });

async function stream(body) {
  const raw = await Raw.open(d.port);
  raw.post('/v1/completions', JSON.stringify({ ...body, stream: true }));
  const r = await raw.answer();
  raw.destroy();
  return { ...r, frames: frames(r.body.toString('utf8')) };
}

// A bias that leaves only these bytes.
const only = (...bytes) => Object.fromEntries(bytes.map((b) => [b, 100]));
const join = (chunks) => chunks.map((c) => c.choices[0]?.text ?? '').join('');

test('headers, frames and their order', async () => {
  const r = await stream({ prompt: 'Hello', max_tokens: 9, seed: 3, stream_options: { include_usage: true } });
  assert.equal(r.status, 200);
  assert.equal(r.headers['content-type'], 'text/event-stream');
  assert.equal(r.headers['cache-control'], 'no-cache');
  assert.equal(r.headers['x-accel-buffering'], 'no');
  assert.equal(r.headers['transfer-encoding'], 'chunked');
  const [done, usage, last, ...rest] = [...r.frames].reverse();
  assert.equal(done, '[DONE]');
  assert.deepEqual(usage.choices, []);
  assert.deepEqual(usage.usage, {
    prompt_tokens: 5, completion_tokens: 9, total_tokens: 14, prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.equal(last.choices[0].finish_reason, 'length');
  assert.equal(last.timings.predicted_n, 9);
  assert.equal(last.seed, 3);
  for (const f of rest) {
    assert.ok('finish_reason' in f.choices[0]);
    assert.equal(f.choices[0].finish_reason, null);
    assert.equal(f.usage, null);
  }
  for (const key of ['id', 'created', 'model', 'object', 'system_fingerprint'])
    assert.equal(new Set(r.frames.slice(0, -1).map((f) => f[key])).size, 1, key);
  assert.ok(!r.body.includes('\r'));
});

test('without include_usage no chunk has usage or no choices', async () => {
  for (const options of [{}, { stream_options: { include_usage: false } }, { stream_options: null }]) {
    const r = await stream({ prompt: 'a', max_tokens: 3, ...options });
    for (const f of r.frames.slice(0, -1)) {
      assert.ok(!('usage' in f));
      assert.equal(f.choices.length, 1);
    }
  }
});

test('a stream says what a whole answer says', async () => {
  for (const body of [{ temperature: 0 }, { seed: 11 }, { seed: 12, logprobs: 2, echo: true, return_tokens: true }, { max_tokens: 0, echo: true }]) {
    const ask = { prompt: 'The sea, ', max_tokens: 40, ...body };
    const [whole, s] = [await d.complete(ask), await stream(ask)];
    const chunks = s.frames.slice(0, -1);
    const choice = whole.choices[0];
    assert.equal(join(chunks), choice.text);
    assert.equal(chunks.at(-1).choices[0].finish_reason, choice.finish_reason);
    if (body.return_tokens) {
      assert.deepEqual(chunks.flatMap((c) => c.choices[0].tokens), choice.tokens);
      for (const k of Object.keys(choice.logprobs))
        assert.deepEqual(chunks.flatMap((c) => c.choices[0].logprobs[k]), choice.logprobs[k], k);
    }
  }
});

test('several choices keep their own text and order', async () => {
  const ask = { prompt: ['One', 'Two', 'Three'], n: 4, max_tokens: 12, seed: 77 };
  const [whole, s] = [await d.complete(ask), await stream(ask)];
  assert.equal(whole.choices.length, 12);
  for (const c of whole.choices) {
    const own = s.frames.filter((f) => f.choices?.[0]?.index === c.index);
    assert.equal(join(own), c.text);
    assert.equal(own.filter((f) => f.choices[0].finish_reason).length, 1);
    const alone = await d.complete({ prompt: ask.prompt[Math.floor(c.index / 4)], max_tokens: 12, seed: 77 + (c.index % 4) });
    assert.equal(alone.choices[0].text, c.text);
  }
  assert.equal(whole.usage.prompt_tokens, 3 + 3 + 5);
  assert.equal(whole.usage.completion_tokens, 12 * 12);
});

test('characters are whole in every chunk, and bytes that make none become U+FFFD', async () => {
  const sets = [[0xc3, 0xa9], [0xe2, 0x82, 0xac], [0xf0, 0x9f, 0x98, 0x80], [0xf0, 0x9f, 0x61], [0xed, 0xa0, 0x80], [0xff, 0x41]];
  for (const bytes of sets) {
    const r = await stream({ prompt: 'x', max_tokens: 120, seed: 5, logit_bias: only(...bytes), return_tokens: true });
    const chunks = r.frames.slice(0, -1);
    const ids = chunks.flatMap((c) => c.choices[0].tokens);
    assert.equal(ids.length, 120);
    assert.ok(ids.every((i) => bytes.includes(i)), `${bytes}: ${ids}`);
    assert.equal(join(chunks), new TextDecoder().decode(Uint8Array.from(ids)));
  }
});

test('a stop string ends the text before it, streamed or not, wherever it falls', async () => {
  const ask = { prompt: 'a', max_tokens: 60, seed: 9, logit_bias: only(97, 98, 10) };
  const { text } = (await d.complete(ask)).choices[0];
  assert.equal(text.length, 60);
  let n = 0;
  for (let at = 5; at < 50; at += 9)
    for (const length of [1, 2, 3, 6]) {
      const stop = text.slice(at, at + length);
      const want = text.slice(0, text.indexOf(stop));
      const whole = (await d.complete({ ...ask, stop })).choices[0];
      const s = await stream({ ...ask, stop: ['never', stop] });
      assert.equal(whole.text, want);
      assert.equal(whole.finish_reason, 'stop');
      assert.equal(join(s.frames.slice(0, -1)), want);
      assert.equal(s.frames.at(-2).choices[0].finish_reason, 'stop');
      n++;
    }
  assert.equal(n, 20);
});

test('what was held back for a stop string that did not come is shown', async () => {
  const ask = { prompt: 'a', max_tokens: 30, seed: 4, logit_bias: only(97, 98) };
  const { text } = (await d.complete(ask)).choices[0];
  const stop = `${text.slice(-7)}!`;
  const s = await stream({ ...ask, stop });
  assert.equal(join(s.frames.slice(0, -1)), text);
  assert.equal(s.frames.at(-2).choices[0].finish_reason, 'length');
});

test('logprobs: of the prompt and the tokens, sums and places', async () => {
  const c = (await d.complete({ prompt: 'Zoë', max_tokens: 3, echo: true, logprobs: 5, temperature: 0 })).choices[0];
  const l = c.logprobs;
  assert.equal(l.tokens.length, 7);
  assert.deepEqual(l.tokens.slice(0, 4), ['Z', 'o', 'bytes:\\xc3', 'bytes:\\xab']);
  assert.deepEqual(l.text_offset.slice(0, 5), [0, 1, 2, 3, 3]);
  assert.equal(l.token_logprobs[0], null);
  assert.equal(l.top_logprobs[0], null);
  for (let i = 1; i < 7; i++) {
    const top = Object.values(l.top_logprobs[i]);
    assert.ok(top.length === 5 || top.length === 6);
    assert.ok(top.reduce((s, x) => s + Math.exp(x), 0) <= 1.0001);
    assert.equal(l.top_logprobs[i][l.tokens[i]], l.token_logprobs[i]);
    if (i >= 4) assert.equal(Math.max(...top), l.token_logprobs[i]);
  }
  const zero = (await d.complete({ prompt: 'ab', max_tokens: 2, logprobs: 0 })).choices[0].logprobs;
  assert.equal(zero.top_logprobs, null);
  assert.equal(zero.token_logprobs.length, 2);
});

test('a reader that stalls gets every byte, and others go on', async () => {
  // More than the buffers of both ends hold: a thousand bytes and more for each token.
  const prompt = Array.from({ length: 12000 }, (_, i) => 97 + (i % 26));
  const slow = await Raw.open(d.port);
  slow.socket.pause();
  slow.post('/v1/completions', JSON.stringify({ prompt, max_tokens: 1, echo: true, logprobs: 20, stream: true }), 'Connection: close\r\n');
  await d.until('dreamstate_sequences_parked', (v) => v === 1);
  const other = await d.complete({ prompt: 'b', max_tokens: 5 });
  assert.equal(other.usage.completion_tokens, 5);
  slow.socket.resume();
  const all = frames((await slow.last()).body.toString('utf8'));
  assert.equal(all.at(-1), '[DONE]');
  assert.equal(join(all.slice(0, -1)).slice(0, 12000), String.fromCharCode(...prompt));
});

test('an error before the first token is an answer with its status', async () => {
  const raw = await Raw.open(d.port);
  raw.post('/v1/completions', JSON.stringify({ prompt: 'a', state: 'nobody', stream: true }));
  const r = await raw.answer();
  assert.equal(r.status, 404);
  assert.equal(r.headers['content-type'], 'application/json');
  assert.equal(JSON.parse(r.body).error.code, 'state_not_found');
  // The connection lives on.
  raw.send('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  assert.equal((await raw.answer()).status, 200);
  raw.destroy();
});

test('HTTP/1.0 gets a stream that ends with the connection', async () => {
  const raw = await Raw.open(d.port);
  const body = '{"prompt":"a","max_tokens":3,"stream":true}';
  raw.send(`POST /v1/completions HTTP/1.0\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  const text = await raw.end();
  const [head, ...rest] = text.split('\r\n\r\n');
  assert.ok(!/transfer-encoding/i.test(head));
  assert.equal(frames(rest.join('\r\n\r\n')).at(-1), '[DONE]');
});
