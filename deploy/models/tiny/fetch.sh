#!/bin/sh
# Get the packages that ship the training text and extract the six corpora into build/corpora.
#     fetch.sh [OUT]        OUT: build/corpora by default
# Debian packages come through apt (through sudo where not root), the two npm packages through npm.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
out=${1:-build/corpora}
debs='bible-kjv bible-kjv-text wordnet-base iso-codes libpython3.11-stdlib libpython3.11-minimal'
debs="$debs python3-distutils python3-lib2to3 python3.11-venv python3"
npms='datasets-moby-dick@0.2.3 datasets-sotu@0.2.3'

missing=
for p in $debs; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
command -v npm >/dev/null || missing="$missing npm"
if [ -n "$missing" ]; then
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$missing"
    # shellcheck disable=SC2086
    $sudo apt-get update -qq
    $sudo apt-get install -y --no-install-recommends $missing
fi

mkdir -p "$out/npm"
for p in $npms; do
    dir=$out/npm/${p%@*}
    [ -d "$dir/data" ] && continue
    echo "npm pack @stdlib/$p"
    tarball=$(cd "$out/npm" && npm pack --silent "@stdlib/$p")
    mkdir -p "$dir"
    tar -xzf "$out/npm/$tarball" -C "$dir" --strip-components=1 --no-same-owner
    rm -f "$out/npm/$tarball"
done
exec python3 "$here/corpora.py" --npm "$out/npm" --out "$out"
