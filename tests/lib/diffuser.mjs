import { safetensors } from './model.mjs';

// A diffuser's file with random weights for any model: small, quick, and good for nothing but tests.
// meta: of the model as GET /v1/models has it.
export function diffuserFile(meta, { seed = 1, labels = ['sea', 'land'], shifts = true, change = () => {} } = {}) {
  const { n_layer: L, n_embd: E, head_size: N } = meta;
  const [C, K, F, T, blocks] = [32, 8, 64, 256, 2];
  const H = E / N, tokens = L * H + (shifts ? 2 * L : 0);
  let s = seed;
  const random = () => { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; return s / 2 ** 31 - 1; };
  const tensors = {};
  const f32 = (name, shape, of) => {
    const n = shape.reduce((a, b) => a * b), data = Buffer.alloc(4 * n);
    for (let i = 0; i < n; i++) data.writeFloatLE(of(), 4 * i);
    tensors[name] = { dtype: 'F32', shape, data };
  };
  // 1/8 or -1/8
  const f16 = (name, shape) => {
    const n = shape.reduce((a, b) => a * b), data = Buffer.alloc(2 * n);
    for (let i = 0; i < n; i++) data.writeUInt16LE(random() > 0 ? 0x3000 : 0xb000, 2 * i);
    tensors[name] = { dtype: 'F16', shape, data };
  };
  const linear = (name, out, from) => {
    f32(`${name}.weight`, [out, from], () => random() / Math.sqrt(from));
    f32(`${name}.bias`, [out], () => 0.1 * random());
  };
  f32('x_proj.weight', [tokens, K, C], () => random() / Math.sqrt(K));
  f32('x_proj.bias', [tokens, C], () => 0.1 * random());
  for (const [name, from] of [['t_embed.0', T], ['t_embed.2', C], ['cond_embed.0', E], ['cond_embed.2', C]]) linear(name, C, from);
  f32('label_embed.weight', [labels.length + 1, C], random);
  linear('final.adaln', 2 * C, C);
  f32('final.out.weight', [tokens, C, K], () => random() / Math.sqrt(C));
  f32('final.out.bias', [tokens, K], () => 0.1 * random());
  for (let b = 0; b < blocks; b++)
    for (const [name, out, from] of [['adaln', 6 * C, C], ['qkv', 3 * C, C], ['proj', C, C], ['fc1', F, C], ['fc2', C, F]])
      linear(`blocks.${b}.${name}`, out, from);
  f32('codec.mean', [L * E * (N + 2)], () => 0.1 * random());
  f32('codec.scale', [tokens], () => 1);
  f16('codec.basis', [L * H, K, N * N]);
  if (shifts) f16('codec.shift_basis', [2 * L, K, E]);
  f32('cond.mean', [E], () => 0);
  f32('cond.scale', [E], () => 1);
  change(tensors);
  return safetensors(tensors, {
    format: 'dreamstate-diffuser-1', fingerprint: meta.fingerprint, schedule: 'cosine', prediction: 'v', labels: labels.map((l) => `${l}\n`).join(''),
    n_layer: `${L}`, n_embd: `${E}`, head_size: `${N}`, 'dit.n_head': '2', 'dit.n_block': `${blocks}`, steps: '7' });
}
