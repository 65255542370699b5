import { Dit } from './dit.mjs';
import { safetensors } from './model.mjs';

// A diffuser's file with random weights for any model: small, quick, and good for nothing but tests.
// meta: of the model as GET /v1/models has it.
export function diffuserFile(meta, { seed = 1, labels = ['sea', 'land'], shifts = true, change = () => {} } = {}) {
  const { n_layer: L, n_embd: E, head_size: N } = meta;
  const [C, K, F, blocks] = [32, 8, 64, 2];
  const H = E / N, tokens = L * H + (shifts ? 2 * L : 0);
  const d = new Dit(seed);
  d.transformer({ n: tokens, D: K, C, F, blocks, labels: labels.length, cond: E });
  d.f32('codec.mean', [L * E * (N + 2)], () => 0.1 * d.random());
  d.f32('codec.scale', [tokens], () => 1);
  d.f16('codec.basis', [L * H, K, N * N]);
  if (shifts) d.f16('codec.shift_basis', [2 * L, K, E]);
  d.f32('cond.mean', [E], () => 0);
  d.f32('cond.scale', [E], () => 1);
  change(d.tensors);
  return safetensors(d.tensors, {
    format: 'dreamstate-diffuser-1', fingerprint: meta.fingerprint, schedule: 'cosine', prediction: 'v', labels: labels.map((l) => `${l}\n`).join(''),
    n_layer: `${L}`, n_embd: `${E}`, head_size: `${N}`, 'dit.n_head': '2', 'dit.n_block': `${blocks}`, steps: '7' });
}
