// Nobody's words reach another. 32 clients, each with secrets of its own in prompts, messages, states, names,
// descriptions, schemas and request ids, work at the same time on two models, four times as many as are stepped
// together, while some of them leave: in a stream, before an answer, in the queue, while a long prompt is read.
//
// What came over every connection is searched for the secrets of all: echo, logprobs, lists and a schema that admits
// nothing else bring a client's own back, so a mixed-up answer would show. Every answer is also compared with what
// the same request gave alone, to the last digit; a state by its SHA-256; a chat by how much of it was read before.
//
// MARKER_REQUESTS (default 2000).
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { random } from '../lib/random.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const requests = Number(process.env.MARKER_REQUESTS ?? 2000);
const N_CLIENTS = 32;

// 16 letters after MK, of each client other ones.
const marker = (i) => `MK${(BigInt(i + 1) * 0x9e3779b97f4a7c15n & 0xffffffffffffffffn).toString(16).padStart(16, '0')}`;

// Throws if the bytes hold a secret that is not this client's. How often its own was there.
function search(bytes, own) {
  const found = bytes.match(/MK[0-9a-f]{16}/g) ?? [];
  for (const m of found) assert.equal(m, own, 'the secret of another client');
  return found.length;
}

// What is no part of an answer's meaning: its id, its times, the numbers of versions.
function meaning(a) {
  const { id, created, timings, state, returned_state, started_from, system_fingerprint, ...rest } = a;
  return { ...rest, read: timings && timings.cache_n + timings.prompt_n, sha256: (state ?? returned_state)?.sha256 };
}

// The frames of a stream as the whole answer: text, tokens and logprobs in a row.
function joined(all) {
  assert.equal(all.pop(), '[DONE]');
  const text = all.map((f) => f.choices[0]?.text ?? f.choices[0]?.delta.content ?? '').join('');
  const tokens = all.flatMap((f) => f.choices[0]?.tokens ?? []);
  return { text, tokens, seed: all.at(-1).seed, sha256: (all.at(-1).state ?? all.at(-1).returned_state)?.sha256 };
}

// Equal to the last digit; told is where they part.
function same(got, want, what) {
  let at = 0;
  while (at < want.length && got[at] === want[at]) at++;
  assert.ok(got === want, `${what}: ...${got.slice(at - 40, at + 60)}... is not what it was alone, ...${want.slice(at - 40, at + 60)}...`);
}

class Client {
  constructor(d, i) {
    Object.assign(this, { d, i, own: marker(i), model: i % 2 ? 'one' : 'two', name: `s-${i}`, seen: 0, turns: 0 });
    this.base = { model: this.model, return_tokens: true, seed: 1 };
  }

  // One exchange, everything of it searched.
  async send(method, path, body, status = 200) {
    const id = `${this.own}.${this.seen}`;
    const r = await this.d.fetch(method, path, body, { 'x-request-id': id });
    assert.equal(r.status, status, `${method} ${path}: ${r.text}`);
    assert.equal(r.headers['x-request-id'], id);
    this.seen += search(JSON.stringify(r.headers) + r.text, this.own);
    return r;
  }

  async stream(path, body) {
    const raw = await Raw.open(this.d.port);
    raw.post(path, JSON.stringify({ ...body, stream: true }));
    const r = await raw.answer();
    raw.destroy();
    assert.equal(r.status, 200, r.body.toString());
    const whole = joined(frames(r.body.toString('utf8')));
    this.seen += search(r.body.toString('utf8') + whole.text, this.own);
    return whole;
  }

  // What this client asks over and over; each gives what must be the same every time.
  acts() {
    const { base, own, name, i } = this;
    const complete = async (body) => meaning((await this.send('POST', '/v1/completions', { ...base, ...body })).json);
    const chat = async (body) => meaning((await this.send('POST', '/v1/chat/completions', { ...base, user: own, ...body })).json);
    const prompt = `The word of ${i} is ${own}, and `;
    return {
      echo: () => complete({ prompt, echo: true, logprobs: 4, max_tokens: 8, temperature: 0 }),
      sampled: () => complete({ prompt, max_tokens: 24, seed: i, temperature: 1.2, top_p: 0.95, frequency_penalty: 0.3 }),
      choices: () => complete({ prompt: [prompt, own], n: 3, echo: true, max_tokens: 6, seed: 7 * i }),
      // One byte a client: an answer made with another's logit_bias would not be of it.
      biased: async () => {
        const a = await complete({ prompt, max_tokens: 12, temperature: 0, logit_bias: { [65 + i]: 100 } });
        assert.equal(a.choices[0].text, String.fromCharCode(65 + i).repeat(12));
        return a;
      },
      schema: async () => {
        const a = await chat({ messages: [{ role: 'user', content: own }], max_tokens: 40, no_cache: true, seed: i, json_schema: { enum: [`${own} of ${i}`] }, logit_bias: { 92: false } }); // no escapes
        assert.equal(a.choices[0].message.content, `"${own} of ${i}"`);
        return a;
      },
      streamed: () => this.stream('/v1/completions', { ...base, prompt, echo: true, max_tokens: 30, seed: i }),
      chat: () => chat({ messages: [{ role: 'user', content: prompt }], max_tokens: 12, seed: i, no_cache: true }),
      from_state: () => complete({ state: name, prompt: ' so', echo: true, logprobs: 2, max_tokens: 10, temperature: 0 }),
      from_logits: () => this.stream('/v1/completions', { ...base, state: `${name}@1`, max_tokens: 20, seed: i }),
      given_back: async () => {
        const a = (await this.send('POST', '/v1/completions', { ...base, state: name, prompt: 'x', max_tokens: 4, temperature: 0, return_state: true })).json;
        const b = (await this.send('POST', '/v1/completions', { ...base, state: { data: a.returned_state.data }, max_tokens: 6, temperature: 0 })).json;
        return [meaning(a), meaning(b)];
      },
      written: async () => {
        const saved = `${name}-saved`;
        const a = (await this.send('POST', '/v1/completions', { ...base, state: name, prompt: own, max_tokens: 5, seed: i, save_state: saved, if_exists: 'new_version' })).json;
        const b = (await this.send('POST', `/v1/states/${saved}/append`, { model: this.model, text: ` ${own}` }, 201)).json;
        const c = (await this.send('POST', `/v1/states/${saved}/fork`, { name: `${name}-fork`, if_exists: 'new_version', description: own }, 201)).json;
        const data = (await this.send('GET', `/v1/states/${c.ref}/data`)).body.length;
        assert.deepEqual([a.state.ref, c.sha256], [b.parents[0], b.sha256]);
        for (const s of [saved, `${name}-fork`]) await this.send('DELETE', `/v1/states/${s}`);
        return [meaning(a), b.sha256, b.n_tokens, c.description, data];
      },
      record: async () => {
        await this.send('PATCH', `/v1/states/${name}`, { description: `of ${own}`, tags: [own] });
        const all = (await this.send('GET', `/v1/states?tag=${own}`)).json.data;
        return all.map((s) => [s.name, s.version, s.sha256, s.description, s.tags]);
      },
      embedding: async () => (await this.send('POST', '/v1/embeddings', { model: this.model, input: [own, prompt], state: name })).json.data,
      tokens: async () => {
        const { tokens } = (await this.send('POST', '/tokenize', { content: own })).json;
        return (await this.send('POST', '/detokenize', { tokens })).json;
      },
      error: async () => {
        const a = await this.send('POST', '/v1/completions', { prompt, state: `no-${own}` }, 404);
        const b = await this.send('POST', '/v1/completions', { prompt, max_tokens: own }, 400);
        return [a.json.error.code, b.json.error.param];
      },
    };
  }

  // A chat that goes on, begun by all clients with the same words: only what this client said may be known already.
  async session(r) {
    const history = [{ role: 'user', content: 'hello' }];
    const user = `${this.own}/${this.turns++}`;
    let read = 0;
    for (let turn = 0; turn < 3; turn++) {
      const { json } = await this.send('POST', '/v1/chat/completions', { ...this.base, user, messages: history, max_tokens: 6, seed: turn });
      const t = json.timings;
      assert.ok(t.cache_n === 0 || (turn > 0 && t.cache_n >= read), `${t.cache_n} tokens were there in turn ${turn}, ${read} were read`);
      const fresh = (await this.send('POST', '/v1/chat/completions', { ...this.base, messages: history, max_tokens: 6, seed: turn, no_cache: true })).json;
      assert.deepEqual([fresh.timings.cache_n, fresh.choices], [0, json.choices]);
      read = t.cache_n + t.prompt_n;
      history.push({ role: 'assistant', content: `it is ${r(1000)}` }, { role: 'user', content: this.own });
      if (turn === 0) continue;
      assert.ok(t.cache_n > 0 || t.prompt_n === fresh.timings.prompt_n);
    }
  }

  // Asks and leaves.
  async leave(r) {
    const raw = await Raw.open(this.d.port);
    const stream = r(2) === 0;
    const long = r(2) === 0; // long enough to be read for a while
    const prompt = `${this.own} ${long ? this.own.repeat(800) : ''}`;
    const [path, body] = r(3) ? ['/v1/completions', { ...this.base, prompt, state: this.name, echo: true, max_tokens: 5000, n: 1 + r(2) }]
      : ['/v1/states', { model: this.model, name: `${this.name}-left`, text: prompt.repeat(4), description: this.own, if_exists: 'new_version' }];
    raw.post(path, JSON.stringify({ ...body, stream }));
    if (stream && r(2)) await raw.until((b) => b.length > 300);
    else if (r(2)) await this.send('GET', '/health');
    this.seen += search(raw.bytes.toString('latin1'), this.own);
    raw.destroy();
  }
}

test('the search finds the secret of another', () => {
  assert.throws(() => search(`{"text":"${marker(3)}"}`, marker(4)));
  assert.equal(search(`${marker(4)} ${marker(4)}`, marker(4)), 2);
});

test(`${N_CLIENTS} clients with secrets, ${requests} requests`, async () => {
  const one = byteModel('one.safetensors'), two = byteModel('two.safetensors', (t) => {
    const head = Buffer.from(t['head.weight'].data);
    for (let at = 0; at < head.length; at += 64) head.writeFloatLE(-head.readFloatLE(at), at);
    t['head.weight'].data = head;
  });
  const d = await Daemon.start({ model: [`one=${one}`, `two=${two}`], args: ['--max-sequences', '4', '--max-queue', '1000', '--state-cache', '300K', '--sessions', '40'] });
  try {
    const clients = Array.from({ length: N_CLIENTS }, (_, i) => new Client(d, i));
    const alone = [];
    for (const c of clients) {
      await c.send('POST', '/v1/states', { model: c.model, name: c.name, text: `A state that has read ${c.own}.` }, 201);
      const want = {};
      for (const [kind, act] of Object.entries(c.acts())) want[kind] = JSON.stringify(await act());
      alone.push(want);
    }
    const told = new Set(alone.map((w) => w.from_logits));
    assert.equal(told.size, N_CLIENTS, 'states of different clients answer alike: the comparison could not fail');
    let left = requests;
    const did = {};
    await Promise.all(clients.map(async (c) => {
      const r = random(c.i + 1), acts = Object.entries(c.acts());
      while (left-- > 0) {
        const k = r(acts.length + 8);
        const kind = k < acts.length ? acts[k][0] : k < acts.length + 6 ? 'leave' : 'session';
        did[kind] = (did[kind] ?? 0) + 1;
        if (kind === 'leave') await c.leave(r);
        else if (kind === 'session') await c.session(r);
        else same(JSON.stringify(await acts[k][1]()), alone[c.i][kind], `client ${c.i}, ${kind}`);
      }
    }));
    for (const gauge of ['active', 'waiting']) await d.until(`dreamstate_sequences_${gauge}`, (v) => v === 0);
    const seen = clients.reduce((n, c) => n + c.seen, 0);
    const counts = await Promise.all(['state_cache_hits', 'state_cache_evicted', 'sessions_evicted'].map((m) => d.metric(`dreamstate_${m}_total`)));
    console.log(`own secrets seen ${seen} times, others' never; state cache: ${counts[0]} hits, ${counts[1]} evicted; ${counts[2]} sessions evicted; ${JSON.stringify(did)}`);
    for (const n of counts) assert.ok(n > 0);
    assert.doesNotMatch(d.log, /MK[0-9a-f]{16}(?!\.)/, 'a secret in the log'); // request ids have a point behind
  } catch (e) {
    await d.kill();
    throw e;
  }
  await d.stop();
});
