// What deploy/ says about the daemon, against the daemon: options, ports, paths, the user. The files
// themselves are parsed, by kubectl and docker-compose too where these are installed.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { binary, root } from '../lib/daemon.mjs';
import { doc, missing } from '../lib/spec.mjs';

const deploy = join(root, 'deploy');
const read = (name) => readFileSync(join(deploy, name), 'utf8');
const manifests = readdirSync(join(deploy, 'kubernetes'));
const parse = async (name) => (await import('yaml')).parse(read(name));
const has = (tool) => spawnSync(tool, ['--help']).error === undefined;

test('every DREAMSTATE_ variable named in deploy/ is an option of the daemon', () => {
  const help = execFileSync(binary, ['serve', '--help'], { encoding: 'utf8' });
  const options = [...help.matchAll(/^ {2}--([a-z-]+)/gm)].map((m) => m[1]);
  const known = new Set(options.map((o) => 'DREAMSTATE_' + o.toUpperCase().replaceAll('-', '_')));
  known.add('DREAMSTATE_API_KEY'); // only in the environment
  for (const name of ['Dockerfile', 'compose.yaml', ...manifests.map((m) => join('kubernetes', m))])
    for (const [variable] of read(name).matchAll(/DREAMSTATE_[A-Z_]+/g))
      assert.ok(known.has(variable), `${name}: ${variable}`);
});

test('the image listens where compose and Kubernetes look, as the user they name', { skip: missing }, async () => {
  const file = read('Dockerfile');
  const port = Number(/DREAMSTATE_LISTEN=0\.0\.0\.0:(\d+)/.exec(file)[1]);
  const [, user, group] = /^USER (\d+):(\d+)$/m.exec(file);
  assert.equal(Number(/^EXPOSE (\d+)$/m.exec(file)[1]), port);
  assert.match(file, new RegExp(`^VOLUME ${/DREAMSTATE_DATA=(\S+)/.exec(file)[1]}$`, 'm'));

  const { services: { dreamstate: service } } = await parse('compose.yaml');
  assert.ok(service.ports.every((p) => p.endsWith(`:${port}`)));
  assert.equal(service.read_only, true);

  const { spec: { template: { spec: pod } } } = await parse('kubernetes/statefulset.yaml');
  const [container] = pod.containers;
  assert.deepEqual([pod.securityContext.runAsUser, pod.securityContext.fsGroup], [Number(user), Number(group)]);
  assert.equal(container.ports[0].containerPort, port);
  assert.equal(container.securityContext.readOnlyRootFilesystem, true);
  for (const probe of ['startupProbe', 'livenessProbe', 'readinessProbe'])
    assert.ok(doc.paths[container[probe].httpGet.path]?.get, `${probe}: no such path in openapi.yaml`);
});

test('kubectl renders the manifests', { skip: !has('kubectl') && 'no kubectl here' }, () => {
  const out = execFileSync('kubectl', ['kustomize', join(deploy, 'kubernetes')], { encoding: 'utf8' });
  for (const kind of ['ConfigMap', 'Service', 'StatefulSet']) assert.match(out, new RegExp(`^kind: ${kind}$`, 'm'));
});

test('docker-compose accepts compose.yaml', { skip: !has('docker-compose') && 'no docker-compose here' }, () => {
  execFileSync('docker-compose', ['-f', join(deploy, 'compose.yaml'), 'config']);
});
