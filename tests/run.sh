#!/bin/sh
# run.sh BUILD_DIR PROGRAM ...: runs each test program under a time limit, as many at a time as there are
# processors (TEST_JOBS), shows what failed, and ends with "N passed, N failed, N skipped" (test cases, as
# cmocka counts them). A failure that a program printed counts even where it exited 0. What each printed is
# kept beside it, in PROGRAM.log, its counts in PROGRAM.counts.
set -u

# One program: its lines, all at once.
if [ "$1" = --one ]; then
    t=$2
    out=$(timeout "${TEST_TIMEOUT:-1200}" ${TEST_WRAP:-} "$t" 2>&1)
    rc=$?
    p=$(printf '%s\n' "$out" | grep -c '^\[       OK \]')
    f=$(printf '%s\n' "$out" | grep '^\[  FAILED  \] [^0-9]' | sort -u | wc -l) # named where they ran and in a list
    s=$(printf '%s\n' "$out" | grep '^\[  SKIPPED \] [^0-9]' | sort -u | wc -l)
    [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
    printf '%s\n' "$out" >"$t.log"
    echo "$p $f $s" >"$t.counts"
    if [ $rc -eq 0 ] && [ "$f" -eq 0 ]; then
        said=$(printf '  ok    %-46s %d passed%s\n' "${t##*/tests/}" "$p" "$([ "$s" -gt 0 ] && echo ", $s skipped")")
        more=$(printf '%s\n' "$out" | grep '^skip: ')
    else
        said=$(printf '  FAIL  %s (exit %d)\n' "${t##*/tests/}" "$rc")
        more=$(printf '%s\n' "$out" | grep -v -E '^\[( RUN| +OK )' | tail -40)
    fi
    printf '%s\n' "$said${more:+
$(printf '%s\n' "$more" | sed 's/^/        /')}"
    exit 0
fi

shift
for t in "$@"; do
    echo "0 1 0" >"$t.counts" # of one that does not come to its end
done
printf '%s\n' "$@" | xargs -P "${TEST_JOBS:-$(nproc)}" -n 1 sh "$0" --one
for t in "$@"; do
    cat "$t.counts"
done | awk '{p += $1; f += $2; s += $3} END {print p " passed, " f " failed, " s " skipped"; exit f > 0}'
