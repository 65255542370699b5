#!/usr/bin/env bash
# image.sh [ARCHIVE]: builds deploy/Dockerfile and tests the image, with podman and without any registry: the
# base image is made from this machine's Debian sources. The test starts it as it should be run (root file
# system read-only, no capability, a volume), reads a text into a state, asks for its health, stops it by SIGTERM,
# starts another container on the volume and continues from the state. The image is kept in ARCHIVE
# (`docker load -i`), if given; everything else is removed. What the machine lacks is the reason of a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
base=build/debian-root.tar
limit_mb=80
dir= name=dreamstate-test-$$

skip() {
    echo "skip: container: $*"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
die() { echo "image: $*" >&2; [ -z "$dir" ] || pod logs "$name" 2>&1 | tail -5 >&2; exit 1; }
step() { printf '%5d s  %s\n' $SECONDS "$*"; }

# Its own storage and configuration: a machine's other images are not seen. crun refuses mixed cgroups. Errors
# still end a command; log lines would tell of the systemd that a build machine may not have.
pod() {
    CONTAINERS_CONF=$dir/containers.conf CONTAINERS_STORAGE_CONF=$dir/storage.conf podman --log-level fatal "$@"
}
clean_up() {
    [ -n "$dir" ] || return 0
    pod rm -f -t 2 "$name" >/dev/null 2>&1 || true
    pod volume rm -a -f >/dev/null 2>&1 || true
    pod rmi -a -f >/dev/null 2>&1 || true
    umount "$dir/storage/overlay" 2>/dev/null || true
    rm -rf "$dir"
}

[ "$(id -u)" -eq 0 ] || skip "needs root"
for tool in podman runc mmdebstrap curl jq; do
    command -v $tool >/dev/null || skip "no $tool here (deploy/setup.sh check-full installs it)"
done
deploy/debian-root.sh "$(dpkg --print-architecture)" minbase "" $base ||
    skip "no base system could be had from this machine's sources"
trap clean_up EXIT
dir=$(mktemp -d /tmp/dreamstate-image.XXXXXX)
cat >"$dir/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$dir/tmp"
volume_path = "$dir/volumes"
[network]
network_config_dir = "$dir/networks"
CONF
cat >"$dir/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$dir/storage"
runroot = "$dir/run"
CONF
pod info >/dev/null 2>"$dir/why" || skip "podman does not run here: $(tail -1 "$dir/why")"

step "base system"
pod import -q $base docker.io/library/debian:bookworm-slim >/dev/null
pod run --rm --name "$name" docker.io/library/debian:bookworm-slim true 2>"$dir/why" ||
    skip "podman starts no container here: $(tail -1 "$dir/why")"
step "build"
pod build -q --pull=never --format docker --build-arg VERSION="$(git describe --always --dirty 2>/dev/null)" \
    -f deploy/Dockerfile -t dreamstate . >"$dir/build.log" 2>&1 || { tail -30 "$dir/build.log" >&2; die "no image"; }

pod push -q --compress dreamstate "dir:$dir/pushed"
size=$(du -sb "$dir/pushed" | cut -f1)
step "built, $((size / 1000000)) MB compressed"
[ $size -lt $((limit_mb * 1000000)) ] || die "more than $limit_mb MB"
[ "$(pod image inspect -f '{{.Config.User}} {{.Config.StopSignal}}' dreamstate)" = "10001:10001 SIGTERM" ] ||
    die "not the user and stop signal it should have"

start() { # as it should be run; sets url when it is healthy
    pod run -d --name "$name" -p 127.0.0.1::8080 --read-only --read-only-tmpfs=false --cap-drop ALL \
        --security-opt no-new-privileges -v dreamstate-test:/data dreamstate >/dev/null || die "it does not start"
    url=http://$(pod port "$name" 8080/tcp)
    curl -s --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null "$url/health/ready" || die "never ready"
    pod healthcheck run "$name" >/dev/null || die "its health check fails"
}
stop() { # by the image's stop signal; it must end of itself, with exit code 0
    pod stop -t 60 "$name" >/dev/null
    local code
    code=$(pod inspect -f '{{.State.ExitCode}}' "$name")
    [ "$code" = 0 ] || die "SIGTERM ended it with $code"
    pod rm "$name" >/dev/null
}
start
step "ready, health check passes"
[ "$(pod top "$name" huser | tail -1)" = 10001 ] || die "it runs as $(pod top "$name" huser | tail -1)"
deploy/demo.sh read "$url"
stop
step "SIGTERM: exit code 0"
start
step "another container on the volume"
deploy/demo.sh again "$url"
stop
[ -z "${1:-}" ] || { rm -f "$1" && pod save -q --format docker-archive -o "$1" dreamstate; }
step "ok: the same continuation from the volume"
