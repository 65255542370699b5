// Clients that leave: their sequences are free at once, whatever state they were in.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { Raw } from '../lib/raw.mjs';

const active = 'dreamstate_sequences_active';
const waiting = 'dreamstate_sequences_waiting';
// More than the buffers of both ends hold: a thousand bytes and more for each token of the prompt.
const plenty = { prompt: Array(40000).fill(65), max_tokens: 1, echo: true, logprobs: 20 };
const endless = { prompt: 'a', max_tokens: 1048576 };

let d;
before(async () => { d = await Daemon.start({ model: byteModel(), args: ['--max-sequences', '1', '--park-seconds', '3600'] }); });
after(async () => { await d?.stop(); });

async function ask(body) {
  return (await Raw.open(d.port)).post('/v1/completions', JSON.stringify(body));
}

async function leavesAlone(gauge, go) {
  const cancelled = await d.metric('dreamstate_cancelled_total');
  await d.until(gauge, (v) => v === 1);
  const start = process.hrtime.bigint();
  go();
  await d.until(gauge, (v) => v === 0);
  const ms = Number(process.hrtime.bigint() - start) / 1e6;
  await d.until('dreamstate_cancelled_total', (v) => v > cancelled);
  return ms;
}

for (const [what, body, how] of [
  ['a stream', { ...endless, stream: true }, (r) => r.destroy()],
  ['a stream, reset', { ...endless, stream: true }, (r) => r.socket.resetAndDestroy?.() ?? r.destroy()],
  ['a whole answer', endless, (r) => r.destroy()],
  ['a whole answer, half closed', endless, (r) => r.socket.end()],
  ['in prefill', { prompt: Array(150000).fill(65), max_tokens: 1 }, (r) => r.destroy()],
])
  test(`the client of ${what} leaves: the sequence is free`, async () => {
    const raw = await ask(body);
    try {
      const ms = await leavesAlone(active, () => how(raw));
      console.log(`free ${ms.toFixed(0)} ms after the client of ${what} left`);
    } finally {
      raw.destroy();
    }
  });

test('the client of a stream that it does not read leaves: the sequence is free', async () => {
  const raw = await ask({ ...plenty, stream: true });
  raw.socket.pause();
  try {
    await d.until('dreamstate_sequences_parked', (v) => v === 1);
    await leavesAlone(active, () => raw.destroy());
  } finally {
    raw.destroy();
  }
});

test('a queued client leaves: the queue is empty, the other runs on', async () => {
  const first = await ask({ ...endless, stream: true });
  await d.until(active, (v) => v === 1);
  const second = await ask(endless);
  try {
    await leavesAlone(waiting, () => second.destroy());
    assert.equal(await d.metric(active), 1);
    await leavesAlone(active, () => first.destroy());
  } finally {
    for (const raw of [first, second]) raw.destroy();
  }
});

test('a client with several choices leaves: all of them end', async () => {
  const raw = await ask({ ...endless, n: 8 });
  await d.until(waiting, (v) => v === 7).finally(() => raw.destroy());
  await d.until(waiting, (v) => v === 0);
  await d.until(active, (v) => v === 0);
});

test('a bake whose client leaves keeps nothing', async () => {
  const raw = (await Raw.open(d.port)).post('/v1/states', JSON.stringify({ name: 'half', tokens: Array(150000).fill(66) }));
  await leavesAlone(active, () => raw.destroy()).finally(() => raw.destroy());
  assert.equal((await d.get('/v1/states/half')).status, 404);
});

test('a client that comes back is served', async () => {
  assert.equal((await d.complete({ prompt: 'a', max_tokens: 2 })).usage.completion_tokens, 2);
});

test('--half-open waiting: a client that has closed its sending side gets its answer', async () => {
  const d2 = await Daemon.start({ model: byteModel(), args: ['--half-open', 'waiting'] });
  const raw = await Raw.open(d2.port);
  raw.post('/v1/completions', JSON.stringify({ prompt: 'a', max_tokens: 300, temperature: 0 }), 'Connection: close\r\n');
  raw.socket.end();
  const r = await raw.last();
  assert.equal(JSON.parse(r.body).usage.completion_tokens, 300);
  const gone = await Raw.open(d2.port);
  gone.post('/v1/completions', JSON.stringify({ prompt: 'a', max_tokens: 1048576, stream: true }));
  await d2.until(active, (v) => v === 1);
  gone.destroy();
  await d2.until(active, (v) => v === 0);
  await d2.stop();
});
