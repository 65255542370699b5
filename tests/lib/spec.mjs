// openapi.yaml: the document, its operations, a validator for its schemas.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './daemon.mjs';

let yaml, Ajv, formats;
try {
  yaml = await import('yaml');
  Ajv = (await import('ajv/dist/2020.js')).default;
  formats = (await import('ajv-formats')).default;
} catch (e) {
  console.log(`skip: the tests' packages are not installed (npm ci in tests/): ${e.code}`);
}
export const missing = yaml ? false : 'npm ci was not run in tests/';

export const text = readFileSync(join(root, 'openapi.yaml'), 'utf8');
export const doc = yaml ? yaml.parse(text) : { paths: {}, components: { schemas: {} } };

export function resolve(node) {
  while (node?.$ref) {
    const at = node.$ref.replace('#/', '').split('/');
    node = at.reduce((o, k) => o?.[k.replaceAll('~1', '/').replaceAll('~0', '~')], doc);
    if (!node) throw new Error(`no ${at.join('/')}`);
  }
  return node;
}

const methods = ['get', 'post', 'put', 'patch', 'delete'];
export const operations = Object.entries(doc.paths).flatMap(([path, item]) =>
  methods.filter((m) => item[m]).map((m) => ({
    path, method: m.toUpperCase(), id: item[m].operationId, op: item[m],
    parameters: [...(item.parameters ?? []), ...(item[m].parameters ?? [])].map(resolve),
  })));

const ajv = Ajv && new Ajv({ strict: false, allErrors: true });
if (ajv) {
  formats(ajv);
  ajv.addSchema({ $id: 'spec', ...doc });
}

// Throws with every difference. pointer: '#/components/schemas/Error', or a schema of the document.
export function check(schema, value, what) {
  const validate = ajv.compile(typeof schema === 'string' ? { $ref: `spec${schema}` } : absolute(schema));
  if (!validate(value))
    throw new Error(`${what}: ${ajv.errorsText(validate.errors, { separator: '\n  ' })}\n${JSON.stringify(value).slice(0, 600)}`);
}

// Does the schema take the value?
const known = new Map();
export function accepts(schema, value) {
  if (!known.has(schema)) known.set(schema, ajv.compile(absolute(schema)));
  return known.get(schema)(value);
}

// The same schema with its references made to point into the document.
function absolute(node) {
  if (Array.isArray(node)) return node.map(absolute);
  if (node === null || typeof node !== 'object') return node;
  return Object.fromEntries(Object.entries(node).map(([k, v]) =>
    [k, k === '$ref' && v.startsWith('#') ? `spec${v}` : absolute(v)]));
}

// What an answer must be by the contract: status documented, headers, type, schema. Returns the status's key.
export function checkAnswer(op, r, what) {
  const key = op.op.responses[r.status] ? String(r.status) : 'default';
  const want = resolve(op.op.responses[key]);
  if (!want) throw new Error(`${what}: status ${r.status} is not documented: ${r.text.slice(0, 300)}`);
  if (key === 'default' && r.status < 400) throw new Error(`${what}: ${r.status} is not documented`);
  for (const [name, h] of Object.entries(want.headers ?? {})) {
    const value = r.headers[name.toLowerCase()];
    const { schema, required } = resolve(h);
    if (value === undefined && required === false) continue;
    if (value === undefined) throw new Error(`${what}: no header ${name}`);
    check(schema, schema.type === 'integer' ? Number(value) : value, `${what}: ${name}`);
  }
  if (!want.content) {
    if (r.text !== '') throw new Error(`${what}: ${r.status} has a body`);
    return key;
  }
  const type = r.headers['content-type'];
  const media = want.content[type];
  if (!media) throw new Error(`${what}: content type ${type} is not documented`);
  if (type === 'application/json') check(media.schema, r.json, what);
  return key;
}
