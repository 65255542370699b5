// HTTP as it should not be: half requests, slow ones, too large ones, wrong ones. The daemon answers what
// can be answered, and is there for the others.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw, parseAnswer } from '../lib/raw.mjs';

let d;
before(async () => { d = await Daemon.start({ model: byteModel() }); });
after(async () => { await d?.stop(); });

const open = () => Raw.open(d.port);

async function healthy() {
  const start = process.hrtime.bigint();
  assert.equal((await d.get('/health')).status, 200);
  return Number(process.hrtime.bigint() - start) / 1e6;
}

// The status of the answer to these bytes.
async function status(bytes) {
  const raw = await open();
  raw.send(bytes);
  const r = await raw.answer();
  raw.destroy();
  return r?.status;
}

const chunked = (parts) => `${parts.map((p) => `${p.length.toString(16)}\r\n${p}\r\n`).join('')}0\r\n\r\n`;
const head = (extra) => `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${extra}\r\n`;

test('a half request whose client has gone gives its connection back', async () => {
  const d2 = await Daemon.start({ model: byteModel(), args: ['--max-connections', '8', '--http-threads', '1'] });
  for (let i = 0; i < 24; i++) {
    const raw = await Raw.open(d2.port);
    raw.send('GET /health HTTP/1.1\r\nHo');
    raw.socket.end();
  }
  assert.equal((await d2.get('/health')).status, 200);
  await d2.stop();
});

test('many slow and half requests do not keep /health waiting', async () => {
  const half = [];
  for (let i = 0; i < 50; i++) {
    half.push((await open()).send('GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: '));
    half.push((await open()).send(`${head('Content-Length: 100\r\n')}{"prompt":`));
    half.push((await open()).send(`${head('Transfer-Encoding: chunked\r\n')}5\r\n{"pr`));
    half.push(await open());
  }
  let worst = 0;
  for (let i = 0; i < 50; i++) {
    half[i * 4].send('x');
    worst = Math.max(worst, await healthy());
  }
  console.log(`/health beside 200 half requests: at most ${worst.toFixed(1)} ms`);
  assert.equal((await d.complete({ prompt: 'a', max_tokens: 3 })).usage.completion_tokens, 3);
  // A half request that is completed is answered.
  half[0].send('\r\n\r\n');
  assert.equal((await half[0].answer()).status, 200);
  half[1].send('"a","max_tokens":1}'.padEnd(90));
  assert.equal((await half[1].answer()).status, 200);
  for (const r of half) r.destroy();
});

test('500 idle connections do not keep /health waiting', async () => {
  const idle = await Promise.all(Array.from({ length: 500 }, open));
  const ms = await healthy();
  console.log(`/health beside 500 idle connections: ${ms.toFixed(1)} ms`);
  for (const r of idle) r.destroy();
});

test('a body in chunks is a body', async () => {
  const json = '{"prompt":"a","max_tokens":1}';
  const raw = await open();
  raw.send(head('Transfer-Encoding: chunked\r\n') + chunked([...json]));
  assert.equal((await raw.answer()).status, 200);
  raw.send(head('Transfer-Encoding: chunked\r\n') + chunked([json.slice(0, 7), json.slice(7)]));
  assert.equal((await raw.answer()).status, 200);
  raw.destroy();
});

test('a body that is too large: 413, declared or in chunks; the connection lives on after a small excess', async () => {
  const raw = await open();
  const large = 'x'.repeat((16 << 20) + 1);
  raw.send(head(`Content-Length: ${large.length}\r\n`) + large);
  assert.equal((await raw.answer()).status, 413);
  raw.send(head('Transfer-Encoding: chunked\r\n') + chunked([large.slice(0, 1 << 22), large.slice(1 << 22)]));
  assert.equal((await raw.answer()).status, 413);
  raw.send('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  assert.equal((await raw.answer()).status, 200);
  raw.destroy();
  // What is far too large is refused unread.
  assert.equal(await status(head('Content-Length: 99999999999\r\n')), 413);
  assert.equal(await status(head('Content-Length: 17000000\r\nExpect: 100-continue\r\n')), 413);
});

test('a chunked body far beyond its limit is cut, not read to its end', async () => {
  const raw = await open(), chunk = `100000\r\n${'x'.repeat(1 << 20)}\r\n`;
  raw.socket.removeAllListeners('error').on('error', () => {}); // it may be reset
  raw.send(head('Transfer-Encoding: chunked\r\n'));
  let sent = 0;
  // As much as the other side takes, never more in our memory.
  while (!raw.closed && !raw.ended && sent < 256) {
    const more = raw.socket.write(chunk);
    sent++;
    if (!more) await new Promise((ok) => { for (const e of ['drain', 'close', 'end']) raw.socket.once(e, ok); });
  }
  // 16 MiB that may be, 32 more that are dropped, and what the sockets hold.
  assert.ok(sent < 64, `${sent} MiB were taken`);
  raw.destroy();
  await healthy();
});

test('Expect: 100-continue is answered before the body comes', async () => {
  const raw = await open();
  const json = '{"prompt":"a","max_tokens":1}';
  raw.send(head(`Content-Length: ${json.length}\r\nExpect: 100-continue\r\n`));
  assert.equal((await raw.answer()).status, 100);
  raw.send(json);
  assert.equal((await raw.answer()).status, 200);
  raw.destroy();
});

test('lengths that are missing, doubled, contradictory or no numbers', async () => {
  assert.equal(await status(head('')), 411);
  assert.equal(await status(`${head('Content-Length: 2\r\nContent-Length: 3\r\n')}{}`), 400);
  assert.equal(await status(head('Content-Length: 2\r\nTransfer-Encoding: chunked\r\n') + chunked(['{}'])), 400);
  assert.equal(await status(head('Transfer-Encoding: gzip, chunked\r\n')), 400);
  for (const n of ['-1', 'x', '1x', '0x10', '99999999999999999999999', ''])
    assert.ok([400, 411, 413].includes(await status(`${head(`Content-Length: ${n}\r\n`)}{}`)), n);
});

test('request lines and headers that are wrong or too long', async () => {
  for (const bytes of ['\r\n\r\n', 'GET\r\n\r\n', 'GET / HTTP/1.1\r\n\r\n', 'GET / FTP/9.9\r\nHost: x\r\n\r\n',
    `GET /${'a'.repeat(100000)} HTTP/1.1\r\nHost: x\r\n\r\n`,
    `GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(100000)}\r\n\r\n`,
    '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', `${'A'.repeat(70000)}`]) {
    const raw = await open();
    raw.send(bytes);
    raw.socket.end();
    const text = await raw.end();
    assert.ok(text === '' || /^HTTP\/1\.[01] (4\d\d|505)/.test(text), `${bytes.slice(0, 30)}: ${text.slice(0, 60)}`);
  }
  for (const [bytes, want] of [['GET /health HTTP/1.1\r\n\r\n', 400], ['GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n', 400],
    ['GET /health HTTP/1.0\r\n\r\n', 200], ['GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n', 200], ['GET http://x HTTP/1.1\r\nHost: x\r\n\r\n', 404],
    ['GET /health HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nGET /', 400], ['GET /health HTTP/1.1\r\nHost : x\r\n\r\n', 400]])
    assert.equal(await status(bytes), want, bytes);
  await healthy();
});

test('paths are decoded once, strictly', async () => {
  const get = (path) => status(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
  assert.equal(await get('/v1/states/%61%62'), 404);
  assert.equal(await get('/v1/states/a%2fb'), 400);
  assert.equal(await get('/v1/states/a%252fb'), 400);
  assert.equal(await get('/v1/states/%'), 400);
  assert.equal(await get('/v1/states/%0'), 400);
  assert.equal(await get('/v1/states/%00'), 400);
  assert.equal(await get('/v1/states/..'), 404);
  assert.equal(await get('/v1/../health'), 404);
  assert.equal(await get('/%68ealth'), 404);
  assert.equal(await get(`/v1/states/${'a'.repeat(5000)}`), 400);
});

test('requests in a row on one connection are answered in order', async () => {
  const raw = await open();
  const json = (i) => JSON.stringify({ prompt: 'a', max_tokens: i, temperature: 0, stream: i % 2 === 0 });
  let all = '';
  for (let i = 1; i <= 6; i++) all += `${head(`X-Request-Id: n${i}\r\nContent-Length: ${json(i).length}\r\n`)}${json(i)}GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: h${i}\r\n\r\n`;
  raw.send(all);
  for (let i = 1; i <= 6; i++) {
    const r = await raw.answer();
    assert.equal(r.headers['x-request-id'], `n${i}`);
    assert.equal(r.status, 200);
    assert.equal(r.headers['content-type'], i % 2 ? 'application/json' : 'text/event-stream');
    assert.equal((await raw.answer()).headers['x-request-id'], `h${i}`);
  }
  raw.destroy();
});

test('Connection: close is obeyed', async () => {
  const raw = await open();
  raw.send('GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  const text = await raw.end();
  assert.match(text, /\r\nConnection: close\r\n/i);
  assert.equal(parseAnswer(Buffer.from(text, 'latin1')).status, 200);
});

test('a refused body does not spoil the next request', async () => {
  const raw = await open();
  for (const [path, type, want] of [['/nothing', 'application/json', 404], ['/v1/completions', 'text/plain', 415], ['/health', 'application/json', 405]]) {
    const body = '{"prompt":"GET / HTTP/1.1"}';
    raw.send(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    assert.equal((await raw.answer()).status, want);
  }
  raw.send('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  assert.equal((await raw.answer()).status, 200);
  raw.destroy();
});
