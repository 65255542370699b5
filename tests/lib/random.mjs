// random(seed): a function r(n) that gives whole numbers from 0 to n - 1, the same for a seed.
export function random(seed) {
  let s = BigInt(seed) * 2654435761n + 1n;
  return (n) => {
    s = (s * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
    return Number((s >> 33n) % BigInt(n));
  };
}
