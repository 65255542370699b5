import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Daemon } from './daemon.mjs';
import { Dit } from './dit.mjs';
import { byteModel, safetensors } from './model.mjs';

// The file of a hybrid with random weights for any model: it moves every vector, by something that depends on the context,
// and is good for nothing but tests. rank: of its low-rank additions. meta: of the model as GET /v1/models has it.
export function hybridFile(meta, { seed = 1, rank = 0, C = 16, F = 32, blocks = 2, change = () => {} } = {}) {
  const { n_layer: L, n_embd: E, head_size: N } = meta;
  const d = new Dit(seed), groups = 6 + 6 * rank;
  d.transformer({ n: (L * E) / N, D: groups * N, C, F, blocks, context: E + 2 });
  d.f32('alpha', [L, groups], () => 0);
  d.f32('scale', [L, groups], () => 0.2);
  d.f32('context.mean', [E + 2], () => 0);
  d.f32('context.scale', [E + 2], () => 1);
  change(d.tensors);
  return safetensors(d.tensors, {
    format: 'dreamstate-hybrid-1', fingerprint: meta.fingerprint, n_layer: `${L}`, n_embd: `${E}`, head_size: `${N}`, max_context: '8',
    sampling_steps: '1', 'dit.n_embd': `${C}`, 'dit.n_head': '2', 'dit.n_block': `${blocks}`, 'dit.n_mlp': `${F}`, steps: '7',
    ...(rank && { rank: `${rank}` }) });
}

// What GET /v1/models says of a model.
export async function metaOf(model) {
  let meta;
  await Daemon.with({ model }, async (d) => { meta = (await d.get('/v1/models?limit=0')).json.data[0].meta; });
  return meta;
}

// A byte model with a hybrid beside it, as a user has them in a folder.
export async function hybridModel(options) {
  const model = byteModel();
  writeFileSync(join(dirname(model), 'hybrid.safetensors'), hybridFile(await metaOf(model), options));
  return model;
}
