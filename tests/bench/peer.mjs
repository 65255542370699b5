// The table beside llama.cpp's server: what becomes of a state in both, on the same file, in turn.
//
//     build/release/dreamstated bench speed --rounds 1        (makes build/bench-12x768-f16.gguf)
//     cd tests && node bench/peer.mjs /path/to/llama-server [../build/bench-12x768-f16.gguf]
//
// Prints Markdown. Times are of a busy or quiet machine alike: read the ratio, not the number. THREADS=1 where
// others use the machine: llama.cpp's threads wait for each other spinning.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { scratch } from '../lib/daemon.mjs';
import { about, Llama, median, Ours, timed, words } from './servers.mjs';

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

const [ours, theirs] = [{}, {}];
await measure(Ours, ours);
await measure(Llama, theirs);
const show = (v) => (typeof v !== 'number' ? v : Number.isInteger(v) ? v.toLocaleString('en') : `${v.toFixed(1)} ms`);
console.log(`${await about()}\n`);
console.log('| | DreamState | llama-server | ratio |\n|---|---|---|---|');
for (const [what, a] of Object.entries(ours)) {
  const b = theirs[what];
  const ratio = typeof a === 'number' && typeof b === 'number' && a > 0 ? `${(b / a).toFixed(b / a < 10 ? 2 : 0)}` : '';
  console.log(`| ${what} | ${show(a)} | ${show(b)} | ${ratio} |`);
}
