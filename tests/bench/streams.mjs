// Speed through HTTP beside llama.cpp's server, on the same file, in turn: what several greedy completions at the same time
// get together, and how long a prompt of 512 tokens takes to its first token. Medians of five rounds.
//
//     build/release/dreamstated bench speed --rounds 1        (makes build/bench-12x768-f16.gguf)
//     cd tests && SLOTS=16 node bench/streams.mjs /path/to/llama-server [MODEL.gguf]
//
// Prints Markdown. Both servers are there all the time; only one is asked at a time.
import { scratch } from '../lib/daemon.mjs';
import { about, Llama, median, Ours, SLOTS, timed, words } from './servers.mjs';

const ROUNDS = Number(process.env.ROUNDS ?? 5), LENGTH = 64;
let seed = 1;

// n completions at once, none of which can end early; tokens/s of all together. (llama-server answers with 500 where what it
// made is no text, as random weights make it: behind all of its work.)
async function together(d, n) {
  const prompts = Array.from({ length: n }, () => words(8, seed++));
  const [, ms] = await timed(() => Promise.all(prompts.map((p) => d.ask(p, LENGTH).catch(() => {}))));
  return n * LENGTH * 1000 / ms;
}

const first = async (d) => (await timed(() => d.ask(words(512, seed++), 1).catch(() => {})))[1];

const servers = [await Ours.start(scratch()), await Llama.start(scratch())];
const counts = [1, 4, 16].filter((n) => n <= SLOTS);
const seen = servers.map(() => ({ first: [], ...Object.fromEntries(counts.map((n) => [n, []])) }));
for (const d of servers) await together(d, 1); // warm
for (let round = 0; round < ROUNDS; round++)
  for (const n of [...counts, 'first'])
    for (const [i, d] of servers.entries()) seen[i][n].push(await (n === 'first' ? first(d) : together(d, n)));
for (const d of servers) await d.stop();

console.log(`${await about()}\n`);
console.log('| | DreamState | llama-server | ratio |\n|---|---|---|---|');
for (const n of counts) {
  const [a, b] = seen.map((s) => median(s[n]));
  console.log(`| ${n} at once, tokens/s together | ${a.toFixed(1)} | ${b.toFixed(1)} | ${(a / b).toFixed(2)} |`);
}
const [a, b] = seen.map((s) => median(s.first));
console.log(`| first token behind 512 new ones, ms | ${a.toFixed(0)} | ${b.toFixed(0)} | ${(b / a).toFixed(2)} |`);
