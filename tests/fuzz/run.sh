#!/bin/sh
# run.sh smoke|fuzz BUILD_DIR NAME ...: runs fuzz targets over tests/fuzz/corpus/NAME and the files that
# tests/fuzz/seeds lists for it. smoke: each input and $FUZZ_MUTATIONS fixed mutations of it; fuzz: libFuzzer
# for $FUZZ_SECONDS, what it finds is kept in BUILD_DIR/found. Ends with "N passed, N failed".
set -u
mode=$1 build=$2
shift 2
passed=0 failed=0
log=$build/fuzz.log
mkdir -p "$build/found"

smoke() { # NAME INPUT ...
    program=$build/tests/fuzz/fuzz_$1_smoke
    shift
    timeout 600 "$program" "${FUZZ_MUTATIONS:-300}" "$@"
}

fuzz() { # NAME INPUT ...; the first folder takes what is new, outside the repository
    name=$1
    shift
    mkdir -p "$build/corpus/$name"
    for input in "$@"; do
        if [ -d "$input" ]; then cp "$input"/* "$build/corpus/$name"; else cp "$input" "$build/corpus/$name"; fi
    done
    "$build/tests/fuzz/fuzz_$name" -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=1024 \
        -malloc_limit_mb=512 -timeout=10 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$build/found/$name-" "$build/corpus/$name"
}

for name in "$@"; do
    inputs=$(sed -n "s/^$name //p" tests/fuzz/seeds)
    [ -d "tests/fuzz/corpus/$name" ] && inputs="tests/fuzz/corpus/$name $inputs"
    [ -n "$inputs" ] || inputs=tests/fuzz/seeds # any text is a start
    # shellcheck disable=SC2086 # the list is to be split, its patterns expanded
    if $mode "$name" $inputs >"$log" 2>&1; then
        passed=$((passed + 1))
        what=$(sed -n 's/^stat::number_of_executed_units: *\(.*\)/\1 inputs/p; t; s/^\([0-9]* inputs\)$/\1/p' "$log")
        printf '  ok    %-14s %s\n' "$name" "$what"
    else
        failed=$((failed + 1))
        printf '  FAIL  %s\n' "$name"
        grep -v '^#[0-9]' "$log" | tail -40 | sed 's/^/        /'
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
