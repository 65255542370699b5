// Conditions, diffusers, states generated and edited by diffusion.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { ok, refused } from '../lib/answers.mjs';
import { Daemon, randModel, scratch } from '../lib/daemon.mjs';
import { byteModel, stateTensors } from '../lib/model.mjs';
import { diffuserFile } from '../lib/diffuser.mjs';
import { Raw } from '../lib/raw.mjs';

const model = byteModel();
const type = { 'content-type': 'application/octet-stream' };

const withDaemon = (run, options) => Daemon.with({ model, ...options }, run);

async function metaOf(d, i = 0) { return (await d.get('/v1/models?limit=0')).json.data[i].meta; }

async function withDiffuser(run, options) {
  await withDaemon(async (d) => {
    await ok(d.post('/v1/diffusers?name=d', diffuserFile(await metaOf(d)), type));
    for (const [name, text] of [['sea', 'The whale swam on.'], ['law', ['Thou shalt not steal.', 'Honour thy father.']]])
      await ok(d.post('/v1/conditions', { name, text, tags: ['t'] }));
    await run(d);
  }, options);
}

const generate = (d, body) => d.post('/v1/states/generations', { name: 'g', condition: 'sea', ...body });
const edit = (d, name, ...ops) => d.post('/v1/states/edits', { state: 'a', name, ops });
const floats = (b) => Array.from({ length: b.length / 4 }, (_, i) => b.readFloatLE(4 * i));

test('conditions: the mean of the texts as the embeddings give them, kept over a restart', async () => {
  const data = scratch();
  let seen;
  await withDaemon(async (d) => {
    const made = await ok(d.post('/v1/conditions', { name: 'c', text: ['a text', 'and another'], description: 'two', tags: ['x'] }));
    assert.deepEqual([made.texts, made.description, made.tags, made.damaged], [['a text', 'and another'], 'two', ['x'], false]);
    // The same tokens through /v1/embeddings, whose vectors have the length 1: in the direction of the mean of one text.
    const one = await ok(d.post('/v1/conditions', { name: 'one', text: 'a text' }));
    const { data: [{ embedding }] } = await ok(d.post('/v1/embeddings', { input: '\na text' }), 200);
    const length = Math.hypot(...one.vector);
    one.vector.forEach((v, i) => assert.ok(Math.abs(v / length - embedding[i]) < 1e-5, `${i}`));
    const other = await ok(d.post('/v1/conditions', { name: 'other', text: 'and another' }));
    made.vector.forEach((v, i) => assert.ok(Math.abs(v - (one.vector[i] + other.vector[i]) / 2) < 1e-5, `${i}`));
    const bytes = Buffer.alloc(4 * made.vector.length);
    made.vector.forEach((v, i) => bytes.writeFloatLE(v, 4 * i));
    assert.equal(createHash('sha256').update(bytes).digest('hex'), made.sha256);
    // The vector given as it is makes the same condition.
    assert.equal((await ok(d.post('/v1/conditions', { name: 'v', vector: made.vector }))).sha256, made.sha256);
    const patched = await ok(d.patch('/v1/conditions/c', { tags: ['y'] }, { 'if-match': `"${made.revision}"` }), 200);
    assert.deepEqual([patched.tags, patched.description, patched.texts, patched.sha256], [['y'], 'two', made.texts, made.sha256]);
    assert.ok(patched.revision > made.revision);
    await refused(d.patch('/v1/conditions/c', { tags: [] }, { 'if-match': `"${made.revision}"` }), 412, 'version_conflict');
    seen = (await d.get('/v1/conditions')).json;
    assert.deepEqual(seen.data.map((c) => c.name), ['c', 'one', 'other', 'v']);
    const page = (await d.get('/v1/conditions?limit=2&after=one')).json;
    assert.deepEqual([page.data.map((c) => c.name), page.has_more], [['other', 'v'], false]);
  }, { data });
  await withDaemon(async (d) => {
    assert.deepEqual((await d.get('/v1/conditions')).json, seen);
    await ok(d.delete('/v1/conditions/one'), 200);
    await refused(d.get('/v1/conditions/one'), 404, 'condition_not_found');
    await ok(d.post('/v1/conditions', { name: 'one', text: 'again' }));
  }, { data });
});

test('conditions: refused', async () => {
  await withDaemon(async (d) => {
    const make = (body) => d.post('/v1/conditions', { name: 'c', text: 'x', ...body });
    const n = (await metaOf(d)).n_embd;
    for (const [body, param] of [[{ name: undefined }, 'name'], [{ name: 'a b' }, 'name'], [{ name: 'x'.repeat(129) }, 'name'], [{ text: '' }, 'text'],
      [{ text: [] }, 'text'], [{ text: 5 }, 'text'], [{ text: ['a', ''] }, 'text'], [{ text: Array(257).fill('a') }, 'text'], [{ text: undefined }, 'text'],
      [{ vector: [1] }, 'vector'], [{ text: undefined, vector: [1] }, 'vector'], [{ text: undefined, vector: Array(n).fill('a') }, 'vector'],
      [{ text: undefined, vector: Array(n).fill(1e30) }, 'vector'], [{ tags: 'x' }, 'tags']])
      await refused(make(body), 400, 'invalid_request', param);
    await refused(make({ model: 'nobody' }), 404, 'model_not_found');
    await ok(make({}));
    await refused(make({}), 409, 'name_exists');
    await refused(d.patch('/v1/conditions/c', {}), 400, 'invalid_request');
    await refused(d.patch('/v1/conditions/nobody', { tags: [] }), 404, 'condition_not_found');
    await refused(d.delete('/v1/conditions/nobody'), 404, 'condition_not_found');
    await refused(d.delete('/v1/conditions/c', { 'if-match': '"99"' }), 412, 'version_conflict');
    await refused(d.get('/v1/conditions/a%20b'), 400, 'invalid_request', 'name');
  });
});

test('diffusers: imported, listed, exported as they were, deleted', async () => {
  await withDaemon(async (d) => {
    const meta = await metaOf(d);
    const file = diffuserFile(meta), import_ = (name, bytes) => d.post(`/v1/diffusers?name=${name}`, bytes, type);
    await refused(generate(d, { condition: { text: 'x' } }), 409, 'no_diffuser');
    await refused(d.get('/v1/diffusers/d'), 404, 'diffuser_not_found');
    const made = await ok(import_('d', file));
    assert.equal(made.sha256, createHash('sha256').update(file).digest('hex'));
    assert.deepEqual([made.fingerprint, made.bytes, made.meta.steps, made.meta.labels, made.meta.shifts], [meta.fingerprint, file.length, 7, ['sea', 'land'], true]);
    await refused(import_('d', file), 409, 'name_exists');
    const data = await d.get('/v1/diffusers/d/data');
    assert.ok(data.body.equals(file));
    assert.equal((await d.get('/v1/diffusers/d/data', { 'if-none-match': data.headers.etag })).status, 304);
    assert.deepEqual((await d.get('/v1/diffusers')).json.data, [made]);
    // hostile bytes: refused, and nothing is kept
    for (const bytes of [file.subarray(0, 1000), file.subarray(0, file.length - 4), Buffer.concat([file, file]), Buffer.alloc(100, 255), Buffer.from('{}'),
      diffuserFile(meta, { change: (t) => { delete t['codec.mean']; } }), diffuserFile(meta, { change: (t) => { t['cond.mean'].data.writeFloatLE(NaN, 0); } })])
      await refused(import_('bad', bytes), 422, 'invalid_file');
    await refused(import_('bad', diffuserFile({ ...meta, fingerprint: 'ab'.repeat(32) })), 409, 'model_mismatch');
    await refused(import_('a%20b', file), 400, 'invalid_request', 'name');
    await refused(d.post('/v1/diffusers', file, type), 400, 'invalid_request', 'name');
    await refused(d.get('/v1/diffusers/bad'), 404, 'diffuser_not_found');
    await ok(d.delete('/v1/diffusers/d'), 200);
    await refused(generate(d, { condition: { text: 'x' } }), 409, 'no_diffuser');
  });
});

test('a generation: named states with their origin; info replays to the same bytes, after a restart too', async () => {
  const data = scratch();
  let info, sums;
  await withDiffuser(async (d) => {
    const made = await ok(generate(d, { num_states: 3, num_inference_steps: 4, tags: ['made'] }));
    assert.deepEqual(made.data.map((s) => s.ref), ['g@1', 'g-2@1', 'g-3@1']);
    sums = made.data.map((s) => s.sha256);
    assert.equal(new Set(sums).size, 3);
    for (const [i, s] of made.data.entries()) {
      assert.deepEqual([s.has_logits, s.n_tokens, s.parents, s.tags], [false, 0, [], ['made']]);
      assert.deepEqual([s.origin.kind, s.origin.first, s.origin.params.seed, s.origin.diffuser], ['generate', i, made.info.seed, 'd']);
    }
    info = made.info;
    assert.ok(Number.isInteger(info.seed));
    const again = await ok(d.post('/v1/states/generations', info));
    assert.deepEqual(again.data.map((s) => [s.ref, s.sha256]), sums.map((x, i) => [`g${i ? `-${i + 1}` : ''}@2`, x]));
    assert.deepEqual(again.info, info);
    // the second alone; another seed; the text in the place of its name
    assert.equal((await ok(d.post('/v1/states/generations', { ...info, name: 'second', first: 1, num_states: 1 }))).data[0].sha256, sums[1]);
    assert.notEqual((await ok(d.post('/v1/states/generations', { ...info, name: 'other', seed: 1 }))).data[0].sha256, sums[0]);
    assert.equal((await ok(d.post('/v1/states/generations', { ...info, name: 'text', condition: { text: 'The whale swam on.' }, num_states: 1 }))).data[0].sha256, sums[0]);
    // it works: the next prompt is read from it
    const c = await d.complete({ state: 'g', prompt: 'and ', max_tokens: 4, temperature: 0 });
    assert.deepEqual([c.timings.prompt_n, c.timings.cache_n], [4, 0]);
  }, { data });
  await withDaemon(async (d) => {
    assert.deepEqual((await ok(d.post('/v1/states/generations', info))).data.map((s) => s.sha256), sums);
    // what it was made with has changed: said, not replaced
    await ok(d.delete('/v1/conditions/sea'), 200);
    await refused(d.post('/v1/states/generations', info), 404, 'condition_not_found');
    await ok(d.post('/v1/conditions', { name: 'sea', text: 'something else' }));
    await refused(d.post('/v1/states/generations', info), 409, 'model_mismatch', 'condition_sha256');
    await refused(d.post('/v1/states/generations', { ...info, diffuser_sha256: 'ab'.repeat(32) }), 409, 'model_mismatch', 'diffuser_sha256');
  }, { data });
});

test('what a request says matters: conditions, mixtures, schedulers, aliases', async () => {
  await withDiffuser(async (d) => {
    let n = 0;
    const sum = async (body) => (await ok(generate(d, { name: `s${n++}`, seed: 5, steps: 4, ...body }))).data[0].sha256;
    const base = await sum({});
    assert.equal(await sum({}), base);
    assert.equal(await sum({ steps: undefined, num_inference_steps: 4, cfg_scale: 1.5, scheduler: 'ddim', products: 'bf16', eta: 0 }), base);
    assert.equal(await sum({ condition: [{ name: 'sea', weight: 2 }, 'sea'] }), base);
    const others = [await sum({ condition: 'law' }), await sum({ condition: ['sea', { name: 'law', weight: 0.5 }] }), await sum({ condition: { label: 'land' } }),
      await sum({ negative_condition: 'law' }), await sum({ cfg_scale: 3 }), await sum({ steps: 5 }), await sum({ eta: 0.5 }), await sum({ scheduler: 'ddpm' }),
      await sum({ scheduler: 'dpmsolver++' })];
    assert.equal(new Set([base, ...others]).size, others.length + 1);
    const exact = await ok(generate(d, { name: 'exact', seed: 5, steps: 4, products: 'f32' })); // the same bytes where the CPU has no BF16
    assert.deepEqual([exact.info.products, exact.data[0].origin.params.products], ['f32', 'f32']);
    assert.equal(await sum({ products: 'f32' }), exact.data[0].sha256);
  });
});

test('a generation: refused, and nothing is kept', async () => {
  await withDiffuser(async (d) => {
    await ok(d.post('/v1/states', { name: 'taken', text: 'a' }));
    await ok(d.post('/v1/states', { name: 'row-2', text: 'a' }));
    const before = (await d.get('/v1/states')).json;
    for (const [body, status, code, param] of [
      [{ condition: 'nobody' }, 404, 'condition_not_found'], [{ condition: { label: 'nobody' } }, 404, 'condition_not_found'],
      [{ diffuser: 'nobody' }, 404, 'diffuser_not_found'], [{ name: 'taken' }, 409, 'state_exists'], [{ name: 'row', num_states: 2 }, 409, 'state_exists'],
      [{ condition: null }, 400, 'invalid_request', 'condition'], [{ condition: [] }, 400, 'invalid_request', 'condition'],
      [{ condition: {} }, 400, 'invalid_request', 'condition'], [{ condition: [{ label: 'sea' }, 'law'] }, 400, 'invalid_request', 'condition'],
      [{ condition: { name: 'sea', weight: -1 } }, 400, 'invalid_request', 'condition'], [{ name: 'edits' }, 400, 'invalid_request', 'name'],
      [{ name: undefined }, 400, 'invalid_request', 'name'], [{ num_states: 0 }, 400, 'invalid_request', 'num_states'], [{ num_states: 65 }, 400, 'invalid_request', 'num_states'],
      [{ num_inference_steps: 1 }, 400, 'invalid_request', 'num_inference_steps'], [{ steps: 1001 }, 400, 'invalid_request', 'steps'],
      [{ guidance_scale: -1 }, 400, 'invalid_request', 'guidance_scale'], [{ guidance_scale: 101 }, 400, 'invalid_request', 'guidance_scale'],
      [{ guidance_scale: '2' }, 400, 'invalid_request', 'guidance_scale'], [{ eta: 2 }, 400, 'invalid_request', 'eta'],
      [{ scheduler: 'euler' }, 400, 'invalid_request', 'scheduler'], [{ products: 'f16' }, 400, 'invalid_request', 'products'], [{ seed: 1.5 }, 400, 'invalid_request', 'seed'],
      [{ model: 'nobody' }, 404, 'model_not_found']])
      await refused(generate(d, body), status, code, param);
    await refused(d.post('/v1/states/generations', { name: 'x', condition: 'sea', num_states: 2 }, { 'idempotency-key': 'k' }), 400, 'invalid_request', 'Idempotency-Key');
    assert.deepEqual((await d.get('/v1/states')).json, before);
    const once = await d.post('/v1/states/generations', { name: 'x', condition: 'sea', steps: 2 }, { 'idempotency-key': 'k' });
    const twice = await d.post('/v1/states/generations', { name: 'x', condition: 'sea', steps: 2 }, { 'idempotency-key': 'k' });
    assert.deepEqual([once.status, twice.status, twice.headers['idempotent-replayed'], twice.json.data], [201, 201, 'true', once.json.data]);
  });
});

test('two models: what belongs to the other is refused', async () => {
  const b = byteModel('other.safetensors', (t) => { t['ln_out.bias'].data = Buffer.from(t['ln_out.bias'].data); t['ln_out.bias'].data.writeFloatLE(0.5, 0); });
  await withDaemon(async (d) => {
    await ok(d.post('/v1/diffusers?name=da', diffuserFile(await metaOf(d, 0)), type));
    await ok(d.post('/v1/diffusers?name=db', diffuserFile(await metaOf(d, 1)), type));
    await ok(d.post('/v1/conditions', { name: 'ca', model: 'a', text: 'x' }));
    await refused(generate(d, { model: 'b', condition: 'ca' }), 409, 'model_mismatch', 'condition');
    await refused(generate(d, { model: 'a', condition: 'ca', diffuser: 'db' }), 409, 'model_mismatch', 'diffuser');
    const made = await ok(generate(d, { model: 'b', condition: { text: 'x' }, steps: 2 }));
    assert.deepEqual([made.data[0].model, made.info.diffuser], ['b', 'db']);
    assert.deepEqual((await d.get('/v1/diffusers?model=a')).json.data.map((x) => x.name), ['da']);
    assert.deepEqual((await d.get('/v1/conditions?model=b')).json.data, []);
  }, { model: [`a=${model}`, `b=${b}`] });
});

test('a client that leaves ends its generation; another goes on', async () => {
  await withDiffuser(async (d) => {
    const before = await d.metric('dreamstated_cancelled_total').catch(() => 0);
    const body = JSON.stringify({ name: 'long', condition: 'sea', num_states: 64, num_inference_steps: 1000, background: false });
    const raw = await Raw.open(d.port);
    raw.send(`POST /v1/states/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    await d.until('dreamstate_errands_total', (v) => v >= 4); // the import, two conditions, this
    raw.destroy();
    const start = Date.now();
    await ok(generate(d, { name: 'short', steps: 2 })); // waits for the one that was left
    assert.ok(Date.now() - start < 20000, `${Date.now() - start} ms`);
    await refused(d.get('/v1/states/long'), 404, 'state_not_found');
    assert.ok(before !== undefined);
  });
});

test('edits by diffusion: lineage, masks, identity at strength 0', async () => {
  await withDiffuser(async (d) => {
    await ok(d.post('/v1/states', { name: 'a', text: 'She wrote a letter.\n' }));
    const a = await stateTensors(d, 'a');
    await ok(edit(d, 'same', { op: 'diffuse', condition: 'sea', strength: 0 }));
    assert.deepEqual(await stateTensors(d, 'same'), a);
    const made = await ok(edit(d, 'e', { op: 'diffuse', condition: 'sea', strength: 0.5, steps: 4 }));
    assert.deepEqual([made.parents, made.origin.kind, made.origin.of, made.has_logits, made.n_tokens], [['a@1'], 'edit', 'a@1', false, 20]);
    assert.ok(Number.isInteger(made.origin.ops[0].seed));
    assert.equal((await ok(edit(d, 'e2', ...made.origin.ops))).sha256, made.sha256);
    assert.notEqual((await ok(edit(d, 'e3', { ...made.origin.ops[0], strength: 0.8 }))).sha256, made.sha256);
    // a mask: nothing else changes, not a bit
    await ok(edit(d, 'in', { op: 'inpaint', condition: 'sea', layers: [1], heads: [1], steps: 4 }));
    for (const x of (await d.post('/v1/states/compare', { state: 'a', with: 'in' })).json.blocks)
      assert.equal(x.relative_l2 > 0, x.layer === 1 && x.part === 'wkv' && x.head === 1, JSON.stringify(x));
    await ok(edit(d, 'part', { op: 'diffuse', condition: 'sea', parts: ['att_shift'], strength: 0.5, steps: 4 }));
    for (const x of (await d.post('/v1/states/compare', { state: 'a', with: 'part' })).json.blocks)
      assert.equal(x.relative_l2 > 0, x.part === 'att_shift', JSON.stringify(x));
    // inversion takes no seed's noise: two seeds, one result
    const inverted = await ok(edit(d, 'i1', { op: 'invert', source_condition: 'law', condition: 'sea', steps: 4, seed: 1 }));
    assert.equal((await ok(edit(d, 'i2', { op: 'invert', source_condition: 'law', condition: 'sea', steps: 4, seed: 2 }))).sha256, inverted.sha256);
    // beside arithmetic, in order
    const both = await ok(edit(d, 'both', { op: 'diffuse', condition: { text: 'x' }, strength: 0.3, steps: 4 }, { op: 'scale', factor: 0 }));
    for (const t of Object.values(await stateTensors(d, 'both'))) for (const v of floats(t)) assert.equal(Math.abs(v), 0);
    assert.equal(both.origin.ops.length, 2);
    for (const [op, status, code, param] of [
      [{ op: 'diffuse' }, 400, 'invalid_request', 'ops[0].condition'], [{ op: 'diffuse', condition: 'sea', strength: 1.5 }, 400, 'invalid_request', 'ops[0].strength'],
      [{ op: 'diffuse', condition: 'sea', strength: -0.1 }, 400, 'invalid_request', 'ops[0].strength'], [{ op: 'inpaint', condition: 'sea' }, 400, 'invalid_request', 'ops[0].op'],
      [{ op: 'inpaint', condition: 'sea', layers: [9] }, 400, 'invalid_request', 'ops[0].layers'], [{ op: 'diffuse', condition: 'nobody' }, 404, 'condition_not_found']])
      await refused(edit(d, 'no', op), status, code, param);
  });
});

test('a diffuser without shift vectors: an edit keeps the state\'s own', async () => {
  await withDaemon(async (d) => {
    await ok(d.post('/v1/diffusers?name=d', diffuserFile(await metaOf(d), { shifts: false }), type));
    await ok(d.post('/v1/states', { name: 'a', text: 'She wrote a letter.\n' }));
    await ok(edit(d, 'e', { op: 'diffuse', condition: { text: 'x' }, strength: 0.5, steps: 4 }));
    for (const x of (await d.post('/v1/states/compare', { state: 'a', with: 'e' })).json.blocks)
      assert.equal(x.relative_l2 > 0, x.part === 'wkv', JSON.stringify(x));
  });
});

test('a model of token ids: no text, but vectors', async () => {
  await withDaemon(async (d) => {
    const meta = await metaOf(d);
    await refused(d.post('/v1/conditions', { name: 'c', text: 'x' }), 400, 'invalid_request');
    await ok(d.post('/v1/conditions', { name: 'c', vector: Array(meta.n_embd).fill(0.1) }));
    await ok(d.post('/v1/diffusers?name=d', diffuserFile(meta), type));
    await ok(generate(d, { condition: 'c', steps: 2 }));
  }, { model: randModel });
});
