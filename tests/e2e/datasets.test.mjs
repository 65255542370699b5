// Data sets of texts: grown by appending, durable, bounded, hostile lines refused by their number.
import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const running = new Set();
after(async () => { for (const d of running) await d.kill(); });

async function start(options) {
  const d = await Daemon.start({ model, ...options });
  running.add(d);
  return d;
}

const line = (o) => JSON.stringify({ text: 'Call me Ishmael.', label: 'sea', ...o });
const add = (d, name, body, query = '', type = 'application/jsonl') =>
  d.fetch('POST', `/v1/datasets/${name}${query}`, body, { 'content-type': type });

test('hostile lines are refused with their number, and nothing of their request is kept', async () => {
  const d = await start();
  assert.equal((await add(d, 'kept', line())).status, 201);
  const before = (await d.get('/v1/datasets/kept')).json;
  const bad = [
    ['{', null], ['[]', null], ['3', null], ['{"text": "a", "text": "b", "label": "l"}', null], ['{"label": "l"}', 'text'], [line({ text: '' }), 'text'],
    [line({ text: 7 }), 'text'], [line({ text: 'a\0b' }), 'text'], [line({ label: undefined }), 'label'], [line({ label: '' }), 'label'],
    [line({ label: 'a/' }), 'label'], [line({ label: '/b' }), 'label'], [line({ label: 'a/b/c' }), 'label'], [line({ label: 'a\nb' }), 'label'],
    [line({ label: 'x'.repeat(65) }), 'label'], [line({ document: 'x'.repeat(129) }), 'document'], [line({ document: 'a\tb' }), 'document'],
    [line({ text: 'x'.repeat((4 << 20) + 1) }), 'text'], ['{"text": "\\ud800", "label": "l"}', null], [`{"a": ${'['.repeat(99)}`, null],
  ];
  for (const [l, param] of bad) {
    const r = await add(d, 'kept', `${line()}\n\n${l}\n${line()}\n`);
    assert.equal(r.status, 400, l.slice(0, 60));
    assert.match(r.json.error.message, /^line 3: /);
    assert.equal(r.json.error.param, param, l.slice(0, 60));
  }
  for (const body of ['', '\n\n', '\r\n']) assert.equal((await add(d, 'kept', body)).status, 400);
  const many = Array.from({ length: 256 }, (_, i) => line({ label: `l${i}` })).join('\n');
  const r = await add(d, 'kept', many); // with `sea` one too many
  assert.deepEqual([r.status, r.json.error.param], [400, 'label']);
  assert.equal((await add(d, 'kept', 'text', '', 'text/plain')).json.error.param, 'label');
  assert.equal((await add(d, 'kept', Buffer.from([0x61, 0xff]), '?label=a', 'text/plain')).status, 400);
  assert.equal((await add(d, 'kept', 'a\0b', '?label=a', 'text/plain')).status, 400);
  assert.equal((await add(d, 'x'.repeat(120), line())).status, 400);
  assert.deepEqual((await d.get('/v1/datasets/kept')).json, before);
  assert.equal((await add(d, 'full', many)).json.texts, 256);
  await d.stop();
});

test('what was answered outlives kill -9, what was not is not half there', async () => {
  const data = scratch();
  let d = await start({ data });
  let known = 0;
  for (let round = 0; round < 4; round++) {
    const answered = [];
    let going = true;
    const writers = [0, 1, 2].map(async (k) => {
      while (going) {
        const r = await add(d, 'voices', Array(20 + k).fill(line({ label: `l${k}` })).join('\n')).catch(() => null);
        if (!r) return;
        assert.ok(r.status < 300, r.text);
        answered.push(r.json.texts);
      }
    });
    while (answered.length < 6) await d.get('/health');
    await d.kill();
    going = false;
    await Promise.all(writers);
    d = await start({ data });
    const { json } = await d.get('/v1/datasets/voices');
    known = Math.max(known, ...answered);
    assert.ok(json.texts >= known && json.texts <= known + 3 * 22, `${json.texts} after ${known}`);
    assert.equal(json.bytes, 16 * json.texts);
    assert.equal(Object.values(json.labels).reduce((n, l) => n + l.texts, 0), json.texts);
    known = json.texts;
  }
  assert.equal((await add(d, 'voices', line())).json.texts, known + 1);
  assert.deepEqual((await d.get('/v1/datasets')).json.data.map((s) => s.name), ['voices']);
  assert.equal((await d.fetch('DELETE', '/v1/datasets/voices')).status, 200);
  await d.kill();
  d = await start({ data });
  assert.equal((await d.get('/v1/datasets/voices')).json.error.code, 'dataset_not_found');
  assert.equal((await add(d, 'voices', line())).json.texts, 1); // nothing of the old one
  await d.stop();
});

test('a quota is kept to', async () => {
  const d = await start({ args: ['--dataset-bytes', '100000'] });
  const big = line({ text: 'x'.repeat(60000) });
  assert.equal((await add(d, 'one', big)).status, 201);
  const r = await add(d, 'two', big);
  assert.deepEqual([r.status, r.json.error.code], [507, 'storage_full']);
  assert.equal((await d.get('/v1/datasets/two')).status, 404);
  assert.equal((await add(d, 'two', line())).status, 201);
  assert.equal((await d.fetch('DELETE', '/v1/datasets/one')).status, 200);
  assert.equal((await add(d, 'two', big)).status, 200);
  await d.stop();
});
