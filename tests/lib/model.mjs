// A byte model with random weights: the vocabulary of rwkv7-rand cut to its first 256 rows.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { randModel, scratch } from './daemon.mjs';

export function readSafetensors(path) {
  const file = Buffer.isBuffer(path) ? path : readFileSync(path);
  const n = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + n).toString('utf8'));
  const tensors = {};
  for (const [name, t] of Object.entries(header))
    if (name !== '__metadata__')
      tensors[name] = { ...t, data: file.subarray(8 + n + t.data_offsets[0], 8 + n + t.data_offsets[1]) };
  return tensors;
}

// A file's bytes. metadata: an object of strings.
export function safetensors(tensors, metadata) {
  const header = metadata ? { __metadata__: metadata } : {};
  let at = 0;
  for (const [name, t] of Object.entries(tensors)) {
    header[name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, at + t.data.length] };
    at += t.data.length;
  }
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, Buffer.from(text), ...Object.values(tensors).map((t) => t.data)]);
}

export function writeSafetensors(path, tensors) {
  writeFileSync(path, safetensors(tensors));
}

// The bytes of a stored state by tensor, without its logits.
export async function stateTensors(d, ref) {
  const { body } = await d.get(`/v1/states/${ref}/data`);
  return Object.fromEntries(Object.entries(readSafetensors(body)).filter(([k]) => k !== 'logits').map(([k, t]) => [k, t.data]));
}

// change(tensors): a way to make another model of the same shape.
export function byteModel(name = 'bytes.safetensors', change = () => {}) {
  const tensors = readSafetensors(randModel);
  for (const key of ['emb.weight', 'head.weight']) {
    const t = tensors[key];
    tensors[key] = { dtype: t.dtype, shape: [256, t.shape[1]], data: t.data.subarray(0, 256 * t.shape[1] * 4) };
  }
  change(tensors);
  const path = join(scratch(), name);
  writeSafetensors(path, tensors);
  return path;
}
