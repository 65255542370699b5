#!/bin/sh
# setup.sh run|build|demo|check|check-full: installs what these need on Debian 12 (Ubuntu 24.04: the same
# names), through sudo where the user is not root, and says what it installs. What is there already is
# left alone; a machine without apt is told the list.
set -eu

run="libmicrohttpd12 libjansson4 libuv1 libsqlite3-0 libopenblas0-pthread zlib1g libnettle8 libgnutls30"
build="gcc make pkg-config libmicrohttpd-dev libjansson-dev libuv1-dev libsqlite3-dev \
       libopenblas-pthread-dev zlib1g-dev nettle-dev libgnutls28-dev"
demo="curl jq"
check="libcmocka-dev nodejs npm git ca-certificates"
full="clang libclang-rt-14-dev valgrind gcc-aarch64-linux-gnu qemu-user \
      mmdebstrap podman runc netavark aardvark-dns iptables chromium"

case "${1:-}" in
run) want=$run ;;
build) want=$build ;;
demo) want="$build $demo" ;;
check) want="$build $demo $check" ;;
check-full) want="$build $demo $check $full" ;;
*) echo "usage: setup.sh run|build|demo|check|check-full" >&2; exit 2 ;;
esac

# A node that came from elsewhere (with its npm) serves as well as Debian's.
command -v node >/dev/null && command -v npm >/dev/null &&
    want=$(printf '%s ' $want | sed 's/ nodejs npm / /')

missing=
for p in $want; do
    if command -v dpkg-query >/dev/null; then
        dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
    fi
done
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "setup: no apt-get here; needed:$missing" >&2
    exit 1
fi
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
echo "setup: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
if ! apt-cache show chromium >/dev/null 2>&1; then # Ubuntu's is no package; its test is skipped
    missing=$(printf '%s ' $missing | sed 's/chromium //')
fi
$sudo apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing >/dev/null
