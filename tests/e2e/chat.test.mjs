// Chat: what the model reads, what the client sees, frame by frame.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { frames } from '../lib/raw.mjs';

let d;
before(async () => { d = await Daemon.start({ model: byteModel('tiny.safetensors') }); });
after(async () => { await d?.stop(); });

const user = (content) => ({ role: 'user', content });
const say = (role, content) => ({ role, content });

async function chat(body) {
  const r = await d.post('/v1/chat/completions', body);
  assert.equal(r.status, 200, r.text);
  return r.json ?? frames(r.text);
}

async function prompt(messages, more = {}, on = d) {
  const r = await on.post('/apply-template', { messages, ...more });
  assert.equal(r.status, 200, r.text);
  return r.json.prompt;
}

test('the template: roles, one empty line between turns, none inside, nothing behind the last colon', async () => {
  assert.equal(await prompt([user('hi')]), 'User: hi\n\nAssistant:');
  assert.equal(await prompt([user('hi')], { add_generation_prompt: false }), 'User: hi');
  assert.equal(
    await prompt([say('system', 'Be brief.'), user(' a\n\n\n b \r\n\r\nc\n'), say('assistant', '\n ok '), say('tool', '42'), user('d')]),
    'System: Be brief.\n\nUser: a\n b \nc\n\nAssistant: ok\n\nTool: 42\n\nUser: d\n\nAssistant:');
  assert.equal(await prompt([say('developer', 'x'), user([{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }])]),
    'System: x\n\nUser: ab\n\nAssistant:');
  assert.equal(await prompt([user('Count.'), say('assistant', 'One, two,')]), 'User: Count.\n\nAssistant: One, two,');
  assert.equal(await prompt([user(''), say('assistant', null), user('x')]), 'User:\n\nAssistant:\n\nUser: x\n\nAssistant:');
  assert.equal(await prompt([user('é\u0000日')]), 'User: é\u0000日\n\nAssistant:');
});

test('a chat is the completion of its text', async () => {
  const messages = [say('system', 'x'), user('hello')];
  const more = { max_tokens: 40, seed: 5, temperature: 0.7 };
  const text = await d.complete({ prompt: await prompt(messages), ...more });
  const talk = await chat({ messages, ...more });
  assert.equal(talk.choices[0].message.content, text.choices[0].text.trimStart());
  assert.deepEqual(talk.usage.completion_tokens, text.usage.completion_tokens);
  assert.equal(talk.usage.prompt_tokens, text.usage.prompt_tokens);
  assert.deepEqual([talk.object, talk.choices[0].message.role, talk.choices[0].logprobs], ['chat.completion', 'assistant', null]);
});

test('a stream: role first, finish_reason null until the end, an empty last delta, usage, [DONE]', async () => {
  const body = { messages: [user('hello')], no_cache: true, n: 2, seed: 9, max_tokens: 12, logprobs: true, top_logprobs: 2, return_tokens: true };
  const whole = await chat(body);
  const all = await chat({ ...body, stream: true, stream_options: { include_usage: true } });
  assert.equal(all.pop(), '[DONE]');
  const last = all.pop();
  assert.deepEqual(last.choices, []);
  assert.deepEqual(last.usage, whole.usage);
  for (const key of ['id', 'created', 'model', 'system_fingerprint', 'object'])
    assert.equal(new Set([last, ...all].map((f) => f[key])).size, 1, key);
  assert.match(last.id, /^chatcmpl-/);
  for (const i of [0, 1]) {
    const own = all.filter((f) => f.choices[0].index === i);
    assert.deepEqual(own[0].choices[0].delta, { role: 'assistant', content: '' });
    const end = own.at(-1).choices[0];
    assert.deepEqual([end.delta, end.finish_reason], [{}, 'length']);
    for (const f of own.slice(0, -1)) assert.strictEqual(f.choices[0].finish_reason, null);
    for (const f of own) assert.strictEqual(f.usage, null);
    const text = own.map((f) => f.choices[0].delta.content ?? '').join('');
    const logprobs = own.flatMap((f) => f.choices[0].logprobs?.content ?? []);
    assert.equal(text, whole.choices[i].message.content);
    assert.deepEqual(logprobs, whole.choices[i].logprobs.content);
    assert.equal(logprobs.length, 12);
    for (const l of logprobs) {
      assert.equal(l.top_logprobs.length, 2);
      assert.ok(l.logprob <= l.top_logprobs[0].logprob);
    }
    assert.deepEqual(own.flatMap((f) => f.choices[0].tokens), whole.choices[i].tokens);
    assert.deepEqual(logprobs.map((l) => l.bytes[0]), whole.choices[i].tokens);
  }
});

test('without include_usage no chunk has usage and none is without a choice', async () => {
  const all = await chat({ messages: [user('a')], max_tokens: 3, stream: true });
  assert.equal(all.pop(), '[DONE]');
  for (const f of all) assert.deepEqual([f.choices.length, 'usage' in f], [1, false]);
});

test('max_completion_tokens goes before max_tokens; none at all is an end of its own', async () => {
  const r = await chat({ messages: [user('a')], max_tokens: 9, max_completion_tokens: 4, seed: 1 });
  assert.deepEqual([r.usage.completion_tokens, r.choices[0].finish_reason], [4, 'length']);
  const none = await chat({ messages: [user('a')], max_completion_tokens: 0 });
  assert.deepEqual([none.choices[0].message.content, none.choices[0].finish_reason], ['', 'length']);
});

test('the answer ends where another turn would begin', async () => {
  const own = await Daemon.start({ model: byteModel(), args: ['--chat-template', 'user=Q,assistant=A,colon=>,separator=\\n'] });
  try {
    assert.equal(await prompt([user('hi'), say('assistant', 'b'), say('system', 'c')], {}, own), 'Q> hi\nA> b\nSystem> c\nA>');
    // Only the newline, Q and > can be said: the text is soon "\nQ>".
    const only = Object.fromEntries(['\n', 'Q', '>'].map((c) => [c.charCodeAt(0), 100]));
    const r = await own.post('/v1/chat/completions', { messages: [user('a')], logit_bias: only, seed: 3, max_tokens: 2000, temperature: 1.5 });
    const [choice] = r.json.choices;
    assert.equal(choice.finish_reason, 'stop', r.text.slice(0, 300));
    assert.ok(!choice.message.content.includes('\nQ>'));
    assert.match(choice.message.content, /^[\nQ>]*$/);
  } finally {
    await own.stop();
  }
});

test('behind a state only the new messages are read, and a state goes on exactly as its text', async () => {
  await d.post('/v1/states', { name: 'talked', text: 'User: hi\n\nAssistant: hello' });
  const more = { max_tokens: 20, seed: 2 };
  const behind = await chat({ messages: [user('and now')], state: 'talked', ...more });
  const fresh = await chat({ messages: [user('hi'), say('assistant', 'hello'), user('and now')], no_cache: true, ...more });
  assert.equal(behind.choices[0].message.content, fresh.choices[0].message.content);
  assert.deepEqual([behind.timings.cache_n, behind.timings.prompt_n], [26, '\n\nUser: and now\n\nAssistant:'.length]);
  assert.equal(behind.usage.prompt_tokens_details.cached_tokens, 26);
  assert.equal(behind.usage.prompt_tokens, fresh.usage.prompt_tokens);
  assert.equal((await d.get('/v1/states/talked')).json.version, 1);
});

test('a state of messages goes on as the chat that it is', async () => {
  const told = [say('system', 'Be brief.'), user('hi'), say('assistant', 'hello')];
  const more = { max_tokens: 20, seed: 2, no_cache: true };
  const base = await d.post('/v1/states', { name: 'brief', messages: told });
  assert.equal(base.json.n_tokens, (await prompt(told, { add_generation_prompt: false })).length);
  const fresh = await chat({ messages: [...told, user('now')], ...more });
  const behind = await chat({ messages: [user('now')], state: 'brief', ...more });
  assert.equal(behind.choices[0].message.content, fresh.choices[0].message.content);
  assert.equal(behind.timings.cache_n, base.json.n_tokens);
  const on = await d.post('/v1/states/brief/append', { messages: [user('now')] });
  assert.equal(on.json.n_tokens, (await prompt([...told, user('now')], { add_generation_prompt: false })).length);
});

test('a template that cannot be read stops the start', async () => {
  for (const spec of ['user', 'user=', 'king=x', 'user=x,,', 'tiny:', `user=${'x'.repeat(70)}`])
    await assert.rejects(Daemon.start({ model: byteModel(), args: ['--chat-template', spec] }), /--chat-template/, spec);
  const two = await Daemon.start({ model: [`one=${byteModel()}`, `two=${byteModel()}`], args: ['--chat-template', 'one:user=X;user=Y\\,;two:user=Z'] });
  try {
    for (const [model, name] of [['one', 'Y,'], ['two', 'Z']])
      assert.equal(await prompt([user('a')], { model }, two), `${name}: a\n\nAssistant:`);
  } finally {
    await two.stop();
  }
});
