// A long mixed load with hostile clients in it: completions whole and streamed, chats that go on, states baked,
// continued, imported and deleted, clients that leave, bursts beyond the queue; bodies cut off, slow, far too large,
// deep, doubled, not UTF-8; names and paths that are none; files that lie about their size; requests that contradict
// themselves, come many at once, or are half closed.
//
// All along /health answers. Nothing gets a 5xx; what is refused for room gets 429 and is told when to come again.
// At the end the counters say what was sent, nothing is left active, no descriptor is left open, and memory is flat:
// the requests come in ten parts, after each of which all is quiet, and what is resident then has no slope over the
// last seven, by least squares (in a short run over those after 600 requests). All that may grow (states in memory,
// parked sessions, rows of the counters) is bounded and full by then, so the slope's bound is what one kept allocation
// of 256 bytes a request would be; a run too short to tell that from the noise of the allocator is given 8 MB in all.
// One arena, and large blocks that go back to the system when they are freed: what is resident is what is kept.
//
// SOAK_REQUESTS (default 20000).
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { setTimeout } from 'node:timers/promises';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { random } from '../lib/random.mjs';
import { Raw, frames } from '../lib/raw.mjs';

const requests = Number(process.env.SOAK_REQUESTS ?? 20000);
const N_CLIENTS = 16, PARTS = 10;
const FULL = Math.max(3, Math.ceil(600 * PARTS / requests)); // parts until all that may grow is full
const SLOW = 40; // connections that are never done sending

const text = 'The quick brown fox jumps over the lazy dog. ';
const completions = '/v1/completions', chat = '/v1/chat/completions', states = '/v1/states';
const resident = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]) * 1024;
const large = Buffer.alloc(64 << 20, 0x20);

// JSON that is refused with 400, on any path that takes some.
const wrongJson = [
  '{', '', '[]', '{"prompt":"a","prompt":"b"}', `{"a":${'['.repeat(100000)}`, `{"a":${'{"a":'.repeat(3000)}1${'}'.repeat(3000)}}`,
  '{"prompt":"\\ud800"}', '{"prompt":"\\udc00\\ud800"}', '{"prompt":"\0"}', Buffer.from('{"prompt":"\xff\xfe"}', 'latin1'),
  '{"prompt":1e999}', '{"prompt":"a"}x', `{"${'k'.repeat(1 << 20)}":`,
];
const wrongAsks = [
  { prompt: [4294967297] }, { prompt: [2 ** 53] }, { prompt: 'a', n: -1 }, { prompt: 'a', n: 65 }, { prompt: 'a', max_tokens: -1 },
  { prompt: Array.from({ length: 100000 }, () => 'a') }, { prompt: 'a', stop: Array(17).fill('x') }, { prompt: 'a', temperature: 'hot' },
  { prompt: 'a', logit_bias: { x: 1 } }, { prompt: 'a', json_schema: { type: 'nothing' } }, { prompt: 'a', state: '../../etc/passwd' },
  { prompt: 'a', save_state: 'a\u0000b' }, { prompt: 'a', state: { data: '!' } }, {},
].map((b) => JSON.stringify(b));
const wrongNames = ['', '.', '..', '../x', 'a/b', 'a b', 'a@1', 'é', 'x'.repeat(129), 'x'.repeat(100000), 'a\nb', 'edits'].filter((n) => !/^\.\.?$/.test(n));
const wrongPaths = ['/v1/states/..%2f..%2fetc%2fpasswd', '/v1/states/%00', '/v1/states/a%20b', '/v1/states/%ff', `/v1/states/${'a'.repeat(4000)}`, '/v1/states/x@0', '/v1/states/x@99999999999999999999999'];

function file(length, header, data = 64) {
  const n = Buffer.alloc(8);
  n.writeBigUInt64LE(length ?? BigInt(header.length));
  return Buffer.concat([n, Buffer.from(header), Buffer.alloc(data)]);
}
const wrongFiles = [
  file(1n << 60n, '{}'), file(0xffffffffffffffffn, '{}'), file(100000000n, '{}'), file(null, '{}'), file(null, '['), Buffer.alloc(7), file(null, `{"a":${'['.repeat(90000)}`),
  file(null, '{"blocks.0.att.wkv":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,64]}}'),
  file(null, '{"blocks.0.att.wkv":{"dtype":"F32","shape":[16],"data_offsets":[0,18446744073709551615]}}'),
  file(null, '{"x":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}'), Buffer.alloc(1 << 20, 0xff),
];

class Soak {
  constructor(d) {
    Object.assign(this, { d, sent: new Map(), busy: 0, slow: [], did: {} });
  }

  count(route, status) {
    const key = `${route} ${status}`;
    this.sent.set(key, (this.sent.get(key) ?? 0) + 1);
  }

  // One exchange. Beside what is allowed only "busy" may come, with the time to wait; then null.
  async ask(method, path, body, allowed, { route = path, headers } = {}) {
    const r = await this.d.fetch(method, path, body, headers);
    this.count(route, r.status);
    if (r.status === 429) {
      assert.ok(Number(r.headers['retry-after']) >= 1, 'Retry-After');
      this.busy++;
      return null;
    }
    assert.ok([allowed].flat().includes(r.status), `${method} ${path.slice(0, 80)} ${String(body).slice(0, 80)}: ${r.status} ${r.text.slice(0, 300)}`);
    if (r.status >= 400) assert.ok(r.json.error.message, path);
    return r;
  }

  // Bytes as they are on a connection of their own; the status of the first answer.
  async raw(bytes, { half = false } = {}) {
    const raw = await Raw.open(this.d.port);
    raw.socket.on('error', () => {});
    raw.send(bytes);
    if (half) raw.socket.end();
    const r = await raw.answer().catch(() => null);
    raw.destroy();
    return r?.status;
  }
}

const head = (path, extra) => `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${extra}\r\n`;
const ask = { state: 'base', prompt: 'Then', max_tokens: 12, seed: 5 };

// Ordinary clients: how often of a hundred, and what they do.
const friendly = {
  complete: [14, async (s) => { const r = await s.ask('POST', completions, ask, 200); if (r) assert.equal(r.json.choices[0].text, s.want); }],
  streamed: [8, async (s, r) => {
    const raw = await Raw.open(s.d.port);
    raw.post(completions, JSON.stringify({ prompt: text.repeat(r(4)), max_tokens: 1 + r(12), seed: r(1000), stream: true }));
    const a = await raw.answer();
    raw.destroy();
    s.count(completions, a.status);
    if (a.status !== 429) assert.equal(frames(a.body.toString('utf8')).at(-1), '[DONE]');
  }],
  state: [6, async (s, r, me) => {
    const made = await s.ask('POST', states, { name: `soak-${me}`, text: text.slice(r(40)), if_exists: 'new_version' }, 201);
    if (!made) return;
    const c = await s.ask('POST', completions, { state: made.json.ref, prompt: 'x', max_tokens: 2 }, 200);
    if (c) assert.deepEqual([c.json.timings.cache_n, c.json.timings.prompt_n], [made.json.n_tokens, 1]);
    await s.ask('POST', `${states}/${made.json.ref}/fork`, { name: `fork-${me}` }, 201, { route: '/v1/states/{ref}/fork' });
    for (const name of [made.json.ref, `fork-${me}`]) await s.ask('DELETE', `${states}/${name}`, undefined, 200, { route: '/v1/states/{ref}' });
  }],
  imported: [3, async (s, r, me) => {
    const data = await s.ask('GET', `${states}/base/data`, undefined, 200, { route: '/v1/states/{ref}/data' });
    const done = data && await s.ask('POST', `${states}/import?name=import-${me}`, data.body, 201, { route: `${states}/import` });
    if (!done) return;
    assert.equal(done.json.sha256, s.sha256);
    await s.ask('DELETE', `${states}/import-${me}`, undefined, 200, { route: '/v1/states/{ref}' });
  }],
  chat: [6, async (s, r) => { await s.ask('POST', chat, { messages: [{ role: 'user', content: text.slice(r(40)) }], user: `u${r(50)}`, max_tokens: 4 }, 200); }],
  embedding: [3, async (s, r) => { await s.ask('POST', '/v1/embeddings', { input: text.slice(r(40)) }, 200); }],
  tokens: [4, async (s, r) => { await s.ask('POST', '/tokenize', { content: text.repeat(r(20)) }, 200); }],
  list: [4, async (s) => { await s.ask('GET', states, undefined, 200); }],
  burst: [1, async (s, r) => {
    await Promise.all(Array.from({ length: 48 }, () => s.ask('POST', completions, { prompt: text, max_tokens: 8, seed: r(9) }, 200)));
  }],
};

const hostile = {
  leave: [8, async (s, r) => {
    const raw = await Raw.open(s.d.port);
    const stream = r(2) === 0;
    raw.post(chat, JSON.stringify({ messages: [{ role: 'user', content: 'y'.repeat(1 + r(4000)) }], max_tokens: 100000, stream, n: 1 + r(3) }));
    if (stream && r(2)) await raw.until((b) => b.length > 0);
    raw.destroy();
  }],
  json: [9, async (s, r) => { await s.ask('POST', [completions, states, '/tokenize', '/v1/embeddings'][r(4)], wrongJson[r(wrongJson.length)], 400); }],
  fields: [9, async (s, r) => { await s.ask('POST', completions, wrongAsks[r(wrongAsks.length)], 400); }],
  names: [4, async (s, r) => { await s.ask('POST', states, { name: wrongNames[r(wrongNames.length)], text: 'a' }, 400); }],
  paths: [4, async (s, r) => {
    await s.ask('GET', wrongPaths[r(wrongPaths.length)], undefined, 400, { route: '/v1/states/{ref}' });
    assert.equal(await s.raw('GET /v1/states/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n'), 404);
  }],
  files: [4, async (s, r, me) => {
    await s.ask('POST', `${states}/import?name=bad-${me}`, wrongFiles[r(wrongFiles.length)], 422, { route: `${states}/import`, headers: { 'content-type': 'application/octet-stream' } });
  }],
  cut: [3, async (s, r) => { // a body that ends before its length; what becomes of it is not counted below
    await s.raw(`${head('/apply-template', `Content-Length: ${100 + r(100000)}\r\n`)}{"messages":`, { half: true });
  }],
  slow: [3, async (s, r) => {
    const i = r(SLOW);
    s.slow[i]?.destroy();
    s.slow[i] = await Raw.open(s.d.port);
    s.slow[i].socket.on('error', () => {});
    s.slow[i].send([`GET /health HTTP/1.1\r\nX-Slow: `, `${head('/apply-template', 'Content-Length: 1000\r\n')}{`, `${head('/apply-template', 'Transfer-Encoding: chunked\r\n')}4\r\n{`, ''][r(4)]);
    for (const one of s.slow) if (one && !one.closed) one.send('x');
  }],
  large: [0.3, async (s, r) => {
    const raw = await Raw.open(s.d.port);
    raw.socket.on('error', () => {});
    const declared = r(2);
    if (declared) raw.send(head('/detokenize', `Content-Length: ${large.length}\r\n`));
    else raw.send(`${head('/detokenize', 'Transfer-Encoding: chunked\r\n')}${large.length.toString(16)}\r\n`);
    raw.send(large);
    if (!declared) raw.send('\r\n0\r\n\r\n');
    const a = await raw.answer().catch(() => null); // refused unread, the answer may be lost with the connection
    raw.destroy();
    assert.ok(!a || a.status === 413, `${a?.status}`);
    await s.ask('POST', completions, `${' '.repeat(15 << 20)}{"prompt":"a","max_tokens":1}`, 200);
  }],
  contradiction: [3, async (s, r) => {
    const smuggled = 'GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n';
    const [bytes, want] = [
      [`${head('/detokenize', 'Content-Length: 6\r\nTransfer-Encoding: chunked\r\n')}0\r\n\r\n${smuggled}`, [400]],
      [`${head('/detokenize', 'Content-Length: 2\r\nContent-Length: 5\r\n')}{}`, [400]],
      [`${head('/detokenize', 'Transfer-Encoding: chunked\r\n')}zz\r\n`, [400, undefined]],
      ['\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', [400, undefined]],
      ['GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n', [400]],
    ][r(5)];
    const got = await s.raw(bytes, { half: bytes.startsWith('\x16') });
    assert.ok(want.includes(got), `${bytes.slice(0, 120)}: ${got}`);
  }],
  pipeline: [3, async (s, r) => {
    const raw = await Raw.open(s.d.port);
    const n = 2 + r(8), body = JSON.stringify({ content: text });
    raw.send(Array.from({ length: n }, (_, i) => `${head('/tokenize', `X-Request-Id: p${i}\r\nContent-Length: ${body.length}\r\n`)}${body}`).join(''));
    for (let i = 0; i < n; i++) {
      const a = await raw.answer();
      s.count('/tokenize', a.status);
      assert.deepEqual([a.status, a.headers['x-request-id']], [200, `p${i}`]);
    }
    raw.destroy();
  }],
  half: [2, async (s) => { // asked, and the sending side closed at once: answered or given up, and never left hanging
    const body = JSON.stringify({ messages: [{ role: 'user', content: text }], max_tokens: 100000 });
    assert.ok([undefined, 200].includes(await s.raw(`${head('/apply-template', `Content-Length: ${body.length}\r\n`)}${body}`, { half: true })));
    assert.ok([undefined, 429].includes(await s.raw(`${head(chat, `Content-Length: ${body.length}\r\n`)}${body}`, { half: true })));
  }],
};

const acts = Object.entries({ ...friendly, ...hostile });
const total = acts.reduce((n, [, [weight]]) => n + weight, 0);
function choose(r) {
  let at = r(total * 10) / 10;
  for (const [name, [weight, act]] of acts) if ((at -= weight) < 0) return [name, act];
  return [acts[0][0], acts[0][1][1]];
}

// Least squares: how much y grows for each x.
function slope(points) {
  const mean = (k) => points.reduce((n, p) => n + p[k], 0) / points.length;
  const [mx, my] = [mean(0), mean(1)];
  return points.reduce((n, [x, y]) => n + (x - mx) * (y - my), 0) / points.reduce((n, [x]) => n + (x - mx) ** 2, 0);
}

// The counters of the routes and statuses that were counted here too. 499: who left. Of chats, who left may have
// been refused before, or not have been heard.
function compare(metrics, sent) {
  const seen = new Map();
  for (const [, route, status, n] of metrics.matchAll(/^dreamstate_http_requests_total\{route="([^"]*)",status="(\d+)"\} (\d+)$/gm)) {
    assert.ok(Number(status) < 500, `${route} ${status}: ${n}`);
    seen.set(`${route} ${status}`, Number(n));
  }
  for (const [key, n] of sent) if (key !== `${chat} 429`) assert.equal(seen.get(key), n, key);
}

test(`${requests} requests of a mixed and hostile load`, async () => {
  const d = await Daemon.start({ model: byteModel(), args: ['--max-sequences', '8', '--max-queue', '32', '--sessions', '20', '--state-cache', '1M', '--log-level', 'warn', '--idle-seconds', '10'],
    env: { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '262144', MALLOC_TRIM_THRESHOLD_: '262144' } });
  d.agent = new Agent({ keepAlive: true, maxSockets: 256, timeout: 3000 }); // never on a connection that the daemon ends
  try {
    const s = new Soak(d);
    const base = await s.ask('POST', states, { name: 'base', text }, 201);
    s.sha256 = base.json.sha256;
    s.want = (await s.ask('POST', completions, ask, 200)).json.choices[0].text;
    const fds = await d.metric('process_open_fds');
    const memory = [];
    let left = 0, health = 0, worst = 0, over = false;
    const client = async (me, r) => {
      while (left-- > 0) {
        const [name, act] = choose(r);
        s.did[name] = (s.did[name] ?? 0) + 1;
        await act(s, r, me).catch((e) => { left = 0; throw new Error(`${name}: ${e.stack}`); });
      }
    };
    const part = async () => {
      const seeds = Array.from({ length: N_CLIENTS }, (_, me) => random(me + 1 + N_CLIENTS * memory.length));
      left = Math.ceil(requests / PARTS);
      await Promise.all(seeds.map((r, me) => client(me, r)));
      for (const gauge of ['active', 'waiting', 'parked']) await d.until(`dreamstate_sequences_${gauge}`, (v) => v === 0);
      memory.push([(memory.length + 1) * requests / PARTS, resident(d.child.pid)]);
    };
    const watch = (async () => {
      for (; !over; health++) {
        const start = performance.now();
        assert.equal((await d.get('/health')).status, 200);
        worst = Math.max(worst, performance.now() - start);
        await setTimeout(10); // a rate, not a wait
      }
    })();
    while (memory.length < PARTS) await part();
    over = true;
    await watch;
    for (const one of s.slow) one?.destroy();
    d.agent.destroy();
    await d.until('process_open_fds', (v) => v <= fds, 60); // the idle time, where a client was gone unseen
    const late = memory.slice(FULL);
    const growth = slope(late), span = late.at(-1)[0] - late[0][0];
    console.log(`${JSON.stringify(s.did)}\n${s.busy} told to come again; ${health} times /health, at most ${worst.toFixed(0)} ms; `
      + `MB after each part: ${memory.map(([, b]) => (b / 1e6).toFixed(1)).join(' ')}; ${growth.toFixed(0)} bytes a request`);
    assert.ok(growth * span < Math.max(8 << 20, 256 * span), `memory grows by ${growth.toFixed(0)} bytes a request`);
    assert.ok(s.busy > 0, 'the queue was never full');
    assert.ok(worst < 2000, `/health took ${worst} ms`);
    compare((await d.get('/metrics')).text, s.sent);
    assert.deepEqual((await d.get(states)).json.data.map((x) => [x.ref, x.sha256]), [['base@1', s.sha256]]);
    assert.equal((await d.complete(ask)).choices[0].text, s.want);
  } catch (e) {
    await d.kill();
    throw e;
  }
  await d.stop();
});
