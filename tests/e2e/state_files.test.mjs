// Files of states that people have: imported and continued, they give the numbers that were computed with them.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, root, scratch } from '../lib/daemon.mjs';
import { readSafetensors, writeSafetensors } from '../lib/model.mjs';

const dir = join(root, 'tests/data/state-files');
const floats = (t) => new Float32Array(t.data.buffer.slice(t.data.byteOffset, t.data.byteOffset + t.data.length));

// log softmax of row `at` of logits [n, 64], for one token.
function logprob(logits, at, token) {
  const row = logits.subarray(at * 64, at * 64 + 64);
  const top = Math.max(...row);
  return row[token] - top - Math.log(row.reduce((s, x) => s + Math.exp(x - top), 0));
}

test('every form of a tuned state gives the golden numbers', async () => {
  const golden = readSafetensors(join(dir, 'golden.safetensors'));
  const tokens = [...new Int32Array(floats(golden.tokens).buffer)];
  const d = await Daemon.start({ model: `tuned=${join(dir, 'model-fp32.safetensors')}` });
  try {
    for (const [file, query, key] of [
      ['state-fp32.pth', '', 'logits.fp32'], ['state-bf16.pth', '', 'logits.bf16'],
      ['state-fp32.safetensors', '&orientation=value_key', 'logits.fp32'],
      ['state-webrwkv-f16.st', '&orientation=key_value', 'logits.webrwkv_f16']]) {
      const r = await d.post(`/v1/states/import?name=s&if_exists=new_version${query}`, readFileSync(join(dir, file)),
        { 'content-type': 'application/octet-stream' });
      assert.equal(r.status, 201, r.text);
      assert.deepEqual([r.json.has_logits, r.json.n_tokens, r.json.origin.kind], [false, 0, 'import']);
      const want = floats(golden[key]);
      const { choices: [c], timings } = await d.complete({ state: r.json.ref, prompt: tokens, max_tokens: 0, echo: true, logprobs: 0 });
      assert.deepEqual([timings.cache_n, timings.prompt_n], [0, tokens.length]);
      for (let i = 1; i < tokens.length; i++)
        assert.ok(Math.abs(c.logprobs.token_logprobs[i] - logprob(want, i - 1, tokens[i])) < 1e-4, `${file}: token ${i}`);
      // Nothing was read, so an empty prompt begins with the separator.
      const empty = await d.complete({ state: r.json.ref, max_tokens: 2, temperature: 0 });
      assert.equal(empty.timings.prompt_n, 1);
      // What is exported is taken again, as the same bytes.
      const out = (await d.get(`/v1/states/${r.json.ref}/data`)).body;
      const again = await d.post('/v1/states/import?name=again&if_exists=new_version', out, { 'content-type': 'application/x-anything' });
      assert.deepEqual([again.status, again.json.sha256], [201, r.json.sha256]);
    }
    for (const file of ['state-fp32.safetensors', 'state-webrwkv-f16.st']) {
      const r = await d.post('/v1/states/import?name=unsaid', readFileSync(join(dir, file)));
      assert.deepEqual([r.status, r.json.error.param], [400, 'orientation']);
    }
  } finally {
    await d.stop();
  }
});

test('a state merged into the model: listed, imported when asked, never started from by itself', async () => {
  const golden = readSafetensors(join(dir, 'golden.safetensors'));
  const tokens = [...new Int32Array(floats(golden.tokens).buffer)];
  const plain = join(dir, 'model-fp32.safetensors'), merged = join(scratch(), 'merged.safetensors');
  writeSafetensors(merged, { ...readSafetensors(plain), ...readSafetensors(join(dir, 'state-fp32.safetensors')) });
  const d = await Daemon.start({ model: [`merged=${merged}`, `plain=${plain}`] });
  const from = (query) => d.post(`/v1/states/import?from=model&name=inner${query}`, '');
  const differs = async (state, key) => {
    const want = floats(golden[key]);
    const { choices: [c] } = await d.complete({ state, prompt: tokens, max_tokens: 0, echo: true, logprobs: 0 });
    return Math.max(...tokens.slice(1).map((t, i) => Math.abs(c.logprobs.token_logprobs[i + 1] - logprob(want, i, t))));
  };
  try {
    const { data: [one, two] } = (await d.get('/v1/models')).json;
    assert.deepEqual([one.meta.has_time_state, two.meta.has_time_state], [true, false]);
    assert.equal(one.meta.fingerprint, two.meta.fingerprint);
    assert.ok(await differs(undefined, 'logits.zero_state') < 1e-4);
    const r = await from('');
    assert.equal(r.status, 201, r.text);
    assert.deepEqual(r.json.origin, {
      kind: 'import', format: 'time_state', container: 'safetensors', dtype: 'F32', orientation: 'value_key', from: 'model' });
    assert.ok(await differs('inner', 'logits.fp32') < 1e-4);
    for (const [query, body] of [['&model=plain', ''], ['', 'body']]) {
      const bad = await d.post(`/v1/states/import?from=model&name=x${query}`, body, { 'content-type': 'application/octet-stream' });
      assert.deepEqual([bad.status, bad.json.error.param], [400, 'from']);
    }
  } finally {
    await d.stop();
  }
});
