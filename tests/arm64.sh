#!/usr/bin/env bash
# arm64.sh: cross-compiles everything for 64-bit ARM and runs, under qemu, the tests that depend on the CPU:
# the kernels of each level against C, every format of weights, the golden numbers, determinism. Debian's arm64
# libraries are unpacked in build/arm64-root; nothing of them is installed. What the machine lacks for this is
# printed as the reason of a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
root=build/arm64-root
lib=$root/usr/lib/aarch64-linux-gnu
packages=libc6-dev,libmicrohttpd-dev,libjansson-dev,libuv1-dev,libsqlite3-dev,libopenblas-pthread-dev,zlib1g-dev,nettle-dev,libgnutls28-dev,libcmocka-dev

skip() {
    echo "skip: arm64: $*"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
[ "$(uname -m)" != aarch64 ] || skip "this machine is one: make check tests it"
for tool in aarch64-linux-gnu-gcc qemu-aarch64 mmdebstrap; do
    command -v $tool >/dev/null || skip "no $tool here (deploy/setup.sh check-full installs it)"
done
deploy/debian-root.sh arm64 extract $packages $root || skip "no arm64 packages could be had from this machine's sources"
# As update-alternatives would.
ln -sfn openblas-pthread/libopenblas.so.0 $lib/libopenblas.so.0

make -s -j"$(nproc)" ARCH=arm64 tests WERROR="${WERROR:-}"
tests=$(printf '%s\n' tests/unit/test_{kernels,tensor_dtype,pool,rng,rwkv_model}.c \
    tests/property/test_{determinism,grad_ops}.c tests/golden/test_*.c)
TEST_TIMEOUT=3000 TEST_WRAP="qemu-aarch64 -L $root" tests/run.sh build/arm64-release \
    $(sed 's|^|build/arm64-release/|; s|\.c$||' <<<"$tests")
