#!/usr/bin/env python3
"""The diffusion transformer of engine/dit in plain PyTorch: how fast it trains and samples.

    apt-get install python3-torch
    /usr/bin/python3 tests/bench/dit_torch.py [--threads N] [--bf16] [4x192 ...]      beside: dreamstated bench speed --dit

The same blocks (adaLN-Zero, attention of all tokens, MLP with GELU by tanh), a matrix in and one out for each token, the
timestep's sinusoid, a vector and a label as conditions; F32, or with --bf16 training under autocast and sampling with the
weights in BF16. The same training: batches of noised random coordinates, cosine
schedule, prediction of v, gradient clipped to norm 1, AdamW, average of the weights. The same sampling: 20 steps of DDIM,
guidance 1.5, both conditions in one call. Measured as `bench speed --dit` measures ours; encoding and decoding of states,
which are in ours, are left out. Of what PyTorch offers for the same thing the faster was taken.

OpenBLAS's threads and PyTorch's hinder each other unless both are OpenMP's (159 instead of 501 states/s of training): install
libopenblas0-openmp too, or unpack its package and set LD_LIBRARY_PATH to its folder openblas-openmp.
"""
import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time

# states (layers, width, head size), batch, steps of training, width, heads: dit_shapes of daemon/bench_speed.c
SHAPES = [(4, 192, 32, 64, 12, 160, 5), (12, 768, 64, 16, 6, 256, 4), (24, 1024, 64, 8, 4, 256, 4)]
BLOCKS, COMPONENTS, LABELS, FREQ, TIMESTEPS, STEPS, WARM_UP, TOGETHER = 4, 64, 1, 256, 1000, 20, 2, 16


def network(torch, n, D, Y, C, H):
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.adaln, self.qkv, self.proj = nn.Linear(C, 6 * C), nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.fc1, self.fc2 = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x, cs):
            S = x.shape[0]
            shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(cs).unsqueeze(1).chunk(6, -1)
            h = torch.addcmul(shift1, F.layer_norm(x, (C,), eps=1e-6), 1 + scale1)
            q, k, v = self.qkv(h).view(S, n, 3, H, C // H).permute(2, 0, 3, 1, 4)
            p = torch.softmax((q * (C // H) ** -0.5) @ k.transpose(-1, -2), -1)
            x = torch.addcmul(x, gate1, self.proj((p @ v).transpose(1, 2).reshape(S, n, C)))
            h = torch.addcmul(shift2, F.layer_norm(x, (C,), eps=1e-6), 1 + scale2)
            return torch.addcmul(x, gate2, self.fc2(F.gelu(self.fc1(h), approximate='tanh')))

    class Dit(nn.Module):
        def __init__(self):
            super().__init__()
            def normal(*shape):
                return nn.Parameter(0.02 * torch.randn(*shape))
            self.x_w, self.x_b, self.out_w, self.out_b = normal(n, D, C), normal(n, C), normal(n, C, D), normal(n, D)
            self.t_embed = nn.Sequential(nn.Linear(FREQ, C), nn.SiLU(), nn.Linear(C, C))
            self.cond_embed = nn.Sequential(nn.Linear(Y, C), nn.SiLU(), nn.Linear(C, C))
            self.label_embed = normal(LABELS + 1, C)
            self.adaln = nn.Linear(C, 2 * C)
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.register_buffer('freq', torch.exp(-math.log(10000) * torch.arange(FREQ // 2) / (FREQ // 2)))

        # x [S, n, D], t [S], vectors [S, Y], label [S] (below 0: the vector)
        def forward(self, x, t, vector, label):
            a = t[:, None] * self.freq
            y = torch.where(label[:, None] < 0, self.cond_embed(vector), self.label_embed[label.clamp(min=0)])
            cs = F.silu(self.t_embed(torch.cat([a.cos(), a.sin()], -1).to(self.x_w.dtype)) + y)
            x = torch.bmm(x.transpose(0, 1), self.x_w).transpose(0, 1) + self.x_b
            for b in self.blocks:
                x = b(x, cs)
            shift, scale = self.adaln(cs).unsqueeze(1).chunk(2, -1)
            h = torch.addcmul(shift, F.layer_norm(x, (C,), eps=1e-6), 1 + scale)
            return torch.bmm(h.transpose(0, 1), self.out_w).transpose(0, 1) + self.out_b

    return Dit()


def alpha_bar(torch):
    f = torch.cos((torch.arange(TIMESTEPS + 1) / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0)


def train(torch, net, ab, shape, bf16):
    batch, steps, (n, D, Y) = shape
    average = [p.detach().clone() for p in net.parameters()]
    params = list(net.parameters())
    adam = torch.optim.AdamW(params, lr=2e-3, betas=(0.9, 0.99), weight_decay=0, foreach=True)  # 1.13 has no fused one
    data, vectors = torch.randn(256, n, D), torch.randn(256, Y)

    def step():
        row, t = torch.randint(256, (batch,)), torch.randint(TIMESTEPS, (batch,))
        label = torch.where(torch.rand(batch) < 0.1, LABELS, -1)
        x0, noise = data[row], torch.randn(batch, n, D)
        a, s = ab[t].sqrt()[:, None, None], (1 - ab[t]).sqrt()[:, None, None]
        with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
            out = net(a * x0 + s * noise, t.float(), vectors[row], label).float()
        torch.nn.functional.mse_loss(out, a * noise - s * x0).backward()
        torch.nn.utils.clip_grad_norm_(params, 1)
        adam.step()
        adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_mul_(average, 0.998)
            torch._foreach_add_(average, params, alpha=0.002)

    for _ in range(WARM_UP):
        step()
    begin = time.perf_counter()
    for _ in range(steps - WARM_UP):
        step()
    return (steps - WARM_UP) * batch / (time.perf_counter() - begin)


# Milliseconds a state of S made at once: one call of 2 S a step.
def sample(torch, net, ab, S, shape):
    n, D, Y = shape
    kind = net.x_w.dtype
    begin = time.perf_counter()
    with torch.inference_mode():
        x = torch.randn(S, n, D)
        vector = torch.cat([torch.randn(S, Y), torch.zeros(S, Y)]).to(kind)
        label = torch.cat([torch.full((S,), -1), torch.full((S,), LABELS)])
        times = torch.linspace(0, TIMESTEPS - 1, STEPS).round().long().flip(0)
        for i, t in enumerate(times):
            out, base = net(torch.cat([x, x]).to(kind), t.float().expand(2 * S), vector, label).float().chunk(2)
            v = torch.lerp(base, out, 1.5)
            a, s = ab[t].sqrt(), (1 - ab[t]).sqrt()
            x0, eps = a * x - s * v, s * x + a * v
            prev = ab[times[i + 1]] if i + 1 < STEPS else torch.tensor(1.0)
            x = prev.sqrt() * x0 + (1 - prev).sqrt() * eps
    return (time.perf_counter() - begin) * 1e3 / S


def sgemm(torch):
    a, b, best = torch.randn(2048, 2048), torch.randn(2048, 2048), 0
    for _ in range(5):
        begin = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - begin) / 1e9)
    return best


# One process for each number of threads, since OpenBLAS takes its own from the environment.
def measure(threads, one, bf16, shapes):
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    ab, result = alpha_bar(torch), {'sgemm': sgemm(torch), 'version': torch.__version__, 'shapes': []}
    for layers, width, head, batch, steps, C, H in shapes:
        n = layers * (width // head)
        net, shape = network(torch, n, COMPONENTS, width, C, H), (n, COMPONENTS, width)
        r = {'n_params': sum(p.numel() for p in net.parameters())}
        if not one:
            r['train'] = train(torch, net, ab, (batch, steps, shape), bf16)
        net = copy.deepcopy(net).bfloat16() if bf16 else net
        sample(torch, net, ab, 1, shape)
        S = 1 if one else TOGETHER
        r['ms'] = min(sample(torch, net, ab, S, shape) for _ in range(2))
        flops = 2 * BLOCKS * (n * C * 12 * C + 2 * n * n * C)
        r['gflops'] = 3 * flops * r.get('train', 0) / 1e9
        result['shapes'].append(r)
    print(json.dumps(result))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--bf16', action='store_true')
    p.add_argument('--measure', help=argparse.SUPPRESS)
    p.add_argument('states', nargs='*', help='of 4x192, 12x768 and 24x1024 (all)')
    o = p.parse_args()
    shapes = [s for s in SHAPES if not o.states or f'{s[0]}x{s[1]}' in o.states]
    if o.measure:
        return measure(o.threads, o.measure == 'one', o.bf16, shapes)

    def run(threads, what):
        env = {**os.environ, 'OPENBLAS_NUM_THREADS': str(threads), 'OMP_NUM_THREADS': str(threads)}
        env.setdefault('ATEN_CPU_CAPABILITY', 'avx512')  # its default is AVX2, which is slower
        command = [sys.executable, __file__, '--threads', str(threads), '--measure', what, *(['--bf16'] if o.bf16 else []), *o.states]
        out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
        return json.loads(out.stdout)

    one, all_ = run(1, 'one'), run(o.threads, 'all')
    print(f"PyTorch {one['version']}, {o.threads} threads, {'BF16' if o.bf16 else 'F32'}")
    for name, r, threads in (('1 thread', one, 1), (f'{o.threads} threads', all_, o.threads)):
        print(f"  {'sgemm 2048^3, ' + name:<32} {r['sgemm']:10.4g} GFLOP/s")
    for shape, a, b in zip(shapes, one['shapes'], all_['shapes']):
        print(f"  {f'DiT {shape[0]} x {shape[1]}, width {shape[5]}, training':<32} {b['train']:10.4g} states/s")
        print(f"  {'  parameters':<32} {b['n_params'] / 1e6:10.4g} M")
        print(f"  {'  products of its blocks':<32} {b['gflops']:10.4g} GFLOP/s")
        print(f"  {'  of sgemm':<32} {100 * b['gflops'] / all_['sgemm']:10.4g} %")
        print(f"  {'  a state in 20 steps, 1 thread':<32} {a['ms']:10.4g} ms")
        print(f"  {'  each of 16 together':<32} {b['ms']:10.4g} ms")


if __name__ == '__main__':
    main()
