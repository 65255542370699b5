// GET /metrics: the format, read strictly, and numbers that are those of the requests sent.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';
import { parse } from '../lib/prometheus.mjs';

let d;
before(async () => { d = await Daemon.start({ model: [`a=${byteModel()}`, `b=${byteModel()}`], args: ['--max-sequences', '2', '--max-queue', '1'] }); });
after(async () => { await d?.stop(); });

async function scrape() {
  const r = await d.get('/metrics');
  assert.equal(r.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
  return parse(r.text);
}

// The sum of the samples that have these labels.
function value(families, name, labels = {}, suffix = '') {
  const f = families.get(name);
  assert.ok(f, name);
  return f.samples.filter((s) => s.suffix === suffix && Object.entries(labels).every(([k, v]) => s.labels[k] === v))
    .reduce((sum, s) => sum + s.value, 0);
}

test('the parser refuses what is wrong', () => {
  const head = '# HELP x_total X.\n# TYPE x_total counter\n';
  parse(`${head}x_total{a="b\\"c"} 1\n`);
  for (const bad of ['x_total 1\n', `${head}y_total 1\n`, `${head}x_total NaN\n`, `${head}x_total{a="b",} 1\n`, `${head}x_total 1\nx_total 2\n`,
    `${head}x_total{a="b" 1\n`, `${head}x_total 1`, '# HELP x X.\n# TYPE x counter\nx 1\n', `${head}${head}`, `${head}x_total -1\n`,
    '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="+Inf"} 1\nh_sum 1\nh_count 1\n',
    '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1"} 2\nh_sum 1\nh_count 2\n'])
    assert.throws(() => parse(bad), undefined, bad);
});

test('every number is that of the requests sent', async () => {
  for (let i = 0; i < 5; i++) await d.complete({ prompt: 'Hello', max_tokens: 4 + i, temperature: 0 });
  const { choices } = await d.complete({ model: 'b', prompt: 'xyz', max_tokens: 8, temperature: 0 });
  const stop = choices[0].text.match(/[ -~]/)?.[0];
  const stopped = stop ? await d.complete({ model: 'b', prompt: 'xyz', max_tokens: 8, temperature: 0, stop }) : null;
  await d.post('/v1/states', { name: 's', text: 'twelve bytes' });
  await d.complete({ prompt: '!', max_tokens: 1, state: 's' });
  await d.post('/v1/embeddings', { input: 'seven b' });
  assert.equal((await d.post('/v1/completions', { prompt: 'a', state: 'nobody' })).status, 404);
  assert.equal((await d.post('/v1/completions', { prompt: 7 })).status, 400);
  const m = await scrape();
  const ended = (model, reason) => value(m, 'dreamstate_completions_ended_total', { model, reason });
  assert.deepEqual(['stop', 'length', 'cancelled', 'error'].map((r) => ended('a', r)), [0, 6, 0, 1]);
  assert.deepEqual(['stop', 'length', 'cancelled', 'error'].map((r) => ended('b', r)), [stopped ? 1 : 0, 1, 0, 0]);
  assert.equal(value(m, 'dreamstate_prompt_tokens_total', { model: 'a' }), 5 * 5 + 12 + 1 + 7);
  assert.equal(value(m, 'dreamstate_prompt_tokens_total', { model: 'b' }), stopped ? 6 : 3);
  assert.equal(value(m, 'dreamstate_cached_tokens_total'), 12);
  assert.equal(value(m, 'dreamstate_predicted_tokens_total', { model: 'a' }), 4 + 5 + 6 + 7 + 8 + 1);
  assert.equal(value(m, 'dreamstate_predicted_tokens_total', { model: 'b' }), 8 + (stopped?.usage.completion_tokens ?? 0));
  const n = stopped ? 9 : 8;
  assert.equal(value(m, 'dreamstate_completions_total'), n);
  assert.equal(value(m, 'dreamstate_completion_seconds', {}, '_count'), n);
  assert.equal(value(m, 'dreamstate_first_token_seconds', {}, '_count'), n - 1);
  assert.equal(value(m, 'dreamstate_completion_predicted_tokens', {}, '_count'), n - 1);
  assert.equal(value(m, 'dreamstate_completion_predicted_tokens', {}, '_sum'), value(m, 'dreamstate_predicted_tokens_total'));
  assert.equal(value(m, 'dreamstate_inter_token_seconds', {}, '_count'), value(m, 'dreamstate_predicted_tokens_total') - (n - 1));
  assert.equal(value(m, 'dreamstate_bakes_total'), 1);
  assert.equal(value(m, 'dreamstate_embeddings_total'), 1);
  assert.equal(value(m, 'dreamstate_states'), 1);
  assert.equal(value(m, 'dreamstate_states_loaded_total'), 1);
  assert.equal(value(m, 'dreamstate_errors_total', { code: 'state_not_found' }), 1);
  const http = (route, status) => value(m, 'dreamstate_http_requests_total', { route, status: String(status) });
  assert.deepEqual([http('/v1/completions', 200), http('/v1/completions', 404), http('/v1/completions', 400), http('/v1/states', 201), http('/v1/embeddings', 200)],
    [n - 1, 1, 1, 1, 1]);
  assert.equal(value(m, 'dreamstate_ready'), 1);
  assert.match(m.get('dreamstate_build_info').samples[0].labels.store, /^sqlite /);
});

test('the queue: what waits, what is refused, what is cancelled', async () => {
  const before = await scrape();
  const long = { prompt: 'a', max_tokens: 1000000 };
  const lost = [1, 2, 3].map(() => d.post('/v1/completions', long).catch((e) => e));
  await d.until('dreamstate_sequences_active', (v) => v === 2);
  await d.until('dreamstate_sequences_waiting', (v) => v === 1); // the third, no longer one of those
  assert.equal((await d.post('/v1/completions', long)).status, 429);
  const full = await scrape();
  assert.equal(value(full, 'dreamstate_sequences_active', { model: 'a' }), 2);
  assert.equal(value(full, 'dreamstate_sequences_active', { model: 'b' }), 0);
  assert.equal(value(full, 'dreamstate_refused_total'), value(before, 'dreamstate_refused_total') + 1);
  assert.equal(value(full, 'dreamstate_completions_total'), value(before, 'dreamstate_completions_total') + 3);
  d.agent.destroy();
  for (const x of lost) assert.ok(await x instanceof Error);
  await d.until('dreamstate_sequences_active', (v) => v === 0);
  const after = await scrape();
  assert.equal(value(after, 'dreamstate_completions_ended_total', { reason: 'cancelled' }), 3);
  assert.equal(value(after, 'dreamstate_cancelled_total'), value(before, 'dreamstate_cancelled_total') + 3);
});

test('the process', async () => {
  const m = await scrape();
  const now = Date.now() / 1000;
  assert.ok(value(m, 'process_resident_memory_bytes') > 1e6);
  assert.ok(value(m, 'process_virtual_memory_bytes') >= value(m, 'process_resident_memory_bytes'));
  assert.ok(value(m, 'process_cpu_seconds_total') > 0);
  assert.ok(value(m, 'process_open_fds') >= 8 && value(m, 'process_open_fds') <= value(m, 'process_max_fds'));
  assert.ok(value(m, 'process_start_time_seconds') <= now && value(m, 'process_start_time_seconds') > now - 600);
});

test('no label but these: their values are few and known', async () => {
  const known = { model: 2, reason: 4, le: 40, code: 60, route: 60, status: 20, version: 1, store: 1 };
  const values = {};
  for (const f of (await scrape()).values())
    for (const s of f.samples)
      for (const [k, v] of Object.entries(s.labels)) (values[k] ??= new Set()).add(v);
  for (const [k, set] of Object.entries(values)) assert.ok(set.size <= (known[k] ?? 0), `${k}: ${[...set]}`);
});
