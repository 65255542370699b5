// GET /props and /slots, as llama-server's clients read them.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, randModel } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

let Template;
try {
  ({ Template } = await import('@huggingface/jinja'));
} catch (e) {
  console.log(`skip: no Jinja (${e.code}): npm ci in tests/`);
}

let d;
before(async () => {
  d = await Daemon.start({
    model: [`bytes=${byteModel()}`, `ids=${randModel}`],
    args: ['--max-sequences', '2', '--max-queue', '3', '--state-cache', '5M', '--chat-template', 'ids:user=Bob \\"x\\",colon= >'],
  });
});
after(async () => { await d?.stop(); });

const slots = async (query = '') => (await d.get(`/slots${query}`)).json;

test('props: of the default model and of another, no path of the machine', async () => {
  const { json, text } = await d.get('/props');
  assert.equal(json.total_slots, 2);
  assert.equal(json.model_path, 'bytes');
  assert.equal(json.dreamstate.model.n_vocab, 256);
  assert.deepEqual(json.dreamstate.models, ['bytes', 'ids']);
  assert.equal(json.dreamstate.limits.max_queue, 3);
  assert.equal(json.dreamstate.limits.state_cache_bytes, 5 << 20);
  assert.match(json.dreamstate.store.backend, /^sqlite 3\./);
  assert.ok(json.build_info.includes(json.dreamstate.version));
  assert.doesNotMatch(text, /safetensors|\/(tmp|home|build)\//);
  const other = (await d.get('/props?model=ids')).json;
  assert.equal(other.model_alias, 'ids');
  assert.equal(other.dreamstate.model.n_vocab, 1000);
  assert.equal((await d.get('/props?model=none')).status, 404);
});

test('chat_template gives what /apply-template gives', { skip: !Template && 'Jinja is not installed' }, async () => {
  const chats = [
    [{ role: 'user', content: 'Hello' }],
    [{ role: 'system', content: 'Be "brief".\r\n\r\nBe kind. ' }, { role: 'user', content: '\n a\n \n\n b \nc' }, { role: 'assistant', content: 'Well' }],
    [{ role: 'developer', content: 'x' }, { role: 'tool', content: '{"a": 1}' }, { role: 'user', content: [{ type: 'text', text: 'one ' }, { type: 'text', text: 'two' }] }],
    [{ role: 'user', content: 'a' }, { role: 'assistant', content: null }],
  ];
  for (const model of ['bytes', 'ids']) {
    const template = new Template((await d.get(`/props?model=${model}`)).json.chat_template);
    for (const messages of chats)
      for (const add_generation_prompt of [true, false]) {
        const r = await d.post('/apply-template', { model, messages, add_generation_prompt });
        assert.equal(r.status, 200, r.text);
        assert.equal(template.render({ messages, add_generation_prompt }), r.json.prompt);
      }
  }
});

test('slots: who has them, and when none is free', async () => {
  assert.deepEqual((await slots()).map((s) => [s.id, s.model, s.is_processing, s.id_task]),
    [[0, 'bytes', false, -1], [1, 'bytes', false, -1], [2, 'ids', false, -1], [3, 'ids', false, -1]]);
  const long = { prompt: [1, 2, 3], max_tokens: 1000000, stream: true, temperature: 0.5, seed: 77 };
  const gone = [];
  for (const model of ['bytes', 'bytes', 'ids', 'ids']) gone.push(d.post('/v1/completions', { ...long, model }).catch((e) => e));
  await d.until('dreamstate_sequences_active', (v) => v === 4);
  let now = await slots();
  while (now.some((s) => s.phase !== 'generating')) now = await slots();
  for (const s of now) {
    assert.equal(s.kind, 'completion');
    assert.equal(s.is_processing, true);
    assert.equal(s.prompt_n, 3);
    assert.equal(s.params.seed, 77);
    assert.equal(s.params.temperature, 0.5);
    assert.equal(s.next_token.n_decoded + s.next_token.n_remain, 1000000);
    assert.ok(s.next_token.n_decoded > 0);
  }
  const full = await d.get('/slots?fail_on_no_slot=1');
  assert.equal(full.status, 503);
  assert.equal(full.json.error.type, 'unavailable_error');
  assert.equal((await d.get('/slots?fail_on_no_slot=0')).status, 200);
  d.agent.destroy();
  for (const g of gone) assert.ok(await g instanceof Error);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  assert.ok((await slots('?fail_on_no_slot=1')).every((s) => !s.is_processing));
});
