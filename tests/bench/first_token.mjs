// Time to the first token of a completion that starts from a named state with logits and has no prompt of its
// own, with and without the cache of states:
//
//     dreamstated bench speed --rounds 1            (makes build/bench-12x768-f16.gguf)
//     cd tests && node bench/first_token.mjs ../build/bench-12x768-f16.gguf
import { Daemon } from '../lib/daemon.mjs';

const STATES = 8, REQUESTS = 200;
const model = process.argv[2];
const at = (v, q) => v[Math.floor(q * (v.length - 1))].toFixed(2);

async function sum(d, metric) {
  return d.metric(`dreamstate_${metric}_seconds_sum`);
}

for (const [name, bytes] of [['from the store', '0'], ['from the cache', '256M']]) {
  const d = await Daemon.start({ model, args: ['--state-cache', bytes] });
  for (let i = 0; i < STATES; i++)
    await d.post('/v1/states', { name: `s${i}`, tokens: Array.from({ length: 64 }, (_, k) => 1 + i + (k % 3)) });
  const before = [await sum(d, 'first_token'), await sum(d, 'state_load')];
  const ms = [];
  for (let i = 0; i < REQUESTS; i++) {
    const start = process.hrtime.bigint();
    const r = await d.complete({ state: `s${i % STATES}`, max_tokens: 1, temperature: 0 });
    ms.push(Number(process.hrtime.bigint() - start) / 1e6);
    if (r.timings.prompt_n) throw new Error('tokens were read');
  }
  ms.sort((a, b) => a - b);
  const [first, load] = [await sum(d, 'first_token'), await sum(d, 'state_load')].map((v, i) => (v - before[i]) / REQUESTS * 1e3);
  console.log(`${name}: whole request ${at(ms, 0)} / ${at(ms, 0.5)} / ${at(ms, 0.9)} ms (least, median, 90 %);`
    + ` in the daemon ${first.toFixed(2)} ms, of these loading ${load.toFixed(2)} (means)`);
  await d.stop();
}
