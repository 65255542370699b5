// What operators use beside the API: TLS, the dashboard, the unit file.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { Daemon, binary, root, scratch } from '../lib/daemon.mjs';
import { byteModel } from '../lib/model.mjs';

const model = byteModel();
const dir = scratch();
const [cert, key] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
const certify = (to) => spawnSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', to, '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'], { encoding: 'utf8' });
const other = join(dir, 'other.pem');
certify(other);
const made = certify(cert); // the key is this one's
const skip = made.status === 0 ? false : 'openssl is not installed, or made no certificate';
if (skip) console.log(`skip: ${skip}`);

function serve(args) {
  return spawn(binary, ['serve', '--model', model, '--listen', '127.0.0.1:0', '--data', scratch(), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
}

function ask(port, method, path, body) {
  return new Promise((ok, fail) => {
    const r = request({ host: '127.0.0.1', port, method, path, ca: readFileSync(cert), headers: body ? { 'content-type': 'application/json', 'content-length': body.length } : {} }, (res) => {
      let text = '';
      res.on('data', (c) => { text += c; }).on('end', () => ok({ status: res.statusCode, text }));
    });
    r.on('error', fail);
    r.end(body);
  });
}

// healthcheck, in the way a container asks for it.
function check(args, pin = '') {
  return spawnSync(binary, ['healthcheck', ...args], { encoding: 'utf8', env: { ...process.env, DREAMSTATE_TLS_CERT: pin } });
}

test('TLS: answers, streams, a clean end; nothing in clear text', { skip }, async () => {
  const child = serve(['--tls-cert', cert, '--tls-key', key]);
  const exited = new Promise((ok) => child.on('exit', ok));
  child.stderr.resume();
  const port = await new Promise((ok) => child.stdout.on('data', (s) => ok(Number(/^listening on https:\/\/127\.0\.0\.1:(\d+)$/m.exec(s)[1]))));
  try {
    assert.deepEqual(await ask(port, 'GET', '/health'), { status: 200, text: '{"status":"ok"}' });
    const whole = await ask(port, 'POST', '/v1/completions', '{"prompt":"a","max_tokens":5,"seed":1}');
    assert.equal(JSON.parse(whole.text).usage.completion_tokens, 5);
    const stream = await ask(port, 'POST', '/v1/completions', '{"prompt":"a","max_tokens":5,"seed":1,"stream":true}');
    assert.match(stream.text, /data: \[DONE\]\n\n$/);
    await assert.rejects(fetch(`http://127.0.0.1:${port}/health`));
    assert.equal(check([`127.0.0.1:${port}`], cert).status, 0);
    assert.equal(check([`https://127.0.0.1:${port}/health`], cert).status, 0);
    assert.match(check([`https://127.0.0.1:${port}`]).stderr, /certificate/); // no authority vouches for it
    assert.match(check([`127.0.0.1:${port}`], other).stderr, /is not that of/);
    assert.equal(check([`http://127.0.0.1:${port}`], cert).status, 1);
  } finally {
    child.kill('SIGTERM');
  }
  assert.equal(await exited, 0);
});

test('TLS: a wrong certificate or key is told at the start', { skip }, async () => {
  const bad = join(dir, 'bad.pem');
  writeFileSync(bad, 'no certificate\n');
  for (const args of [['--tls-cert', cert], ['--tls-cert', bad, '--tls-key', key], ['--tls-cert', cert, '--tls-key', join(dir, 'none')]]) {
    const child = serve(args);
    let err = '';
    child.stderr.on('data', (s) => { err += s; });
    child.stdout.resume();
    assert.equal(await new Promise((ok) => child.on('close', ok)), 1, args.join(' '));
    assert.match(err, /^dreamstated: .*(tls|none)/m);
  }
});

test('every metric of the dashboard is one', async () => {
  const d = await Daemon.start({ model });
  try {
    await d.complete({ prompt: 'a', max_tokens: 1 });
    const { text } = await d.get('/metrics');
    const there = new Set([...text.matchAll(/^(\w+)(?:\{| )/gm)].map((m) => m[1]));
    const board = JSON.parse(readFileSync(join(root, 'deploy/grafana.json'), 'utf8'));
    const named = [...JSON.stringify(board).matchAll(/dreamstate_\w+/g)].map((m) => m[0]);
    assert.ok(named.length > 20);
    assert.deepEqual(named.filter((m) => !there.has(m)), []);
    for (const p of board.panels) for (const t of p.targets) assert.equal(t.expr.split('(').length, t.expr.split(')').length, t.expr);
  } finally {
    await d.stop();
  }
});

test('the unit file starts the program as it is', async () => {
  const unit = readFileSync(join(root, 'deploy/dreamstated.service'), 'utf8');
  const [, words] = /^ExecStart=\/usr\/local\/bin\/dreamstated (.*)$/m.exec(unit);
  const conf = join(dir, 'dreamstated.conf');
  writeFileSync(conf, `model = ${model}\nlisten = 127.0.0.1:0\n`);
  const args = words.split(' ').map((w) => (w === '/etc/dreamstated.conf' ? conf : w === '/var/lib/dreamstated' ? scratch() : w));
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  await new Promise((ok) => child.stdout.once('data', ok));
  child.kill('SIGTERM');
  assert.equal(await new Promise((ok) => child.on('exit', ok)), 0);
  assert.match(unit, /^Type=notify$/m);
});
