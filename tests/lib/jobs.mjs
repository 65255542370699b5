// Jobs: made, and followed by their events.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { after } from 'node:test';
import { Daemon } from './daemon.mjs';

// Starts daemons of two threads on a model; those that a test leaves running are killed at the file's end.
export function starter(model) {
  const running = new Set();
  after(async () => { for (const d of running) await d.kill(); });
  return async (options) => {
    const d = await Daemon.start({ model, ...options, args: ['--threads', '2', ...(options?.args ?? [])] });
    running.add(d);
    return d;
  };
}

export async function make(d, body) {
  const r = await d.post('/v1/jobs', body);
  assert.equal(r.status, 202, r.text);
  assert.equal(r.headers.location, `/v1/jobs/${r.json.id}`);
  return r.json.id;
}

// Follows a job until `until(event)` or the end of the stream; the events that came, '[DONE]' among them.
export function follow(d, id, until = () => false) {
  return new Promise((ok, fail) => {
    const events = [];
    let rest = '';
    const req = request(`${d.url}/v1/jobs/${id}/events`, (res) => {
      assert.equal(res.headers['content-type'], 'text/event-stream');
      res.setEncoding('utf8').on('data', (s) => {
        const parts = (rest + s).split('\n\n');
        rest = parts.pop();
        for (const p of parts) {
          const data = p.replace(/^data: /, '');
          events.push(data === '[DONE]' ? data : JSON.parse(data));
          if (data !== '[DONE]' && until(events.at(-1))) {
            req.destroy();
            ok(events);
          }
        }
      }).on('end', () => ok(events)).on('error', () => ok(events));
    });
    req.on('error', (e) => (events.length ? ok(events) : fail(e)));
    req.end();
  });
}

// The job at its end.
export const ended = async (d, id) => (await follow(d, id)).at(-2);
// One that succeeds.
export async function done(d, body) {
  const last = await ended(d, await make(d, body));
  assert.equal(last.status, 'succeeded', JSON.stringify(last));
  return last;
}
