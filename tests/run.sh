#!/bin/sh
# run.sh BUILD_DIR PROGRAM ...: runs each test program under a time limit, shows what failed, and ends
# with "N passed, N failed, N skipped" (test cases, as cmocka counts them). A failure that a program
# printed counts even where it exited 0. What each printed is kept beside it, in PROGRAM.log.
set -u
shift
passed=0 failed=0 skipped=0
for t in "$@"; do
    out=$(timeout "${TEST_TIMEOUT:-1200}" ${TEST_WRAP:-} "$t" 2>&1)
    rc=$?
    p=$(printf '%s\n' "$out" | grep -c '^\[       OK \]')
    f=$(printf '%s\n' "$out" | grep '^\[  FAILED  \] [^0-9]' | sort -u | wc -l) # named where they ran and in a list
    s=$(printf '%s\n' "$out" | grep '^\[  SKIPPED \] [^0-9]' | sort -u | wc -l)
    [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
    printf '%s\n' "$out" >"$t.log"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ $rc -eq 0 ] && [ "$f" -eq 0 ]; then
        printf '  ok    %-46s %d passed%s\n' "${t##*/tests/}" "$p" "$([ "$s" -gt 0 ] && echo ", $s skipped")"
        printf '%s\n' "$out" | grep '^skip: ' | sed 's/^/        /'
    else
        printf '  FAIL  %s (exit %d)\n' "${t##*/tests/}" "$rc"
        printf '%s\n' "$out" | grep -v -E '^\[( RUN| +OK )' | tail -40 | sed 's/^/        /'
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
