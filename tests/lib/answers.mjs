// What an answer (or the promise of one, as Daemon.fetch gives it) must be.
import assert from 'node:assert/strict';

// Its JSON.
export async function ok(answer, status = 201) {
  const r = await answer;
  assert.equal(r.status, status, r.text);
  return r.json;
}

// The error's message. param undefined: any.
export async function refused(answer, status, code, param) {
  const { json, status: got, text } = await answer;
  assert.deepEqual([got, json.error.code], [status, code], text);
  if (param !== undefined) assert.equal(json.error.param, param, text);
  return json.error.message;
}
