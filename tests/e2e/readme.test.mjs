// What the README tells a newcomer to type, typed: each curl command in its order, and the client's program.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { binary, bundledModel, Daemon, root, scratch } from '../lib/daemon.mjs';
import { hybridFile, metaOf } from '../lib/hybrid.mjs';

const blocks = readFileSync(join(root, 'README.md'), 'utf8').split(/\n(?! {4})/)
  .map((b) => b.replace(/^ {4}/gm, '')).filter((b) => b.trim());
// A command goes on while its quotes are open or its line ends in a backslash or a pipe.
const commands = [];
for (const line of blocks.filter((b) => /^curl /m.test(b)).flatMap((b) => b.split('\n'))) {
  const last = commands.at(-1);
  if (last && (/[\\|]\s*$/.test(last) || last.split("'").length % 2 === 0)) commands.push(`${commands.pop()}\n${line}`);
  else if (line.startsWith('curl ')) commands.push(line);
}
const program = blocks.find((b) => b.includes("from 'openai'"));
const has = (tool) => spawnSync(tool, ['--version']).error === undefined;
const skip = !bundledModel ? 'no bundled model' : !has('curl') || !has('jq') ? 'curl and jq are not installed' : false;
const [major] = process.versions.node.split('.').map(Number);
const installed = existsSync(join(root, 'tests/node_modules/openai'));

let d;
const folder = scratch();
before(async () => {
  if (skip) return;
  const hybrid = join(folder, 'hybrid');
  writeFileSync(hybrid, hybridFile(await metaOf(bundledModel)));
  d = await Daemon.start({ model: bundledModel, args: ['--name', 'tiny', '--hybrid', hybrid] });
});
after(async () => { await d?.stop(); });

const here = (text) => text.replaceAll('localhost:8080', `127.0.0.1:${d.port}`);
function run(file, args, options) {
  return new Promise((ok) => {
    const c = spawn(file, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let out = '';
    for (const s of [c.stdout, c.stderr]) s.setEncoding('utf8').on('data', (x) => { out += x; });
    c.on('close', (code) => ok({ code, out }));
  });
}

test('every curl command of the README does what it says', { skip }, async () => {
  assert.ok(commands.length > 25);
  for (const c of commands) {
    const script = `curl() { command curl --fail-with-body -S "$@"; }\n${here(c)}`;
    const { code, out } = await run('bash', ['-euo', 'pipefail', '-c', script], { cwd: folder, env: { ...process.env, KEY: 'any' } });
    assert.equal(code, 0, `${c}\n${out}`);
  }
  assert.match(readFileSync(join(folder, 'states.svg'), 'utf8'), /^<svg /);
});

test('so does the program with a stock client',
  { skip: skip || (!installed && 'npm ci was not run in tests/') || (major < 20 && 'the openai client needs Node 20') }, async () => {
    const { code, out } = await run(process.execPath, ['--input-type=module', '-e', here(program)], { cwd: join(root, 'tests') });
    assert.equal(code, 0, out);
    assert.ok(out.length > 10);
  });

test('the options that the README names are options', async () => {
  const help = `${(await run(binary, ['serve', '--help'])).out} --help`;
  const daemon = blocks.flatMap((b) => b.split('\n')).filter((l) => l.startsWith('build/release/dreamstated --'));
  const options = daemon.flatMap((l) => l.replace(/#.*/, '').match(/--[a-z-]+/g));
  assert.ok(options.length > 5);
  for (const o of options) assert.ok(help.includes(o), o);
});
