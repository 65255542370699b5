#!/bin/sh
# debian-root.sh ARCH VARIANT PACKAGES TARGET: a root of this machine's Debian release for ARCH, from the
# machine's own package sources, by mmdebstrap. VARIANT "extract" unpacks PACKAGES (comma-separated) and what
# they need into the folder TARGET and runs nothing: libraries for a cross compiler. "minbase" is a system
# that containers start from, without documentation, as the registries' debian:*-slim are; its TARGET may end
# in .tar. An existing TARGET is left as it is.
set -eu
arch=$1 variant=$2 packages=$3 target=$4
[ ! -e "$target" ] || exit 0
. /etc/os-release

# As apt understands its sources, in whatever form they are written: the distribution's own, section main.
sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' "Origin: ${NAME%% *}" 'Component: main' | sort -u)
[ -n "$sources" ] || { echo "debian-root: apt knows no ${NAME%% *} sources here: run apt-get update" >&2; exit 1; }

set --
if [ "$variant" = minbase ]; then
    for path in doc man info groff lintian locale; do
        set -- "$@" --dpkgopt="path-exclude=/usr/share/$path/*"
    done
    set -- "$@" --dpkgopt="path-include=/usr/share/doc/*/copyright"
    # Else /usr is merged by the package usrmerge, which needs 50 MB of Perl.
    set -- "$@" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
    case $sources in *https:*) packages=${packages:+$packages,}ca-certificates ;; esac
fi

mkdir -p "$(dirname "$target")"
part=$target.part
case $target in *.tar) part=${target%.tar}.part.tar ;; esac
rm -rf "$part"
mmdebstrap --quiet --variant="$variant" --architectures="$arch" ${packages:+--include="$packages"} \
    "$@" "$VERSION_CODENAME" "$part" "$sources" || { rm -rf "$part"; exit 1; }
# Links to /lib/... must stay inside.
[ "$variant" != extract ] || find "$part" -type l -lname '/*' | while read -r link; do
    ln -sfnr "$part$(readlink "$link")" "$link"
done
mv "$part" "$target"
