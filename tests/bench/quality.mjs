// What the types of weights cost beside llama.cpp's server: the rms error of the logits over their standard deviation,
// against F32 weights, behind each of 64 tokens, over the whole vocabulary. Both programs read the same file of each type.
//
//     build/release/dreamstated bench speed --type F32 --rounds 1        (makes build/bench-12x768-f32.gguf)
//     llama-quantize ../build/bench-12x768-f32.gguf q8_0.gguf Q8_0
//     cd tests && node bench/quality.mjs /path/to/llama-server ../build/bench-12x768-f32.gguf q8_0.gguf ...
//
// Prints Markdown. The first file has F32 weights; DreamState's logits of it are what all are compared with (the golden tests
// hold them against numbers of others), so llama-server's own row of that file says how far the two agree. llama-server
// gives log-probabilities, which differ from logits by one number a position: of all the mean over the vocabulary is taken off.
import { resolve } from 'node:path';
import { scratch } from '../lib/daemon.mjs';
import { about, Llama, Ours, words } from './servers.mjs';

const TOKENS = 64, SEED = Number(process.env.SEED ?? 1);
const files = process.argv.slice(3).map((f) => resolve(f));
const text = words(TOKENS, SEED);

// Logits [TOKENS] [vocabulary], of mean 0.
async function read(Server, file) {
  const d = await Server.start(scratch(), file), all = [];
  for (let n = 1; n <= TOKENS; n++) {
    const x = Float64Array.from(await d.logits(text.slice(0, n)));
    const mean = x.reduce((s, v) => s + v, 0) / x.length;
    all.push(x.map((v) => v - mean));
  }
  await d.stop();
  return all;
}

function error(a, b) {
  let squares = 0, all = 0;
  for (let t = 0; t < TOKENS; t++) {
    if (a[t].length !== b[t].length) throw new Error(`${a[t].length} logits, want ${b[t].length}`);
    for (let i = 0; i < b[t].length; i++) {
      squares += (a[t][i] - b[t][i]) ** 2;
      all += b[t][i] ** 2;
    }
  }
  return Math.sqrt(squares / all);
}

const show = (x) => x.toPrecision(3);
const want = await read(Ours, files[0]);
console.log(`${await about()}\n`);
console.log('| | DreamState | llama-server | ratio |\n|---|---|---|---|');
for (const file of files) {
  const [a, b] = [error(await read(Ours, file), want), error(await read(Llama, file), want)];
  console.log(`| ${file.split('/').at(-1)} | ${show(a)} | ${show(b)} | ${a && (a / b).toFixed(2)} |`);
}
