#!/usr/bin/env bash
# check.sh gate|full: every test of the project, section by section. Each section's whole output is kept
# in build/check/<section>.log and shown if it fails. The last line adds up all test cases:
# "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.."
mode=${1:-gate}
logs=build/check
mkdir -p $logs
passed=0 failed=0 skipped=0
started=$SECONDS
unset OPENBLAS_CORETYPE
export MAKEFLAGS= WERROR=${WERROR:-} CHECK_MODE=$mode

# counts LOG EXIT: sets p f s from the runners' own closing lines, or one case for a plain command.
counts() {
    p=0 f=0 s=0
    local line
    if line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$1" | tail -1) && [ -n "$line" ]; then
        read -r p f s < <(sed -E 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?.*/\1 \2 \4/' <<<"$line")
    elif grep -qE '^# pass [0-9]+' "$1"; then
        p=$(awk '/^# pass /{n+=$3} END{print n+0}' "$1")
        f=$(awk '/^# (fail|cancelled) /{n+=$3} END{print n+0}' "$1")
        s=$(awk '/^# skipped /{n+=$3} END{print n+0}' "$1")
    elif [ "$2" -eq 0 ]; then
        p=1
    fi
    s=${s:-0}
    [ "$2" -ne 0 ] && [ "$f" -eq 0 ] && f=1
}

section() {
    local name=$1 rc t=$SECONDS
    shift
    "$@" >"$logs/$name.log" 2>&1 </dev/null
    rc=$?
    counts "$logs/$name.log" $rc
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-4s %-14s %5d passed %3d failed %3d skipped %5d s\n' \
        "$([ $rc -eq 0 ] && echo ok || echo FAIL)" "$name" "$p" "$f" "$s" $((SECONDS - t))
    sed -nE -e 's/^ *(skip: )/\1/p' -e 's/^ *ok [0-9]+ - (.*) # SKIP (.*)/skip: \1: \2/p' "$logs/$name.log" |
        sort -u | sed 's/^/       /'
    [ $rc -eq 0 ] || tail -60 "$logs/$name.log" | sed 's/^/       | /'
    return 0
}

jobs=$(nproc)
section rules make -s check-rules
section build make -s -j"$jobs" all tests WERROR="$WERROR"
section unit make -s test-unit
section fuzz-smoke make -s -j"$jobs" fuzz-smoke
section asan make -s -j"$jobs" test-asan
section tsan make -s -j"$jobs" test-tsan
section http make -s test-http
[ "$mode" = full ] || section soak-short make -s soak-short
section demo env DEMO_QUIET=1 deploy/demo.sh
if [ "$mode" = full ]; then
    section clang make -s -j"$jobs" all tests CC=clang PROFILE=clang WERROR=1
    section arm64 make -s test-arm64
    section container deploy/image.sh
    section valgrind make -s test-valgrind
    section http-asan make -s test-http PROFILE=asan
    section fuzz make -s fuzz-run FUZZ_SECONDS=60
    section soak make -s soak
fi
echo "took $((SECONDS - started)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
