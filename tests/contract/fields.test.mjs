// Every field of every operation with every kind of wrong value: from the schemas of openapi.yaml, at all depths.
// A value that the field's schema refuses gets a 4xx whose `param` names a field, soon; never a 5xx, never a success,
// never silence. The same of the parameters in the query. (Numbers too large for JSON's reader are no field's fault.)
//
// Each field gets a third of the values, the next one the next third; CHECK_MODE=full: all of them.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { Daemon } from '../lib/daemon.mjs';
import { hybridModel } from '../lib/hybrid.mjs';
import { accepts, check, missing, operations, resolve } from '../lib/spec.mjs';

const skip = missing;
const share = process.env.CHECK_MODE === 'full' ? 1 : 3;
let d;
before(async () => {
  if (skip) return;
  d = await Daemon.start({ model: await hybridModel(), args: ['--log-level', 'warn', '--max-queue', '1000'] });
  for (const name of ['captain', 'note']) assert.equal((await d.post('/v1/states', { name, text: name })).status, 201);
});
after(async () => { await d?.stop(); });

// Numbers that JSON can say and JavaScript can not stand as texts behind a mark, and lose their quotes when sent.
const RAW = '#raw#';
const values = [
  true, false, -1, 0, 0.5, 1.5, 101, 1e300, -1e300, 4294967297, 2 ** 53 + 2, `${RAW}18446744073709551616`, `${RAW}1e999`,
  '', 'x', 'true', 'a b', '../x', 'a@0', 'a@-1', 'Zo\u00eb \u{1f40b}', 'a\u0000b', '\uffff', 'x'.repeat(129),
  [], [[]], [null], [true], [-1], [0.5], [4294967297], ['x', 1], [''], [['x']], [{}], [{ x: 1 }], Array(5001).fill(0.5),
  {}, { x: 1 }, { data: 1 }, { type: 'x' }, { '': null }, { name: 'a b' }, { name: 'captain', version: 0 }, JSON.parse(`${'{"x":'.repeat(20)}1${'}'.repeat(20)}`),
];

const send = (body) => JSON.stringify(body).replace(new RegExp(`"${RAW}([^"]*)"`, 'g'), '$1');
const meant = (v) => (typeof v === 'string' && v.startsWith(RAW) ? Number(v.slice(RAW.length)) : v);
const shown = (v) => (JSON.stringify(v) ?? 'absent').slice(0, 60);

// [name, schema] of an object's fields, through allOf and the alternatives that are objects.
function fields(node) {
  const s = resolve(node);
  return [...Object.entries(s.properties ?? {}), ...[...(s.allOf ?? []), ...(s.oneOf ?? []), ...(s.anyOf ?? [])].flatMap(fields)];
}

function required(node) {
  const s = resolve(node);
  return [...(s.required ?? []), ...(s.allOf ?? []).flatMap(required)];
}

// Every place in an example where a field of its schema stands or could stand: {path, schema}. Of the items of lists
// only what stands there: what an operation of an edit takes depends on the operation.
function places(node, value, path = []) {
  const s = resolve(node);
  if (Array.isArray(value)) {
    const item = [s, ...(s.oneOf ?? []), ...(s.anyOf ?? [])].map(resolve).find((x) => x.items && accepts(x, value))?.items;
    return item ? value.flatMap((v, i) => places(item, v, [...path, i])) : [];
  }
  if (value === null || typeof value !== 'object') return [];
  const listed = typeof path.at(-1) === 'number';
  return fields(s).filter(([name]) => !listed || name in value).flatMap(([name, schema]) => [{ path: [...path, name], schema }, ...places(schema, value[name], [...path, name])]);
}

function replaced(body, [first, ...rest], value) {
  const copy = Array.isArray(body) ? [...body] : { ...body };
  if (rest.length) copy[first] = replaced(body[first], rest, value);
  else if (value === undefined) delete copy[first];
  else copy[first] = value;
  return copy;
}

const path = (op) => op.parameters.filter((p) => p.in === 'path').reduce((s, p) => s.replace(`{${p.name}}`, 'captain'), op.path);

// "messages[0].role" names messages and role.
const named = (param, names) => (param === null ? [null] : param.replace(/\[\d+\]/g, '').split('.')).some((x) => names.includes(x));

// What is wrong with the answer to a wrong value; undefined: nothing.
async function fault(op, url, body, names) {
  const late = setTimeout(() => { throw new Error(`no answer: ${op.id} ${body?.slice(0, 200)}`); }, 20000);
  let r;
  do r = await d.fetch(op.method, url, body); // again where one of the others at the same time is writing the same name
  while (r.json?.error?.code === 'state_busy');
  clearTimeout(late);
  if (r.status < 400 || r.status >= 500) return `${r.status} ${r.text.slice(0, 200)}`;
  check('#/components/schemas/Error', r.json, op.id);
  if (r.status === 413) return body?.length > 200000 ? undefined : '413';
  return named(r.json.error.param, names) ? undefined : `param ${r.json.error.param}: ${r.json.error.message}`;
}

class Tried {
  constructor(op) { Object.assign(this, { op, n: 0, flying: [], faults: [] }); }

  // Some at the same time.
  async value(what, v, url, body, names) {
    this.n++;
    this.flying.push(fault(this.op, url, body, names).then((f) => { if (f) this.faults.push(`${what} = ${shown(v)}: ${f}`); }));
    if (this.flying.length === 16) await Promise.all(this.flying.splice(0));
  }

  async end(what) {
    await Promise.all(this.flying);
    console.log(`${this.op.id}: ${what}, ${this.n} refusals`);
    assert.equal(this.faults.length, 0, this.faults.join('\n'));
  }
}

for (const op of operations) {
  const { schema, examples } = op.op.requestBody?.content['application/json'] ?? {};
  if (schema)
    test(`${op.id}: wrong values of every field`, { skip }, async () => {
      const seen = new Set();
      const tried = new Tried(op);
      for (const { value: body } of Object.values(examples).filter((e) => !e['x-status']))
        for (const place of places(schema, body)) {
          const key = place.path.join('.');
          if (seen.has(key)) continue;
          seen.add(key);
          const names = place.path.map(String);
          // What the field names inside of itself is as good, where the value is an object or a list.
          const inner = fields(place.schema).map(([name]) => name);
          for (const [i, v] of values.entries()) {
            if ((i + seen.size) % share) continue;
            const whole = replaced(body, place.path, meant(v));
            if (accepts(schema, whole)) continue;
            await tried.value(key, v, path(op), send(replaced(body, place.path, v)), typeof v === 'string' && v.startsWith(RAW) ? [null] : [...names, ...inner]);
          }
        }
      for (const name of required(schema)) {
        const { value: body } = Object.values(examples).find((e) => !e['x-status']);
        for (const v of [undefined, null]) await tried.value(name, v, path(op), send(replaced(body, [name], v)), [name]);
      }
      await tried.end(`${seen.size} fields`);
    });
  const query = op.parameters.filter((p) => p.in === 'query');
  if (query.length)
    test(`${op.id}: wrong values of every parameter`, { skip }, async () => {
      const tried = new Tried(op);
      for (const p of query)
        for (const v of ['', '-1', '0', '1.5', '1e3', 'x', 'a b', '../x', '99999999999999999999', 'true', '\u00eb', 'x'.repeat(5000), '\u0000']) {
          const as = resolve(p.schema).type === 'integer' && /^-?\d+$/.test(v) ? Number(v) : v;
          if (accepts(p.schema, as)) continue;
          const others = query.filter((o) => o.required && o !== p).map((o) => `${o.name}=fresh&`).join('');
          const url = `${path(op)}?${others}${p.name}=${encodeURIComponent(v)}`;
          await tried.value(p.name, v, url, op.op.requestBody ? 'x' : undefined, [p.name]);
        }
      await tried.end(`${query.length} parameters`);
    });
}
