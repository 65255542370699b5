// Maps, neighbours and evaluations of stored states: what they say is what the states are.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const kinds = { digits: '0123456789', letters: 'abcdefghij', marks: '!?.,;:-()#' };

// Twelve states of each kind: texts of its characters in an order that a small generator draws.
async function bakeKinds(d) {
  let x = 7;
  const draw = (n) => { x = (x * 1103515245 + 12345) % 2147483648; return Math.floor(x / 65536) % n; };
  for (const [kind, chars] of Object.entries(kinds))
    for (let i = 0; i < 12; i++) {
      const text = Array.from({ length: 200 }, () => chars[draw(10)]).join('');
      const r = await d.post('/v1/states', { name: `${kind}-${i}`, text, tags: ['all', `kind:${kind}`, `i:${i}`] });
      assert.equal(r.status, 201);
    }
}

async function withStates(run) {
  const d = await Daemon.start({ model });
  try {
    await bakeKinds(d);
    await run(d);
  } catch (e) {
    await d.kill();
    throw e;
  }
  await d.stop();
}

test('projections keep kinds apart, by both methods; the same request gives the same map', async () => {
  await withStates(async (d) => {
    for (const method of ['pca', 'tsne']) {
      const ask = { method, tag: 'all', label_prefix: 'kind:', k: 3 };
      const { status, json, text } = await d.post('/v1/states/projections', ask);
      assert.equal(status, 200, text);
      assert.equal(json.points.length, 36);
      for (const p of json.points) assert.equal(p.label, p.state.split('-')[0]);
      const m = json.metrics;
      assert.ok(m.knn_accuracy > 0.9 && m.map_knn_accuracy > 0.8, JSON.stringify(m));
      assert.ok(m.silhouette > 0.05 && m.map_silhouette > 0.1, JSON.stringify(m));
      assert.ok(m.kept_variance > 0.99); // 36 states have 35 components
      assert.equal((await d.post('/v1/states/projections', ask)).text, text);
    }
    const labels = async (body) => new Set((await d.post('/v1/states/projections', { method: 'pca', ...body })).json.points.map((p) => p.label));
    assert.deepEqual(await labels({ prefix: 'digits' }), new Set(['all']));
    assert.deepEqual(await labels({ prefix: 'digits', label_prefix: 'none:' }), new Set([null]));
    const one = (await d.post('/v1/states/projections', { method: 'pca', prefix: 'digits' })).json;
    assert.ok(!('silhouette' in one.metrics));
    const whole = await d.post('/v1/states/projections', { method: 'pca', prefix: 'marks', parts: ['att_shift', 'wkv', 'ffn_shift'] });
    const head = await d.post('/v1/states/projections', { method: 'pca', prefix: 'marks', layers: [2], heads: [1] });
    assert.deepEqual([whole.json.n_features, head.json.n_features], [3 * (128 * 64 + 2 * 128), 64 * 64]);
    const seeded = (seed) => d.post('/v1/states/projections', { tag: 'all', seed, iterations: 100 });
    const [a, b, c] = [await seeded(1), await seeded(1), await seeded(2)];
    assert.equal(a.text, b.text);
    assert.notEqual(a.text, c.text);
    const drawn = (await seeded(-1)).json;
    assert.deepEqual((await seeded(drawn.seed)).json, drawn);
  });
});

test('a map as SVG: asked for by field or header, its text escaped', async () => {
  await withStates(async (d) => {
    await d.patch('/v1/states/digits-0', { tags: ['all', 'kind:<script>alert("1")</script>&'] });
    const ask = { method: 'pca', tag: 'all', label_prefix: 'kind:', title: '</svg><b>&' };
    const r = await d.post('/v1/states/projections', { ...ask, format: 'svg' });
    assert.deepEqual([r.status, r.headers['content-type']], [200, 'image/svg+xml']);
    assert.equal((await d.post('/v1/states/projections', ask, { accept: 'image/svg+xml' })).text, r.text);
    assert.equal((await d.post('/v1/states/projections', { ...ask, format: 'json' }, { accept: 'image/svg+xml' })).json.points.length, 36);
    assert.match(r.text, /^<svg [^]*<\/svg>\n$/);
    assert.equal(r.text.match(/<\/svg>/g).length, 1);
    assert.ok(!r.text.includes('<script') && !r.text.includes('<b>'));
    assert.equal(r.text.match(/<use href="#s\d" x=/g).length, 36);
  });
});

test('neighbours: a copy is the nearest, kinds come first, filters hold', async () => {
  await withStates(async (d) => {
    await d.post('/v1/states/letters-3/fork', { name: 'copy' });
    for (const metric of ['cosine', 'euclidean']) {
      const { json } = await d.get(`/v1/states/letters-3/neighbors?k=12&metric=${metric}`);
      assert.deepEqual([json.state, json.n_seen, json.data.length], ['letters-3@1', 36, 12]);
      assert.equal(json.data[0].state, 'copy@1');
      assert.ok(json.data[0].distance < 1e-6);
      const distances = json.data.map((x) => x.distance);
      assert.deepEqual(distances, [...distances].sort((a, b) => a - b));
      assert.ok(json.data.filter((x) => x.state.startsWith('letters')).length > 8, JSON.stringify(json.data));
    }
    const of = async (q) => (await d.get(`/v1/states/letters-3/neighbors?${q}`)).json;
    assert.ok((await of('k=3&tag=kind:marks')).data.every((x) => x.state.startsWith('marks-')));
    assert.equal((await of('prefix=digits-1')).n_seen, 3);
    assert.deepEqual((await of('prefix=zzz')).data, []);
  });
});

test('evaluate: the sum of what a completion says of the same tokens', async () => {
  await withStates(async (d) => {
    const texts = ['0918273645', 'jihgfedcba abc'];
    const { json } = await d.post('/v1/states/evaluate', { text: texts, states: [null, 'digits-1', 'letters-1@1'] });
    assert.deepEqual(json.data.map((x) => [x.state, x.text]), [[null, 0], [null, 1], ['digits-1@1', 0], ['digits-1@1', 1], ['letters-1@1', 0], ['letters-1@1', 1]]);
    for (const x of json.data) {
      const prompt = texts[x.text];
      const r = await d.complete({ prompt, ...(x.state && { state: x.state }), max_tokens: 0, echo: true, logprobs: 0 });
      const bits = -r.choices[0].logprobs.token_logprobs.slice(1).reduce((a, b) => a + b, 0) * Math.LOG2E;
      assert.ok(Math.abs(bits - x.bits) < 1e-4 * bits, `${bits} ${x.bits}`);
      assert.deepEqual([x.tokens, x.bytes], [prompt.length - 1, prompt.length - 1]);
      assert.ok(Math.abs(x.bits_per_byte - x.bits / x.bytes) < 1e-6);
      assert.ok(Math.abs(x.perplexity - 2 ** (x.bits / x.tokens)) < 1e-5 * x.perplexity);
    }
    assert.deepEqual((await d.post('/v1/states/evaluate', { text: texts[0] })).json.data, [json.data[0]]);
  });
});

test('compare with a probe: the divergence of what two states predict, against all log probabilities', async () => {
  const d = await Daemon.start({ model });
  try {
    for (const [name, text] of [['a', 'The whale swam on.\n'], ['b', '0123456789\n']]) await d.post('/v1/states', { name, text });
    const probe = 'and then';
    const ask = async (state, other) => (await d.post('/v1/states/compare', { state, with: other, probe })).json.probe;
    const { tokens, kl, kl_reverse } = await ask('a', 'b');
    assert.equal(tokens, probe.length - 1);
    assert.ok(kl > 1e-3 && kl_reverse > 1e-3 && kl !== kl_reverse);
    assert.deepEqual(await ask('b', 'a'), { tokens, kl: kl_reverse, kl_reverse: kl });
    assert.deepEqual(await ask('a', 'a@1'), { tokens, kl: 0, kl_reverse: 0 });
    // The same from outside: every token's log probability as the one token after each prefix, biased into sight.
    let sum = 0;
    for (let i = 1; i < probe.length; i++) {
      const of = async (state) => {
        const all = new Float64Array(256);
        for (let first = 0; first < 256; first += 64) {
          const rs = await Promise.all(Array.from({ length: 64 }, (_, k) => d.complete({ state, prompt: [...Buffer.from(probe.slice(0, i)), first + k], max_tokens: 0, echo: true, logprobs: 0 })));
          rs.forEach((r, k) => { all[first + k] = r.choices[0].logprobs.token_logprobs.at(-1); });
        }
        return all;
      };
      if (i % 3 === 1) { // some places are enough
        const [p, q] = [await of('a'), await of('b')];
        const here = p.reduce((s, x, k) => s + Math.exp(x) * (x - q[k]), 0) * Math.LOG2E;
        const one = (await d.post('/v1/states/compare', { state: 'a', with: 'b', probe: probe.slice(0, i + 1) })).json.probe;
        const less = i > 1 ? (await d.post('/v1/states/compare', { state: 'a', with: 'b', probe: probe.slice(0, i) })).json.probe : { tokens: 0, kl: 0 };
        sum = one.kl * one.tokens - less.kl * less.tokens;
        assert.ok(Math.abs(sum - here) < 1e-4 * (1 + here), `${sum} ${here}`);
      }
    }
  } catch (e) {
    await d.kill();
    throw e;
  }
  await d.stop();
});

test('an edit overtakes long maps, a drain ends them in order', async () => {
  const d = await Daemon.start({ model });
  await bakeKinds(d);
  const maps = Array.from({ length: 4 }, () => d.post('/v1/states/projections', { tag: 'all', iterations: 10000 }).catch(() => null));
  const edit = await d.post('/v1/states/edits', { state: 'digits-0', name: 'quick', ops: [{ op: 'negate' }] });
  assert.equal(edit.status, 201);
  await d.stop();
  for (const m of await Promise.all(maps)) assert.ok(m === null || [200, 503].includes(m.status), m?.text);
});
