// Arithmetic on stored states: exact where it can be, traced, refused without leaving anything behind.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { refused } from '../lib/answers.mjs';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel, stateTensors } from '../lib/model.mjs';

const model = byteModel();
const greedy = { temperature: 0, logprobs: 5, max_tokens: 16, prompt: 'and ' };

const withDaemon = (run, options) => Daemon.with({ model, ...options }, async (d) => {
  for (const [name, text] of [['a', 'The whale swam on.\n'], ['b', 'She wrote a letter.\n'], ['c', 'Two and two are four.\n']])
    assert.equal((await d.post('/v1/states', { name, text })).status, 201);
  await run(d);
});

async function edit(d, name, state, ...ops) {
  const r = await d.post('/v1/states/edits', { state, name, ops });
  assert.equal(r.status, 201, r.text);
  return r.json;
}

test('the laws, on stored bytes', async () => {
  await withDaemon(async (d) => {
    const [a, b] = [await stateTensors(d, 'a'), await stateTensors(d, 'b')];
    for (const [name, ops, want] of [
      ['l0', [{ op: 'lerp', with: 'b', t: 0 }], a], ['l1', [{ op: 'lerp', with: 'b', t: 1 }], b],
      ['s0', [{ op: 'slerp', with: 'b', t: 0 }], a], ['s1', [{ op: 'slerp', with: 'b', t: 1 }], b],
      ['k1', [{ op: 'scale', factor: 1 }], a], ['nn', [{ op: 'negate' }, { op: 'negate' }], a],
      ['cp', [{ op: 'copy', with: 'b' }], b], ['ma', [{ op: 'mean', with: 'a' }], a]]) {
      await edit(d, name, 'a', ...ops);
      assert.deepEqual(await stateTensors(d, name), want, name);
    }
    await edit(d, 'zero', 'a', { op: 'subtract', with: 'a' });
    for (const t of Object.values(await stateTensors(d, 'zero'))) for (let i = 0; i < t.length; i += 4) assert.equal(Math.abs(t.readFloatLE(i)), 0);
    // A zeroed state continues as the zero state does.
    const fresh = await d.complete(greedy);
    assert.deepEqual((await d.complete({ ...greedy, state: 'zero' })).choices, fresh.choices);
    const same = (await d.post('/v1/states/compare', { state: 'l1', with: 'b' })).json;
    assert.deepEqual([same.cosine, same.relative_l2, same.state, same.with], [1, 0, 'l1@1', 'b@1']);
    const gone = (await d.post('/v1/states/compare', { state: 'a', with: 'zero' })).json;
    assert.deepEqual([gone.cosine, gone.relative_l2, gone.norm_with], [0, 1, 0]);
  });
});

test('selectors: only what is chosen changes', async () => {
  await withDaemon(async (d) => {
    await edit(d, 'part', 'a', { op: 'copy', with: 'b', layers: [1], heads: [1] });
    const { blocks, layers } = (await d.post('/v1/states/compare', { state: 'a', with: 'part' })).json;
    for (const x of blocks)
      assert.equal(x.relative_l2 > 0, x.layer === 1 && x.part === 'wkv' && x.head === 1, JSON.stringify(x));
    assert.deepEqual(layers.map((l) => l.relative_l2 > 0), [false, true, false]);
    const b = (await d.post('/v1/states/compare', { state: 'b', with: 'part' })).json.blocks;
    assert.equal(b.find((x) => x.layer === 1 && x.head === 1).relative_l2, 0);
    await edit(d, 'shift', 'a', { op: 'zero', parts: ['att_shift', 'ffn_shift'] });
    for (const x of (await d.post('/v1/states/compare', { state: 'shift', with: 'a' })).json.blocks)
      assert.deepEqual([x.norm === 0, x.relative_l2], x.part === 'wkv' ? [false, 0] : [true, null]);
  });
});

test('lineage: parents, operations, seeds; the same seed gives the same bytes', async () => {
  await withDaemon(async (d) => {
    const drawn = await edit(d, 'n1', 'a', { op: 'contrast', positive: ['b'], negative: ['c', 'a'], scale: 0.2 }, { op: 'noise', scale: 0.1 });
    assert.deepEqual(drawn.parents, ['a@1', 'b@1', 'c@1']);
    assert.deepEqual([drawn.origin.kind, drawn.origin.of, drawn.has_logits, drawn.n_tokens], ['edit', 'a@1', false, 19]);
    assert.ok(Number.isInteger(drawn.origin.ops[1].seed));
    const again = await edit(d, 'n2', drawn.origin.of, ...drawn.origin.ops);
    assert.equal(again.sha256, drawn.sha256);
    assert.deepEqual(again.origin, drawn.origin);
    const other = await edit(d, 'n3', 'a', { op: 'noise', scale: 0.1, seed: 1 });
    assert.notEqual(other.sha256, drawn.sha256);
    // It works: no logits, so an empty prompt feeds the separator.
    const r = await d.complete({ state: 'n1', max_tokens: 4, temperature: 0 });
    assert.deepEqual([r.timings.prompt_n, r.timings.cache_n], [1, 19]);
  });
});

test('refused: nothing is kept, sources stay', async () => {
  await withDaemon(async (d) => {
    const before = (await d.get('/v1/states')).json;
    const ask = (body) => d.post('/v1/states/edits', { state: 'a', name: 'new', ...body });
    for (const [body, status, code, param] of [
      [{ ops: [{ op: 'scale', factor: 1e300 }] }, 422, 'not_finite', null], [{ ops: [{ op: 'copy', with: 'x' }] }, 404, 'state_not_found', 'ops[0]'],
      [{ state: 'a@7', ops: [{ op: 'zero' }] }, 404, 'state_not_found', 'state'], [{ name: 'b', ops: [{ op: 'zero' }] }, 409, 'state_exists', null],
      [{ ops: [{ op: 'invert', condition: { text: 'x' } }] }, 409, 'no_diffuser', null], [{ ops: [{ op: 'zero', layers: [9] }] }, 400, 'invalid_request', 'ops[0].layers'],
      // What belongs to another operation is a mistake, not a wish to be ignored.
      ...[[{ op: 'lerp', with: 'b', t: 0.5, minus: 'c' }, 'minus'], [{ op: 'zero', with: 'b' }, 'with'], [{ op: 'add', with: 'b', t: 1 }, 't'], [{ op: 'scale', factor: 2, seed: 1 }, 'seed'],
        [{ op: 'mean', with: 'b', strength: 1 }, 'strength'], [{ op: 'diffuse', condition: { text: 'x' }, with: 'b' }, 'with'],
        [{ op: 'invert', condition: { text: 'x' }, normalize: true }, 'normalize'], [{ op: 'zero', products: 'f32' }, 'products'],
        [{ op: 'diffuse', condition: { text: 'x' }, products: 'f16' }, 'products']].map(([op, field]) => [{ ops: [op] }, 400, 'invalid_request', `ops[0].${field}`])])
      await refused(ask(body), status, code, param);
    assert.deepEqual((await d.get('/v1/states')).json, before);
    const headers = { 'idempotency-key': 'edit 1' };
    const body = { state: 'a', name: 'kept', ops: [{ op: 'noise', scale: 0.1 }] };
    const first = await d.post('/v1/states/edits', body, headers);
    const second = await d.post('/v1/states/edits', body, headers);
    assert.deepEqual([first.status, second.status, second.headers['idempotent-replayed']], [201, 201, 'true']);
    assert.deepEqual(second.json, first.json);
    assert.equal((await d.post('/v1/states/edits', { ...body, name: 'other' }, headers)).json.error.code, 'idempotency_key_reused');
  });
});

test('fifty edits at once beside a completion', async () => {
  await withDaemon(async (d) => {
    const alone = await d.complete({ ...greedy, state: 'a' });
    const edits = Array.from({ length: 50 }, (_, i) => d.post('/v1/states/edits', { state: 'a', name: `e${i}`, ops: [{ op: 'lerp', with: 'b', t: i / 50 }] }));
    assert.deepEqual((await d.complete({ ...greedy, state: 'a' })).choices, alone.choices);
    for (const r of await Promise.all(edits)) assert.equal(r.status, 201, r.text);
  });
});
