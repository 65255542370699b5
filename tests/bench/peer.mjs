// The table beside llama.cpp's server: what becomes of a state in both, on the same file, in turn.
//
//     build/release/dreamstated bench speed --rounds 1        (makes build/bench-12x768-f16.gguf)
//     cd tests && node bench/peer.mjs /path/to/llama-server [../build/bench-12x768-f16.gguf]
//
// Prints Markdown. Times are of a busy or quiet machine alike: read the ratio, not the number. THREADS=1 where
// others use the machine: llama.cpp's threads wait for each other spinning.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { Agent } from 'node:http';
import { binary, Daemon, root, scratch } from '../lib/daemon.mjs';

const [llamaServer, file] = process.argv.slice(2);
const model = file ? resolve(file) : join(root, 'build/bench-12x768-f16.gguf');
if (!llamaServer) throw new Error('usage: node bench/peer.mjs LLAMA_SERVER [MODEL.gguf]');
const SLOTS = 8, THREADS = process.env.THREADS ?? `${cpus().length}`;
const greedy = { temperature: 0, stream: false };
process.setMaxListeners(0); // one a server
const median = (v) => [...v].sort((a, b) => a - b)[v.length >> 1];

// Token ids that are words of the World vocabulary, the same for a seed.
function words(n, seed) {
  let x = seed * 7919 + 1;
  return Array.from({ length: n }, () => 300 + ((x = (x * 1103515245 + 12345) % 2147483648) % 20000));
}

class Ours extends Daemon {
  static label = 'DreamState';

  static start(dir) {
    return super.start({ model, data: dir, args: ['--max-sequences', `${SLOTS}`, '--threads', THREADS] });
  }

  async ask(prompt, max_tokens, more = {}, signal) {
    const body = { prompt, max_tokens, ...greedy, return_tokens: true, logit_bias: { 0: false }, ...more };
    const r = await post(this, '/v1/completions', body, signal);
    return { tokens: r.choices[0].tokens, timings: r.timings };
  }

  async save(name, prompt) { return (await post(this, '/v1/states', { name, tokens: prompt })).bytes; }

  resume(name, prompt, suffix, n) { return this.ask(suffix, n, { state: name }); }
}

class Llama extends Daemon {
  static label = 'llama-server';

  static async start(dir) {
    const d = new Llama();
    const free = createServer().listen(0, '127.0.0.1');
    await once(free, 'listening');
    d.port = free.address().port;
    free.close();
    d.url = `http://127.0.0.1:${d.port}`;
    const { OPENBLAS_CORETYPE, ...env } = process.env;
    d.child = spawn(resolve(llamaServer), ['-m', model, '--port', `${d.port}`, '-t', THREADS, '-np', `${SLOTS}`,
      '--slot-save-path', dir, '--no-webui', '--offline'], { stdio: 'ignore', env });
    process.on('exit', () => d.child.kill('SIGKILL'));
    d.exited = once(d.child, 'exit');
    d.agent = new Agent({ keepAlive: true, maxSockets: 256 });
    while ((await d.get('/health').catch(() => ({}))).status !== 200) await new Promise((ok) => setTimeout(ok, 50));
    return d;
  }

  async ask(prompt, n_predict, more = {}, signal) {
    const body = { prompt, n_predict, ...greedy, return_tokens: true, cache_prompt: true, logit_bias: [[0, false]], ...more };
    return post(this, '/completion', body, signal);
  }

  async save(name, prompt) {
    await this.ask(prompt, 0, { id_slot: 0 });
    return (await post(this, '/slots/0?action=save', { filename: name })).n_written;
  }

  async resume(name, prompt, suffix, n) {
    await post(this, '/slots/0?action=restore', { filename: name });
    return this.ask([...prompt, ...suffix], n, { id_slot: 0 });
  }

  async stop() { await this.kill(); }
}

async function post(d, path, body, signal) {
  const r = await fetch(d.url + path, {
    method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' }, signal,
  });
  const json = await r.json();
  if (!r.ok) throw new Error(`${path}: ${r.status} ${JSON.stringify(json)}`);
  return json;
}

async function timed(go) {
  const start = performance.now();
  const value = await go();
  return [value, performance.now() - start];
}

// A prompt of 512 tokens is read and kept, the server killed, and the text gone on with.
async function restart(Server, rows) {
  const dir = scratch(), prompt = words(512, 1), suffix = words(8, 2);
  let d = await Server.start(dir);
  await d.ask(words(32, 3), 4); // warm
  const bytes = await d.save('kept', prompt);
  const whole = await d.resume('kept', prompt, suffix, 32);
  await d.kill();
  d = await Server.start(dir);
  await d.ask(words(32, 3), 4);
  const [first, ms] = await timed(() => d.resume('kept', prompt, suffix, 1));
  const again = await d.resume('kept', prompt, suffix, 32);
  const none = await d.resume('kept', prompt, [], 1);
  rows['after kill -9, behind 512 kept tokens: tokens evaluated to go on with 8 new ones (`prompt_n`)'] = first.timings.prompt_n;
  rows['the same with no new one'] = none.timings.prompt_n;
  rows['from the request to go on with 8 to the first token'] = ms;
  rows['that continuation, 32 greedy tokens, against the uninterrupted one'] = again.tokens.join() === whole.tokens.join() ? 'the same' : 'differs';
  rows['bytes of the kept state'] = bytes;
  await d.kill();
}

// A save is acknowledged, the server killed at once.
async function killed(Server, rows) {
  const ROUNDS = 3, dir = scratch();
  let alive = 0;
  for (let i = 0; i < ROUNDS; i++) {
    let d = await Server.start(dir);
    await d.save(`s${i}`, words(16, 40 + i));
    await d.kill();
    d = await Server.start(dir);
    alive += await d.resume(`s${i}`, words(16, 40 + i), words(2, 5), 1).then(() => 1, () => 0);
    await d.kill();
  }
  rows['acknowledged saves there after kill -9'] = `${alive} of ${ROUNDS}`;
}

// Every prompt alone, then all at once while other requests are begun and given up.
async function among(d, rows) {
  const N = 24, LENGTH = 12;
  const prompts = Array.from({ length: N }, (_, i) => words(12 + (i % 5) * 9, 100 + i));
  const say = (p) => d.ask(p, LENGTH).then((r) => r.tokens.join(), () => null);
  const alone = [];
  for (const p of prompts) alone.push(await say(p));
  let differ = 0, next = 0, over = false;
  const asker = async () => {
    while (next < N) {
      const i = next++;
      differ += alone[i] !== null && await say(prompts[i]) !== alone[i];
    }
  };
  const leaver = async (seed) => {
    for (let i = 0; !over; i++) {
      const left = AbortSignal.timeout(20 + ((seed + i) * 37) % 60);
      await d.ask(words(20 + i % 30, 1000 * seed + i), 200, {}, left).catch(() => {});
    }
  };
  const leaving = [1, 2].map(leaver);
  await Promise.all(Array.from({ length: 5 }, asker));
  over = true;
  await Promise.all(leaving);
  const failed = alone.filter((a) => a === null).length; // llama-server: 500 where the bytes are no text
  rows['greedy completions among aborts that are other than alone'] = `${differ} of ${N - failed}${failed ? ` (${failed} failed alone)` : ''}`;
}

async function slow(d, rows) {
  const sockets = await Promise.all(Array.from({ length: 50 }, async () => {
    const s = connect(d.port, '127.0.0.1');
    s.on('error', () => {});
    await once(s, 'connect');
    s.write('POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ');
    return s;
  }));
  const drip = setInterval(() => sockets.forEach((s) => s.writable && s.write('a')), 200);
  const ms = [];
  for (let i = 0; i < 20; i++) {
    const [ok, t] = await timed(() => fetch(`${d.url}/health`, { headers: { connection: 'close' }, signal: AbortSignal.timeout(5000) })
      .then((r) => r.ok, () => false));
    ms.push(ok ? t : 5000);
    if (i === 4 && ms.every((t) => t === 5000)) break;
  }
  clearInterval(drip);
  for (const s of sockets) s.destroy();
  rows['`/health` while 50 clients send their headers slowly (median)'] = median(ms);
}

async function memory(d, rows) {
  const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${d.child.pid}/status`, 'utf8'))[1]) / 1024;
  const short = (i) => d.ask(words(8, 5000 + i), 1).catch(() => {});
  const before = rss();
  for (let i = 0; i < 500; i += 4) await Promise.all([0, 1, 2, 3].map((k) => short(i + k)));
  rows['memory that 500 different short requests add'] = `${Math.round(rss() - before)} MB`;
}

async function measure(Server, rows) {
  await restart(Server, rows);
  await killed(Server, rows);
  const d = await Server.start(scratch());
  await d.ask(words(32, 3), 4);
  for (const test of [among, slow, memory]) {
    console.error(`${Server.label}: ${test.name}`);
    await test(d, rows);
  }
  await d.stop();
}

const version = async (file, ...args) => {
  const c = spawn(file, args);
  let out = '';
  for (const s of [c.stdout, c.stderr]) s.on('data', (x) => { out += x; });
  await once(c, 'close');
  return out;
};

const [ours, theirs] = [{}, {}];
await measure(Ours, ours);
await measure(Llama, theirs);
const show = (v) => (typeof v !== 'number' ? v : Number.isInteger(v) ? v.toLocaleString('en') : `${v.toFixed(1)} ms`);
const peer = /version: (\S+) \(build (\d+), commit ([0-9a-f]+)\)/.exec(await version(llamaServer, '--version'));
console.log(`${new Date().toISOString().slice(0, 10)}, ${cpus().length} cores of ${cpus()[0].model}, ${model.split('/').at(-1)} `
  + `(${Math.round(statSync(model).size / 1e6)} MB); ${(await version(binary, 'version')).trim().split('\n')[0]}; `
  + `llama-server ${peer ? `${peer[1]}, build ${peer[2]}, commit ${peer[3]}` : '(version unknown)'}, ${SLOTS} sequences, ${THREADS === '1' ? 'one thread' : `${THREADS} threads`} each\n`);
console.log('| | DreamState | llama-server | ratio |\n|---|---|---|---|');
for (const [what, a] of Object.entries(ours)) {
  const b = theirs[what];
  const ratio = typeof a === 'number' && typeof b === 'number' && a > 0 ? `${(b / a).toFixed(b / a < 10 ? 2 : 0)}` : '';
  console.log(`| ${what} | ${show(a)} | ${show(b)} | ${ratio} |`);
}
