// A third-party chat page in a browser, unchanged: deep-chat from npm, served here from an origin of its own,
// talks to the daemon as to OpenAI. (The component loses text that comes in one read with the end of a stream.)
// SCREENSHOT=file.png keeps a picture of the conversation.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { connect, createServer as listen } from 'node:net';
import { EventEmitter, once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { bundledModel, Daemon } from '../lib/daemon.mjs';

const require = createRequire(import.meta.url);
const executablePath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
  .find((p) => p && existsSync(p));
let chromium, script;
try {
  ({ chromium } = require('playwright-core'));
  script = readFileSync(require.resolve('deep-chat').replace(/[^/]*$/, 'deepChat.bundle.js'));
} catch (e) {
  console.log(`skip: no browser driver or no page (${e.code}): npm ci in tests/`);
}
const skip = !script ? 'playwright-core or deep-chat is not installed' : !executablePath ? 'no Chromium on this machine'
  : !bundledModel ? 'no bundled model' : false;
if (skip) console.log(`skip: ${skip}`);

const flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'];
const said = { model: 'tiny', temperature: 0.6, top_p: 0.9, seed: 5, max_tokens: 150, logit_bias: { 10: false } };

const bytes = (text) => Buffer.byteLength(text);
const flat = (text) => text.replace(/\s+/g, ' ').trim();

// The page: nothing but the component, and where it sends what is said.
const html = (url) => `<!doctype html><meta charset="utf-8"><title>deep-chat</title>
<deep-chat id="chat" style="width: 600px; height: 640px"></deep-chat>
<script type="module">
  import '/deep-chat.js';
  const chat = document.getElementById('chat');
  chat.directConnection = {openAI: {key: 'none', completions: true}};
  chat.connect = {url: '${url}/v1/chat/completions', stream: true, additionalBodyProps: ${JSON.stringify(said)}};
  chat.requestBodyLimits = {maxMessages: -1};
</script>`;

// A way to the daemon that keeps the end of a stream back, from the frame with the finish_reason on, until it is
// let go: what the page shows before came while the answer was on its way.
class Gate extends EventEmitter {
  static async to(port) {
    const g = new Gate();
    g.server = listen((client) => {
      const daemon = connect(port, '127.0.0.1');
      client.on('error', () => daemon.destroy()).pipe(daemon).on('error', () => client.destroy());
      daemon.setEncoding('latin1').on('data', (s) => client.write(g.pass(s, client), 'latin1')).on('end', () => client.end());
    }).listen(0, '127.0.0.1');
    await once(g.server, 'listening');
    g.rest = g.seen = '';
    return g;
  }

  // What of the bytes may go on: whole frames (or no frames at all), none from the last one on.
  pass(bytes, client) {
    this.rest += bytes;
    const end = this.rest.indexOf('"finish_reason":"');
    const cut = end >= 0 ? this.rest.lastIndexOf('data: ', end)
      : this.rest.includes('data: ') ? this.rest.lastIndexOf('\n\n') + 2 : this.rest.length;
    const out = this.rest.slice(0, cut);
    this.rest = this.rest.slice(cut);
    this.seen += out;
    if (end >= 0) this.last = client;
    this.emit('bytes');
    return out;
  }

  // The text that has passed; once the rest is there.
  async text() {
    while (!this.rest.includes('[DONE]')) await once(this, 'bytes');
    return deltas(Buffer.from(this.seen, 'latin1').toString()).map((c) => c.choices[0].delta.content ?? '').join('');
  }

  open() {
    const [rest, client] = [this.rest, this.last];
    this.rest = this.seen = '';
    client.write(rest, 'latin1');
    return deltas(Buffer.from(rest, 'latin1').toString());
  }
}

const deltas = (text) => [...text.matchAll(/^data: (\{.*\})$/gm)].map((m) => JSON.parse(m[1]));

let site, origin, browser;
const daemons = [], gates = [];
before(async () => {
  if (skip) return;
  site = createServer((req, res) => {
    const [path, query] = req.url.split('?');
    res.setHeader('content-type', path === '/deep-chat.js' ? 'text/javascript' : 'text/html');
    res.end(path === '/deep-chat.js' ? script : html(`http://127.0.0.1:${Number(query)}`));
  }).listen(0, '127.0.0.1');
  await new Promise((ok) => site.on('listening', ok));
  origin = `http://127.0.0.1:${site.address().port}`;
  browser = await chromium.launch({ executablePath, args: flags });
});
after(async () => {
  await browser?.close();
  site?.closeAllConnections?.();
  site?.close();
  for (const g of gates) g.server.close();
  for (const d of daemons) await d.stop();
});

async function open(args) {
  const d = await Daemon.start({ model: bundledModel, args: ['--name', 'tiny', ...args] });
  daemons.push(d);
  const gate = await Gate.to(d.port);
  gates.push(gate);
  const page = await browser.newPage();
  await page.goto(`${origin}/?${gate.server.address().port}`);
  return { d, gate, page };
}

async function say(page, text) {
  await page.locator('#text-input').fill(text);
  await page.locator('#text-input').press('Enter');
}

test('a conversation of several turns, streamed; each turn reads its own message only', { skip, timeout: 120000 }, async () => {
  const { d, gate, page } = await open(['--cors-origins', origin]);
  const messages = [];
  let cached = 0, read = 0;
  for (const [i, text] of ['Who was the king?', 'Where did he go?', 'And then?', 'What did the sea say?'].entries()) {
    messages.push({ role: 'user', content: text });
    const { prompt } = (await d.post('/apply-template', { messages })).json;
    await say(page, text);
    const answer = await gate.text();
    assert.ok(answer.length > 100);
    await page.waitForFunction(([n, a]) => document.getElementById('chat').getMessages().filter((m) => m.role === 'ai')[n]?.text === a,
      [i, answer]);
    assert.equal(flat(await page.locator('.ai-message-text').nth(i).innerText()), flat(answer));

    // All was read before but the new message, and the last token of the answer: sampled, and never read.
    const { timings: { cache_n, prompt_n } } = gate.open().find((c) => c.timings);
    assert.deepEqual([cache_n, prompt_n], [read, bytes(prompt) - read]);
    assert.ok(i === 0 || prompt_n <= bytes(`\n\nUser: ${text}\n\nAssistant:`) + 1);
    cached += cache_n;
    read = bytes(`${prompt} ${answer}`) - 1;
    messages.push({ role: 'assistant', content: answer });
    await page.locator('#stop-icon').waitFor({ state: 'detached' });
  }
  assert.equal(await d.metric('dreamstate_session_tokens_total'), cached);
  assert.equal(await page.locator('.error-message-text').count(), 0);
  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
});

test('a page of an origin that was not named gets nothing, and shows that', { skip, timeout: 120000 }, async () => {
  const { d, page } = await open(['--cors-origins', 'https://elsewhere.example']);
  await say(page, 'Who was the king?');
  await page.locator('.error-message-text').waitFor();
  assert.equal(await d.metric('dreamstate_completions_total'), 0);
});
