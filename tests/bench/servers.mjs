// What both servers of the comparisons beside llama.cpp's have in common: to start them on one file, to ask, to keep a
// state and to go on from it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { createServer } from 'node:net';
import { cpus } from 'node:os';
import { join, resolve } from 'node:path';
import { Agent } from 'node:http';
import { Daemon, binary, root } from '../lib/daemon.mjs';
import { readSafetensors } from '../lib/model.mjs';

const [llamaServer, file] = process.argv.slice(2);
if (!llamaServer) throw new Error(`usage: node ${process.argv[1]} LLAMA_SERVER [MODEL.gguf]`);
export const model = file ? resolve(file) : join(root, 'build/bench-12x768-f16.gguf');
export const THREADS = process.env.THREADS ?? `${cpus().length}`;
const SLOTS = 8;
const WORD = 300; // of the World vocabulary
const greedy = { temperature: 0, stream: false };
process.setMaxListeners(0); // one a server
export const median = (v) => [...v].sort((a, b) => a - b)[v.length >> 1];

// Token ids that are words of the World vocabulary, the same for a seed.
export function words(n, seed) {
  let x = seed * 7919 + 1;
  return Array.from({ length: n }, () => 300 + ((x = (x * 1103515245 + 12345) % 2147483648) % 20000));
}

export class Ours extends Daemon {
  static label = 'DreamState';

  static start(dir, file = model) {
    return super.start({ model: file, data: dir, args: ['--max-sequences', `${SLOTS}`, '--threads', THREADS] });
  }

  async ask(prompt, max_tokens, more = {}, signal) {
    const body = { prompt, max_tokens, ...greedy, return_tokens: true, logit_bias: { 0: false }, ...more };
    const r = await post(this, '/v1/completions', body, signal);
    return { tokens: r.choices[0].tokens, timings: r.timings };
  }

  // The logits behind a prompt, which its state keeps.
  async logits(prompt) {
    await post(this, '/v1/states', { name: 'logits', tokens: prompt, if_exists: 'new_version' });
    const { logits: { data } } = readSafetensors((await this.get('/v1/states/logits/data')).body);
    return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
  }

  async save(name, prompt) { return (await post(this, '/v1/states', { name, tokens: prompt })).bytes; }

  resume(name, prompt, suffix, n) { return this.ask(suffix, n, { state: name }); }
}

export class Llama extends Daemon {
  static label = 'llama-server';

  static async start(dir, file = model) {
    const d = new Llama();
    const free = createServer().listen(0, '127.0.0.1');
    await once(free, 'listening');
    d.port = free.address().port;
    free.close();
    d.url = `http://127.0.0.1:${d.port}`;
    const { OPENBLAS_CORETYPE, ...env } = process.env;
    d.child = spawn(resolve(llamaServer), ['-m', file, '--port', `${d.port}`, '-t', THREADS, '-np', `${SLOTS}`,
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

  // Log-probabilities, by token. What is said next is set, so that it is text; they are of before that.
  async logits(prompt) {
    const r = await this.ask(prompt, 1, { n_probs: 1 << 17, logit_bias: [[WORD, 1000]] });
    const all = r.completion_probabilities[0].top_logprobs, out = new Float64Array(all.length);
    for (const { id, logprob } of all) out[id] = logprob;
    return out;
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

export async function post(d, path, body, signal) {
  const r = await fetch(d.url + path, {
    method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' }, signal,
  });
  const json = await r.json();
  if (!r.ok) throw new Error(`${path}: ${r.status} ${JSON.stringify(json)}`);
  return json;
}

export async function timed(go) {
  const start = performance.now();
  const value = await go();
  return [value, performance.now() - start];
}

const version = async (file, ...args) => {
  const c = spawn(file, args);
  let out = '';
  for (const s of [c.stdout, c.stderr]) s.on('data', (x) => { out += x; });
  await once(c, 'close');
  return out;
};

// Where and what was measured, one line.
export async function about() {
  const peer = /version: (\S+) \(build (\d+), commit ([0-9a-f]+)\)/.exec(await version(llamaServer, '--version'));
  return `${new Date().toISOString().slice(0, 10)}, ${cpus().length} cores of ${cpus()[0].model}, ${model.split('/').at(-1)} `
    + `(${Math.round(statSync(model).size / 1e6)} MB); ${(await version(binary, 'version')).trim().split('\n')[0]}; `
    + `llama-server ${peer ? `${peer[1]}, build ${peer[2]}, commit ${peer[3]}` : '(version unknown)'}, ${SLOTS} sequences, ${THREADS === '1' ? 'one thread' : `${THREADS} threads`} each`;
}
