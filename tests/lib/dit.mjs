// The tensors of a diffusion transformer with random weights (engine/dit/params.h), and makers for those around it.
export class Dit {
  constructor(seed) {
    this.tensors = {};
    let s = seed;
    this.random = () => { s = (Math.imul(s, 1664525) + 1013904223) >>> 0; return s / 2 ** 31 - 1; };
  }

  f32(name, shape, of) {
    const n = shape.reduce((a, b) => a * b), data = Buffer.alloc(4 * n);
    for (let i = 0; i < n; i++) data.writeFloatLE(of(), 4 * i);
    this.tensors[name] = { dtype: 'F32', shape, data };
  }

  // 1/8 or -1/8
  f16(name, shape) {
    const n = shape.reduce((a, b) => a * b), data = Buffer.alloc(2 * n);
    for (let i = 0; i < n; i++) data.writeUInt16LE(this.random() > 0 ? 0x3000 : 0xb000, 2 * i);
    this.tensors[name] = { dtype: 'F16', shape, data };
  }

  linear(name, out, from) {
    this.f32(`${name}.weight`, [out, from], () => this.random() / Math.sqrt(from));
    this.f32(`${name}.bias`, [out], () => 0.1 * this.random());
  }

  // n tokens of D numbers; C, F: widths; cond: of a condition, context: of a context's rows, 0: none.
  transformer({ n, D, C, F, blocks, labels = 0, cond = 0, context = 0 }) {
    const T = 256;
    this.f32('x_proj.weight', [n, D, C], () => this.random() / Math.sqrt(D));
    this.f32('x_proj.bias', [n, C], () => 0.1 * this.random());
    for (const [name, from] of [['t_embed.0', T], ['t_embed.2', C], ...(cond ? [['cond_embed.0', cond], ['cond_embed.2', C]] : [])]) this.linear(name, C, from);
    this.f32('label_embed.weight', [labels + 1, C], this.random);
    this.linear('final.adaln', 2 * C, C);
    this.f32('final.out.weight', [n, C, D], () => this.random() / Math.sqrt(C));
    this.f32('final.out.bias', [n, D], () => 0.1 * this.random());
    for (let b = 0; b < blocks; b++) {
      for (const [name, out, from] of [['adaln', 6 * C, C], ['qkv', 3 * C, C], ['proj', C, C], ['fc1', F, C], ['fc2', C, F]])
        this.linear(`blocks.${b}.${name}`, out, from);
      if (!context) continue;
      this.f32(`blocks.${b}.cross.norm.weight`, [C], () => 1);
      this.f32(`blocks.${b}.cross.norm.bias`, [C], () => 0);
      for (const [name, out, from] of [['q', C, C], ['kv', 2 * C, context], ['proj', C, C]]) this.linear(`blocks.${b}.cross.${name}`, out, from);
    }
  }
}
