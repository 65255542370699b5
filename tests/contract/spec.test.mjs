// The contract by itself, and against the sources that it must agree with.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../lib/daemon.mjs';
import { check, doc, missing, operations, resolve } from '../lib/spec.mjs';

const skip = missing;

let redocly;
try {
  redocly = await import('@redocly/openapi-core');
} catch (e) {
  console.log(`skip: no linter (${e.code}): npm ci in tests/`);
}

test('the linter finds nothing', { skip: !redocly && 'npm ci was not run in tests/' }, async () => {
  const { lint, loadConfig, BaseResolver } = redocly.default ?? redocly;
  const config = await loadConfig({ configPath: join(root, 'tests/redocly.yaml') });
  const problems = await lint({ ref: join(root, 'openapi.yaml'), config, externalRefResolver: new BaseResolver(config.resolve) });
  assert.deepEqual(problems.map((p) => `${p.location[0].pointer}: ${p.message} (${p.ruleId})`), []);
});

test('every reference leads somewhere', { skip }, () => {
  const walk = (node) => {
    if (node === null || typeof node !== 'object') return;
    if (node.$ref) resolve(node);
    Object.values(node).forEach(walk);
  };
  walk(doc);
});

test('operations have their own ids and a summary', { skip }, () => {
  const ids = operations.map((o) => o.id);
  assert.equal(new Set(ids).size, ids.length);
  for (const o of operations) assert.ok(o.op.summary, o.id);
});

test('every operation that wants a key documents its refusals', { skip }, () => {
  for (const o of operations.filter((x) => (x.op.security ?? doc.security).length))
    for (const status of [401, 403, 429]) assert.ok(o.op.responses[status] ?? o.op.responses.default, `${o.id} ${status}`);
});

test('what wants no key in the contract has scope OPEN in the route table, and nothing else has', { skip }, () => {
  const source = readFileSync(join(root, 'api/route.c'), 'utf8');
  const open = [...source.matchAll(/\{"([A-Z]+)", "([^"]+)", \w+, SCOPE_OPEN,/g)].map((m) => `${m[1]} ${m[2]}`);
  const free = operations.filter((o) => o.op.security?.length === 0).map((o) => `${o.method} ${o.path}`);
  assert.deepEqual(open.sort(), free.sort());
});

test('the route table and the contract name the same operations', { skip }, () => {
  const source = readFileSync(join(root, 'api/route.c'), 'utf8');
  const table = source.match(/routes\[\] = \{([\s\S]*?)\n\};/)[1];
  const routes = [...table.matchAll(/\{"([A-Z]+)", "([^"]+)",/g)].map((m) => `${m[1]} ${m[2]}`);
  assert.ok(routes.length > 10);
  assert.deepEqual(routes.sort(), operations.map((o) => `${o.method} ${o.path}`).sort());
});

test('error codes and types are those of the error table', { skip }, () => {
  const source = readFileSync(join(root, 'daemon/base/err.h'), 'utf8');
  const rows = [...source.matchAll(/XX\([A-Z_]+, +(\d+), "([a-z_]+)", +"([a-z_]+)"\)/g)];
  assert.ok(rows.length > 20);
  const { ErrorCode, ErrorType } = doc.components.schemas;
  assert.deepEqual([...ErrorCode.enum].sort(), rows.map((m) => m[2]).sort());
  const told = [...ErrorCode.description.matchAll(/^\| (\d+) \| `(\w+)` \|/gm)].map((m) => `${m[1]} ${m[2]}`);
  assert.deepEqual(told, rows.map((m) => `${m[1]} ${m[2]}`));
  assert.deepEqual([...ErrorType.enum].sort(), [...new Set(rows.map((m) => m[3]))].sort());
});

test('request examples fit their schemas, unless they show a mistake', { skip }, () => {
  let n = 0;
  for (const o of operations) {
    const media = o.op.requestBody?.content['application/json'];
    for (const [name, e] of Object.entries(media?.examples ?? {})) {
      if (e['x-status'] === 400) continue;
      check(media.schema, e.value, `${o.id} ${name}`);
      n++;
    }
    for (const p of o.parameters)
      for (const [name, e] of Object.entries(p.examples ?? {}))
        if (e['x-status'] !== 400) {
          check(p.schema, e.value, `${o.id} ${p.name} ${name}`);
          n++;
        }
  }
  assert.ok(n > 20);
});

test('schema examples fit their schemas', { skip }, () => {
  for (const [name, s] of Object.entries(doc.components.schemas))
    for (const e of s.examples ?? []) check(`#/components/schemas/${name}`, e, name);
});
