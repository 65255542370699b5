// Contexts and hybrid inference, with a hybrid of random weights: what it makes of a text is nonsense, but always the same
// nonsense, alone, beside others, after a restart; and strength 0 is the model itself.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ok, refused } from '../lib/answers.mjs';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { Raw } from '../lib/raw.mjs';
import { hybridFile, hybridModel, metaOf } from '../lib/hybrid.mjs';
import { byteModel } from '../lib/model.mjs';

const model = await hybridModel();
const models = { 0: model, 2: await hybridModel({ rank: 2 }) }; // by the rank of low-rank additions
const withDaemon = (run, options) => Daemon.with({ model, ...options }, run);
const sea = 'The whale swam on through the green water. '.repeat(20), law = 'Thou shalt not steal.\n'.repeat(30);

const make = (d, body) => ok(d.post('/v1/contexts', { seed: 1, ...body }));

// All that a completion computed: its text, every logit that was shown, the bytes of the state that it left.
async function computed(d, body) {
  const r = await d.complete({ prompt: 'And then', max_tokens: 12, seed: 3, logprobs: 5, return_state: true, ...body });
  return { choices: r.choices, state: r.returned_state.sha256 };
}

async function withContexts(run, options) {
  await withDaemon(async (d) => {
    await make(d, { name: 'sea', text: sea });
    await make(d, { name: 'law', text: law });
    await run(d);
  }, options);
}

test('strength 0 is the model itself, bit for bit; other strengths and contexts are not', async () => {
  await withContexts(async (d) => {
    await ok(d.post('/v1/states', { name: 's', text: 'Call me Ishmael.' }));
    for (const from of [{}, { state: 's' }]) {
      const plain = await computed(d, from);
      for (const context of ['sea', { text: sea }]) assert.deepEqual(await computed(d, { ...from, hybrid: { context, strength: 0 } }), plain);
      const all = [plain];
      for (const hybrid of [{ context: 'sea' }, { context: 'sea', strength: 0.5 }, { context: 'sea', strength: 1e-3 }, { context: 'law' }, { context: { text: sea }, seed: 2 },
        { context: { text: sea }, seed: 1, num_inference_steps: 3 }])
        all.push(await computed(d, { ...from, hybrid }));
      assert.equal(new Set(all.map((x) => x.state)).size, all.length);
      assert.equal(new Set(all.map((x) => JSON.stringify(x.choices[0].logprobs))).size, all.length);
    }
    // nothing was read for them
    const before = await d.metric('dreamstate_context_tokens_total');
    await computed(d, { hybrid: { context: { text: sea }, strength: 0 } });
    assert.equal(await d.metric('dreamstate_context_tokens_total'), before);
  });
});

test('a text in the request is the stored context of its text and seed; several choices read it once', async () => {
  await withContexts(async (d) => {
    const stored = await ok(d.get('/v1/contexts/sea'), 200);
    assert.deepEqual(await computed(d, { hybrid: { context: { text: sea }, seed: 1 } }), await computed(d, { hybrid: { context: 'sea' } }));
    assert.deepEqual(await computed(d, { hybrid: { context: { tokens: [...Buffer.from(sea)] }, seed: 1, strength: 0.3 } }), await computed(d, { hybrid: { context: 'sea', strength: 0.3 } }));
    const { hybrid } = await d.complete({ prompt: 'x', max_tokens: 1, seed: 1, hybrid: { context: { text: sea } } }); // the request's seed
    assert.deepEqual(hybrid, { context: null, strength: 1, sha256: stored.sha256, seed: 1, num_inference_steps: 1, n_tokens: sea.length });
    assert.deepEqual((await d.complete({ prompt: 'x', max_tokens: 1, hybrid: { context: 'sea' } })).hybrid, { ...hybrid, context: 'sea' });
    // a seed at random is told, and replays
    const random = (await d.complete({ prompt: 'x', max_tokens: 1, hybrid: { context: { text: sea } } })).hybrid;
    assert.deepEqual((await d.complete({ prompt: 'x', max_tokens: 1, hybrid: { context: { text: sea }, seed: random.seed } })).hybrid, random);
    assert.equal((await make(d, { name: 'again', text: sea, seed: random.seed })).sha256, random.sha256);
    const before = await d.metric('dreamstate_context_tokens_total');
    await refused(d.post('/v1/completions', { prompt: 'x', state: 'nobody', hybrid: { context: { text: law } } }), 404, 'state_not_found'); // before anything is read
    assert.equal(await d.metric('dreamstate_context_tokens_total'), before);
    const { choices } = await d.complete({ prompt: ['And then', 'Or'], n: 3, max_tokens: 6, seed: 5, hybrid: { context: { text: law }, seed: 1 } });
    assert.equal(await d.metric('dreamstate_context_tokens_total'), before + law.length + 1);
    for (const [i, c] of choices.entries()) {
      const alone = await d.complete({ prompt: ['And then', 'Or'][Math.floor(i / 3)], max_tokens: 6, seed: 5 + (i % 3), hybrid: { context: 'law' } });
      assert.equal(c.text, alone.choices[0].text, `choice ${i}`);
    }
  });
});

for (const rank of [0, 2]) test(`under different contexts side by side: each is what it is alone, also as a stream; rank ${rank}`, async () => {
  await withContexts(async (d) => {
    const asks = [];
    for (let i = 0; i < 24; i++)
      asks.push({ prompt: `${i} times`, max_tokens: 30, seed: i,
        ...[{}, { hybrid: { context: 'sea' } }, { hybrid: { context: 'law', strength: 0.7 } }, { hybrid: { context: { text: law.slice(i) }, seed: i } }][i % 4] });
    const alone = [];
    for (const a of asks) alone.push(await computed(d, a));
    assert.deepEqual(await Promise.all(asks.map((a) => computed(d, a))), alone);
    const { text } = await d.post('/v1/completions', { ...asks[1], stream: true });
    const frames = [...text.matchAll(/^data: (\{.*\})$/gm)].map((m) => JSON.parse(m[1]));
    assert.equal(frames.map((f) => f.choices[0]?.text ?? '').join(''), alone[1].choices[0].text);
    assert.equal(frames.at(-1).hybrid.context, 'sea');
  }, { model: models[rank] });
});

for (const [rank, model] of Object.entries(models)) test(`kept over a restart and over kill -9, with the same answers; listed, deleted; rank ${rank}`, async () => {
  const data = scratch();
  let seen, said;
  const d = await Daemon.start({ model, data });
  try {
    await make(d, { name: 'sea', text: sea, tags: ['x'], description: 'wet' });
    const law1 = await make(d, { name: 'law', text: law });
    assert.equal((await make(d, { name: 'law-2', text: law })).sha256, law1.sha256);
    seen = await ok(d.get('/v1/contexts'), 200);
    said = await computed(d, { hybrid: { context: 'sea' } });
  } finally {
    await d.kill();
  }
  const [sea1] = seen.data.slice(-1);
  assert.deepEqual([sea1.name, sea1.tags, sea1.description, sea1.n_tokens, sea1.seed, sea1.damaged], ['sea', ['x'], 'wet', sea.length, 1, false]);
  const { n_layer, n_embd } = (await metaOf(model));
  assert.equal(sea1.bytes, 4 * n_layer * (6 + 6 * rank) * n_embd);
  assert.deepEqual(Object.keys(sea1.norms), ['w0', 'a0', 'v0', 'k_k', 'k_a', 'r_k', ...(+rank ? ['receptance', 'key', 'value'] : [])]);
  for (const v of Object.values(sea1.norms)) assert.ok(v > 0 && v < 10);
  await withDaemon(async (e) => {
    assert.deepEqual(await ok(e.get('/v1/contexts'), 200), seen);
    assert.deepEqual(await computed(e, { hybrid: { context: 'sea' } }), said);
    assert.deepEqual(await computed(e, { hybrid: { context: { text: sea }, seed: 1 } }), said);
    const page = await ok(e.get('/v1/contexts?limit=1&after=law'), 200);
    assert.deepEqual([page.data.map((c) => c.name), page.has_more], [['law-2'], true]);
    await refused(e.delete('/v1/contexts/law', { 'if-match': '"99"' }), 412, 'version_conflict');
    assert.deepEqual(await ok(e.delete('/v1/contexts/law'), 200), { id: 'law', object: 'context.deleted', deleted: true });
    await refused(e.delete('/v1/contexts/law'), 404, 'context_not_found');
    await refused(e.get('/v1/contexts/law'), 404, 'context_not_found');
    await refused(e.post('/v1/completions', { prompt: 'x', hybrid: { context: 'law' } }), 404, 'context_not_found', 'hybrid.context');
    assert.equal((await make(e, { name: 'law', text: law })).sha256, seen.data[0].sha256);
  }, { model, data });
});

test('what a chat left behind under a context is found under that context alone', async () => {
  await withContexts(async (d) => {
    const messages = [{ role: 'user', content: 'What is the sea?' }];
    const chat = async (hybrid, more) => ok(d.post('/v1/chat/completions', { messages, max_tokens: 8, seed: 1, hybrid, ...more }), 200);
    const cached = async (...a) => (await chat(...a)).timings.cache_n > 0;
    const first = await chat({ context: 'sea' });
    assert.equal(first.timings.cache_n, 0);
    assert.equal(await cached(null), false);
    assert.equal(await cached({ context: 'law' }), false);
    assert.equal(await cached({ context: 'sea', strength: 0.5 }), false);
    assert.equal(await cached({ context: { text: sea }, seed: 9 }), false);
    // the same vectors, whatever they are called; each answer is that of a first time
    for (const hybrid of [{ context: 'sea' }, { context: { text: sea }, seed: 1 }]) {
      const again = await chat(hybrid);
      assert.ok(again.timings.cache_n > 0);
      assert.equal(again.choices[0].message.content, first.choices[0].message.content);
    }
    const plain = await chat(null);
    assert.ok(plain.timings.cache_n > 0);
    assert.equal(plain.choices[0].message.content, (await chat(null, { cache_prompt: false })).choices[0].message.content);
    assert.equal(await cached({ context: 'sea', strength: 0 }), true); // the model itself
    // another text under the name: other vectors
    await make(d, { name: 'sea', text: 'dry land', if_exists: 'replace' });
    assert.equal(await cached({ context: 'sea' }), false);
  });
});

test('with states: read, continued and saved under a context, which the record tells', async () => {
  await withContexts(async (d) => {
    const under = { hybrid: { context: 'sea', strength: 0.5 } };
    const read = await ok(d.post('/v1/states', { name: 's', text: 'Call me ', ...under }));
    const { sha256 } = await ok(d.get('/v1/contexts/sea'), 200);
    assert.deepEqual(read.origin.hybrid, { context: 'sea', sha256, strength: 0.5, seed: 1 });
    const more = await ok(d.post('/v1/states/s/append', { text: 'Ishmael.', ...under }));
    assert.deepEqual([more.version, more.origin.hybrid.context], [2, 'sea']);
    const whole = await ok(d.post('/v1/states', { name: 'whole', text: 'Call me Ishmael.', ...under }));
    assert.equal(whole.sha256, more.sha256);
    assert.notEqual((await ok(d.post('/v1/states', { name: 'plain', text: 'Call me Ishmael.' }))).sha256, whole.sha256);
    assert.deepEqual(await computed(d, { state: 's', ...under }), await computed(d, { state: 'whole', ...under }));
    const saved = (await d.complete({ state: 'plain', prompt: ' Some', max_tokens: 4, seed: 1, save_state: 'kept', ...under })).state;
    assert.deepEqual([saved.parents, saved.origin.hybrid.context], [['plain@1'], 'sea']);
    assert.equal((await d.complete({ state: 'plain', prompt: ' Some', max_tokens: 4, seed: 1, save_state: 'kept-2', hybrid: { context: 'sea', strength: 0 } })).state.origin.hybrid, undefined);
  });
});

test('a long context is read beside the others, and no further when its client has gone', async () => {
  await withContexts(async (d) => {
    const text = sea.repeat(1500);
    const asked = (await Raw.open(d.port)).post('/v1/contexts', JSON.stringify({ name: 'long', text }));
    await d.until('dreamstate_context_tokens_total', (n) => n > 3000);
    for (const hybrid of [undefined, { context: 'law' }, { context: { text: 'short' } }]) await d.complete({ prompt: 'x', max_tokens: 5, hybrid });
    asked.destroy();
    await d.until('dreamstate_cancelled_total', (n) => n === 1);
    assert.ok(await d.metric('dreamstate_context_tokens_total') < text.length);
    await refused(d.get('/v1/contexts/long'), 404, 'context_not_found');
    const inline = (await Raw.open(d.port)).post('/v1/completions', JSON.stringify({ prompt: 'x', n: 4, hybrid: { context: { text } } }));
    await d.until('dreamstate_sequences_active', (n) => n === 1);
    inline.destroy();
    await d.until('dreamstate_cancelled_total', (n) => n === 5); // those that waited for it too
    await computed(d, { hybrid: { context: 'sea' } });
  });
});

test('refused', async () => {
  await withContexts(async (d) => {
    const ask = (hybrid) => d.post('/v1/completions', { prompt: 'x', max_tokens: 1, hybrid });
    for (const [hybrid, param] of [['sea', 'hybrid'], [{}, 'hybrid.context'], [{ context: 5 }, 'hybrid.context'], [{ context: '' }, 'hybrid.context'],
      [{ context: 'a b' }, 'hybrid.context'], [{ context: {} }, 'hybrid.context.text'], [{ context: { text: '' } }, 'hybrid.context.text'],
      [{ context: { text: 'a', tokens: [1] } }, 'hybrid.context.tokens'], [{ context: { tokens: [] } }, 'hybrid.context.tokens'], [{ context: { tokens: [256] } }, 'hybrid.context.tokens'],
      [{ context: 'sea', strength: -0.1 }, 'hybrid.strength'], [{ context: 'sea', strength: 1.1 }, 'hybrid.strength'], [{ context: 'sea', strength: '1' }, 'hybrid.strength'],
      [{ context: 'sea', seed: 1 }, 'hybrid.seed'], [{ context: 'sea', num_inference_steps: 2 }, 'hybrid.num_inference_steps'],
      [{ context: { text: 'a' }, num_inference_steps: 101 }, 'hybrid.num_inference_steps'], [{ context: { text: 'a' }, seed: 0.5 }, 'hybrid.seed']])
      await refused(ask(hybrid), 400, 'invalid_request', param);
    // JSON has no NaN, and what it has instead is no number of a strength
    for (const strength of ['NaN', '1e999', '-1e999', 'null0'])
      await refused(d.post('/v1/completions', `{"prompt": "x", "hybrid": {"context": "sea", "strength": ${strength}}}`), 400, 'invalid_request');
    await refused(ask({ context: 'nobody' }), 404, 'context_not_found', 'hybrid.context');
    await refused(ask({ context: 'nobody', strength: 0 }), 404, 'context_not_found', 'hybrid.context');
    await refused(ask({ context: { text: 'x'.repeat(2001) } }), 413, 'request_too_large', 'hybrid.text');
    await ok(ask({ context: { text: 'x'.repeat(2000) } }), 200);
    const create = (body) => d.post('/v1/contexts', { name: 'c', text: 'x', ...body });
    for (const [body, param] of [[{ name: undefined }, 'name'], [{ name: 'a b' }, 'name'], [{ name: 'x'.repeat(129) }, 'name'], [{ text: '' }, 'text'], [{ text: undefined }, 'text'],
      [{ text: ['a'] }, 'text'], [{ tokens: [1] }, 'tokens'], [{ text: undefined, tokens: [-1] }, 'tokens'], [{ if_exists: 'new_version' }, 'if_exists'], [{ seed: 1.5 }, 'seed'],
      [{ num_inference_steps: 0 }, 'num_inference_steps'], [{ tags: 'x' }, 'tags']])
      await refused(create(body), 400, 'invalid_request', param);
    await refused(create({ text: 'x'.repeat(2001) }), 413, 'request_too_large', 'text');
    await refused(create({ model: 'nobody' }), 404, 'model_not_found', 'model');
    await refused(create({ name: 'sea' }), 409, 'name_exists', 'name');
    await refused(d.get('/v1/contexts/c'), 404, 'context_not_found'); // nothing of all that was kept
  }, { args: ['--max-context', '2000'] });
});

test('of another model, of another hybrid, without a hybrid', async () => {
  const data = scratch(), other = byteModel('other.safetensors', (t) => { t['emb.weight'].data = Buffer.from(t['emb.weight'].data); t['emb.weight'].data.writeFloatLE(0.5, 0); });
  const meta = await metaOf(model), otherHybrid = join(dirname(other), 'for-other'), second = join(scratch(), 'second');
  writeFileSync(otherHybrid, hybridFile(await metaOf(other)));
  writeFileSync(second, hybridFile(meta, { seed: 2 }));
  const ask = (d, context, m = 'bytes') => d.post('/v1/completions', { model: m, prompt: 'x', max_tokens: 1, hybrid: { context } });
  const both = [`bytes=${model}`, `other=${other}`];
  await withDaemon(async (d) => {
    await make(d, { name: 'sea', text: sea });
    await make(d, { name: 'theirs', text: sea, model: 'other' });
    await refused(ask(d, 'theirs'), 409, 'model_mismatch', 'hybrid.context');
    await refused(ask(d, 'sea', 'other'), 409, 'model_mismatch', 'hybrid.context');
    await ok(ask(d, 'theirs', 'other'), 200);
    assert.deepEqual((await ok(d.get('/v1/contexts?model=other'), 200)).data.map((c) => c.name), ['theirs']);
  }, { model: both, data, args: ['--hybrid', `other=${otherHybrid}`] });
  await withDaemon(async (d) => {
    await refused(ask(d, 'sea'), 409, 'model_mismatch', 'hybrid.context');
    await ok(d.post('/v1/contexts', { name: 'sea', text: sea, if_exists: 'replace' }));
    await ok(ask(d, 'sea'), 200);
    for (const r of [ask(d, 'theirs', 'other'), ask(d, { text: 'x' }, 'other'), d.post('/v1/contexts', { name: 'c', text: 'x', model: 'other' })]) {
      await refused(r, 409, 'no_hybrid');
      assert.match((await r).json.error.message, /train hybrid/);
    }
    assert.equal((await ok(d.get('/v1/models/other'), 200)).meta.hybrid, null);
  }, { model: both, data, args: ['--hybrid', second] });
  // one that does not fit, or is damaged, is no hybrid if it only stands there, and an end if it is asked for
  for (const [bytes, why] of [[hybridFile({ ...meta, fingerprint: 'ab'.repeat(32) }), /was trained for the model abab/], [hybridFile(meta).subarray(0, 5000), /hybrid|safetensors|tensor/],
    [hybridFile(meta, { change: (t) => { t.alpha.data.writeFloatLE(NaN, 0); } }), /alpha is not finite/],
    [hybridFile(meta, { rank: 9 }), /a number is outside its range/],
    [hybridFile(meta, { rank: 2, change: (t) => { t.scale = { dtype: t.scale.dtype, shape: [meta.n_layer, 6], data: t.scale.data.subarray(0, 24 * meta.n_layer) }; } }), /tensor scale is missing or of another shape/]]) {
    const alone = byteModel();
    writeFileSync(join(dirname(alone), 'hybrid.safetensors'), bytes);
    await withDaemon(async (d) => {
      assert.match(d.log, /hybrid_left_out/);
      await refused(ask(d, { text: 'x' }), 409, 'no_hybrid', 'hybrid');
    }, { model: alone });
    await assert.rejects(Daemon.start({ model: alone, args: ['--hybrid', join(dirname(alone), 'hybrid.safetensors')] }), why);
  }
  await assert.rejects(Daemon.start({ model, args: ['--hybrid', `nobody=${second}`] }), /no model of this name/);
  await assert.rejects(Daemon.start({ model, args: ['--hybrid', '/nowhere'] }), /nowhere/);
});
