// HTTP by hand over a socket: what is sent and what comes back, byte by byte.
import { connect } from 'node:net';

export class Raw {
  static open(port) {
    return new Promise((ok, fail) => {
      const r = new Raw();
      r.parts = [];
      r.waiters = [];
      r.closed = false;
      r.socket = connect(port, '127.0.0.1', () => ok(r));
      r.socket.setNoDelay(true);
      r.socket.on('error', (e) => { r.error = e; fail(e); });
      r.socket.on('data', (c) => { r.parts.push(c); r.wake(); });
      r.socket.on('close', () => { r.closed = true; r.wake(); });
      r.socket.on('end', () => { r.ended = true; r.wake(); });
    });
  }

  // What came and was not taken yet.
  get bytes() {
    if (this.parts.length !== 1) this.parts = [Buffer.concat(this.parts)];
    return this.parts[0];
  }

  set bytes(b) { this.parts = [b]; }

  wake() { for (const w of this.waiters.splice(0)) w(); }

  send(text) { this.socket.write(text); return this; }

  // A POST of a JSON text.
  post(path, json, headers = '') {
    return this.send(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}`
      + `Content-Length: ${Buffer.byteLength(json)}\r\n\r\n${json}`);
  }

  // Until test(bytes) gives something, or the end of the connection.
  async until(test) {
    for (;;) {
      const v = test?.(this.bytes);
      if (v !== undefined && v !== false) return v;
      if (this.closed || this.ended) return undefined;
      await new Promise((ok) => this.waiters.push(ok));
    }
  }

  async end() {
    await this.until(null);
    this.socket.destroy();
    return this.bytes.toString('latin1');
  }

  // The one answer of a connection that closes behind it.
  async last() {
    await this.until(null);
    this.socket.destroy();
    return parseAnswer(this.bytes);
  }

  // The next whole answer: {status, headers, body (Buffer), chunks (of a chunked one)}; null at the end.
  async answer() {
    const got = await this.until((b) => parseAnswer(b));
    if (!got) return null;
    this.bytes = this.bytes.subarray(got.length);
    return got;
  }

  destroy() { this.socket.destroy(); }
}

export function parseAnswer(b) {
  const split = b.indexOf('\r\n\r\n');
  if (split < 0) return undefined;
  const [first, ...lines] = b.subarray(0, split).toString('latin1').split('\r\n');
  const headers = {};
  for (const l of lines) {
    const c = l.indexOf(':');
    headers[l.slice(0, c).toLowerCase()] = l.slice(c + 1).trim();
  }
  const status = Number(first.split(' ')[1]);
  let at = split + 4;
  if (headers['transfer-encoding'] !== 'chunked') {
    const n = Number(headers['content-length'] ?? 0);
    if (status === 100) return { status, headers, body: Buffer.alloc(0), length: at };
    return b.length < at + n ? undefined : { status, headers, body: b.subarray(at, at + n), length: at + n };
  }
  const chunks = [];
  for (;;) {
    const eol = b.indexOf('\r\n', at);
    if (eol < 0) return undefined;
    const n = parseInt(b.subarray(at, eol).toString('latin1'), 16);
    if (b.length < eol + 2 + n + 2) return undefined;
    if (b.subarray(eol + 2 + n, eol + 4 + n).toString('latin1') !== '\r\n') throw new Error('a chunk without its end');
    if (n === 0) return { status, headers, chunks, body: Buffer.concat(chunks), length: eol + 4 };
    chunks.push(b.subarray(eol + 2, eol + 2 + n));
    at = eol + 4 + n;
  }
}

// The frames of an event stream, strictly: "data: {json}\n\n" and nothing else.
export function frames(text) {
  if (text !== '' && !text.endsWith('\n\n')) throw new Error(`no empty line at the end: ${JSON.stringify(text.slice(-80))}`);
  return text.split('\n\n').slice(0, -1).map((f) => {
    if (!f.startsWith('data: ') || /[\r\n]/.test(f)) throw new Error(`not a frame: ${JSON.stringify(f)}`);
    return f === 'data: [DONE]' ? '[DONE]' : JSON.parse(f.slice(6));
  });
}
