// Starts the real binary on a free port and talks to it. Everything stays on the loopback.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Agent, request } from 'node:http';

export const root = resolve(fileURLToPath(import.meta.url), '../../..');
export const binary = resolve(root, process.env.DREAMSTATE_BIN ?? 'build/release/dreamstated');
export const randModel = join(root, 'tests/data/rwkv7-rand/rwkv7-rand-fp32.safetensors');

// The model that comes with the program; null where it is not built.
const tiny = join(root, 'deploy/models/tiny/model.safetensors');
export const bundledModel = existsSync(tiny) ? tiny : null;

export function scratch() {
  const dir = mkdtempSync(join(tmpdir(), 'dreamstate-test-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

// No daemon outlives its test, however that ends.
const running = new Set();
process.on('exit', () => { for (const c of running) c.kill('SIGKILL'); });
for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.once(s, () => process.exit(1));

export class Daemon {
  // options: model (path, or list of NAME=path), data (folder; else a new one), args, env (besides our own)
  static async start({ model, data = scratch(), args = [], env = {} }) {
    const models = [model].flat().flatMap((m) => ['--model', m]);
    const d = new this();
    d.data = data;
    d.log = '';
    d.child = spawn(binary, ['serve', ...models, '--listen', '127.0.0.1:0', '--data', data, ...args], {
      cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env },
    });
    running.add(d.child);
    d.child.on('exit', () => running.delete(d.child));
    d.exited = new Promise((done) => d.child.on('exit', (code, signal) => done({ code, signal })));
    d.child.stderr.setEncoding('utf8').on('data', (s) => { d.log += s; });
    const line = new Promise((ok) => {
      let out = '';
      d.child.stdout.setEncoding('utf8').on('data', (s) => {
        out += s;
        const m = out.match(/^listening on (http:\/\/127\.0\.0\.1:(\d+))$/m);
        if (m) ok(m);
      });
    });
    const failed = d.exited.then((x) => { throw new Error(`the daemon ended (${x.code}): ${d.log}`); });
    const m = await Promise.race([line, failed]);
    failed.catch(() => {});
    [, d.url] = m;
    d.port = Number(m[2]);
    d.agent = new Agent({ keepAlive: true, maxSockets: 256 });
    return d;
  }

  // Runs run(daemon) between a start and a clean end.
  static async with(options, run) {
    const d = await this.start(options);
    try {
      await run(d);
    } catch (e) {
      await d.kill();
      throw e;
    }
    await d.stop();
  }

  // One exchange: {status, headers, body (Buffer), text, json}. body: an object (sent as JSON), a string or a Buffer.
  fetch(method, path, body, headers = {}) {
    const payload = body === undefined || typeof body === 'string' || Buffer.isBuffer(body)
      ? body : JSON.stringify(body);
    const h = { ...headers };
    if (payload !== undefined) {
      h['content-length'] ??= Buffer.byteLength(payload);
      h['content-type'] ??= 'application/json';
    }
    return new Promise((ok, fail) => {
      const req = request(this.url + path, { method, headers: h, agent: this.agent }, (res) => {
        const parts = [];
        res.on('data', (c) => parts.push(c)).on('error', fail).on('end', () => {
          const bytes = Buffer.concat(parts), text = bytes.toString('utf8');
          let json;
          if (/^application\/json/.test(res.headers['content-type'] ?? '') && text) json = JSON.parse(text);
          ok({ status: res.statusCode, headers: res.headers, body: bytes, text, json });
        });
      });
      req.on('error', fail);
      req.end(payload);
    });
  }

  get(path, headers) { return this.fetch('GET', path, undefined, headers); }

  post(path, body, headers) { return this.fetch('POST', path, body, headers); }

  patch(path, body, headers) { return this.fetch('PATCH', path, body, headers); }

  delete(path, headers) { return this.fetch('DELETE', path, undefined, headers); }

  // A completion that must succeed.
  async complete(body) {
    const r = await this.post('/v1/completions', body);
    if (r.status !== 200) throw new Error(`${r.status}: ${r.text}`);
    return r.json;
  }

  // The sum of a metric over its labels.
  async metric(name) {
    const { text } = await this.get('/metrics');
    let sum = 0;
    for (const [, v] of text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))) sum += Number(v);
    return sum;
  }

  // Until the metric satisfies the test. Each look is an exchange with the daemon: no fixed sleeps.
  async until(name, test, seconds = 120) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      const v = await this.metric(name);
      if (test(v)) return v;
      if (Date.now() > end) throw new Error(`${name} stayed ${v} for ${seconds} s\n${this.log}`);
    }
  }

  // Until its log holds the text.
  async logged(text) {
    while (!this.log.includes(text)) await once(this.child.stderr, 'data');
  }

  // Ends it as an operator does; the exit must be clean.
  async stop() {
    this.agent?.destroy();
    this.child.kill('SIGTERM');
    const x = await this.exited;
    if (x.code !== 0) throw new Error(`exit ${x.code} ${x.signal}\n${this.log}`);
  }

  async kill() {
    this.agent?.destroy();
    this.child.kill('SIGKILL');
    await this.exited;
  }
}
