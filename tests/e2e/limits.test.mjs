// Limits of time, size and rate; request ids; what stands in the log.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const model = byteModel();
const secret = 'a-word-of-the-prompt';
const long = { prompt: 'a', max_tokens: 1000000, stream: true };
const head = (extra) => `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${extra}\r\n`;
let d;
before(async () => {
  d = await Daemon.start({ model, args: ['--body-seconds', '1', '--idle-seconds', '2', '--max-headers', '16K', '--request-seconds', '1'] });
});
after(async () => { await d?.stop(); });

const lines = (x, event) => x.log.split('\n').filter(Boolean).map((l) => JSON.parse(l)).filter((l) => l.event === event);
// The line of a request, once it is there.
async function line(x, id) {
  for (;;) {
    const l = lines(x, 'request').find((r) => r.id === id);
    if (l) return l;
    await new Promise((ok) => x.child.stderr.once('data', ok));
  }
}

test('a body that does not come whole in time gets 408, however often a byte comes', async () => {
  for (const extra of ['Content-Length: 1000\r\n', 'Transfer-Encoding: chunked\r\n']) {
    const raw = await Raw.open(d.port);
    raw.send(head(`X-Request-Id: slow\r\n${extra}`));
    const drip = setInterval(() => raw.socket.writable && raw.send(extra.startsWith('C') ? ' ' : '1\r\n \r\n'), 100);
    raw.socket.on('error', () => {});
    const r = await raw.answer();
    clearInterval(drip);
    raw.destroy();
    assert.equal(r.status, 408);
    const { error } = JSON.parse(r.body.toString());
    assert.deepEqual([error.code, error.request_id, r.headers['x-request-id'], r.headers.connection],
      ['request_timeout', 'slow', 'slow', 'close']);
  }
});

test('headers that do not come whole in time end the connection, however often a byte comes', async () => {
  const raw = await Raw.open(d.port);
  raw.socket.on('error', () => {});
  raw.send('GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ');
  const drip = setInterval(() => raw.socket.writable && raw.send('x'), 100);
  assert.equal(await raw.end(), '');
  clearInterval(drip);
});

test('headers larger than --max-headers are refused', async () => {
  const raw = await Raw.open(d.port);
  raw.socket.on('error', () => {});
  raw.send(`GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(20000)}\r\n\r\n`);
  assert.match(await raw.end(), /^HTTP\/1\.1 431 |^$/);
  assert.equal((await d.get('/health', { 'x-long': 'a'.repeat(4000) })).status, 200);
});

test('a request that works longer than --request-seconds ends with 408, a stream with the error in it', async () => {
  const whole = await d.post('/v1/completions', { ...long, stream: false });
  assert.equal(whole.status, 408);
  assert.equal(whole.json.error.code, 'request_timeout');
  const all = frames((await d.post('/v1/completions', long, { 'x-request-id': 'streamed' })).text);
  assert.deepEqual([all.at(-1).error.code, all.at(-1).error.request_id], ['request_timeout', 'streamed']);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
});

test('errors carry the id of their request', async () => {
  const given = await d.get('/v1/states/nobody', { 'x-request-id': 'my.id-1' });
  assert.deepEqual([given.status, given.json.error.request_id], [404, 'my.id-1']);
  const made = await d.get('/nothing');
  assert.equal(made.json.error.request_id, made.headers['x-request-id']);
});

test('each request has one line in the log, without what it said', async () => {
  const r = await d.post('/v1/completions', { prompt: secret, max_tokens: 3 }, { 'x-request-id': 'logged' });
  const l = await line(d, 'logged');
  assert.deepEqual([l.level, l.client, l.key, l.method, l.route, l.status, l.tokens_read, l.tokens_made, l.error],
    ['info', '127.0.0.1', '', 'POST', '/v1/completions', 200, secret.length, 3, null]);
  assert.equal(l.sent_bytes, Buffer.byteLength(r.text));
  assert.ok(l.ms > 0 && l.body_bytes > secret.length);
  const s = await d.post('/v1/completions', { prompt: secret, max_tokens: 3, stream: true }, { 'x-request-id': 'logged-stream' });
  assert.equal((await line(d, 'logged-stream')).sent_bytes, Buffer.byteLength(s.text));
  await d.get('/v1/states/nobody', { 'x-request-id': 'logged-error' });
  const e = await line(d, 'logged-error');
  assert.deepEqual([e.status, e.error, e.route], [404, 'state_not_found', '/v1/states/{ref}']);
  const raw = await Raw.open(d.port);
  raw.post('/v1/completions', JSON.stringify(long), 'X-Request-Id: left\r\n');
  await raw.until((b) => b.includes('data:'));
  raw.destroy();
  assert.equal((await line(d, 'left')).status, 499);
  assert.equal(lines(d, 'request').filter((x) => x.id === 'logged').length, 1);
  assert.ok(!d.log.includes(secret));
});

test('--log-bodies shows what was sent, and warns of it', async () => {
  const m = await Daemon.start({ model, args: ['--log-bodies', 'yes'] });
  await m.post('/v1/completions', { prompt: secret, max_tokens: 1 });
  await m.logged(secret);
  await m.stop();
  assert.equal(lines(m, 'bodies_logged')[0].level, 'warn');
});

test('requests a minute: 429 with Retry-After, for each key its own, health and preflights free', async () => {
  const file = join(scratch(), 'keys');
  writeFileSync(file, 'a read first-key-0123456789\nb read other-key-0123456789 requests=5\nc admin third-key-0123456789 requests=0\n');
  chmodSync(file, 0o600);
  const m = await Daemon.start({ model, args: ['--api-keys', file, '--rate-requests', '3', '--cors-origins', '*'] });
  try {
    const get = (k) => m.get('/v1/models', { authorization: `Bearer ${k}-key-0123456789` });
    for (const [k, n] of [['first', 3], ['other', 5]]) {
      for (let i = 0; i < n; i++) assert.equal((await get(k)).status, 200, `${k} ${i}`);
      const r = await get(k);
      assert.deepEqual([r.status, r.json.error.type, r.json.error.code], [429, 'rate_limit_error', 'rate_limit_exceeded']);
      const wait = Number(r.headers['retry-after']);
      assert.ok(wait >= 1 && wait <= 60 / n, `Retry-After ${wait}`);
    }
    for (let i = 0; i < 20; i++) assert.equal((await get('third')).status, 200);
    // Refusals without a key use up nobody's requests, and health is free.
    for (let i = 0; i < 10; i++) {
      assert.equal((await m.get('/v1/models')).status, 401);
      assert.equal((await m.get('/health')).status, 200);
      assert.equal((await m.fetch('OPTIONS', '/v1/models')).status, 204);
    }
  } finally {
    await m.stop();
  }
});

test('tokens a minute, counted when they are made, also of those who leave; without keys by address', async () => {
  const m = await Daemon.start({ model, args: ['--rate-tokens', '50'] });
  try {
    const ask = (max_tokens, prompt = 'a') => m.post('/v1/completions', { prompt, max_tokens });
    assert.equal((await ask(9)).status, 200);
    assert.equal((await ask(9)).status, 200);
    const raw = await Raw.open(m.port);
    raw.post('/v1/completions', JSON.stringify(long), 'X-Request-Id: left\r\n');
    await raw.until((b) => b.toString().split('data:').length > 60);
    raw.destroy();
    const l = await line(m, 'left');
    assert.ok(l.tokens_made >= 50, `${l.tokens_made}`);
    const r = await ask(1);
    assert.equal(r.status, 429);
    assert.match(r.json.error.message, /tokens/);
    assert.ok(Number(r.headers['retry-after']) >= 1);
  } finally {
    await m.stop();
  }
});
