#!/usr/bin/env bash
# check_headers.sh: every header compiles alone, twice in a row (its guard), without warnings. Headers that
# are made to be expanded for several types say so in their first comment and are left out.
set -uo pipefail
cd "$(dirname "$0")/.."
CC=${CC:-gcc}
export CC

check_one() {
    printf '#include "%s"\n#include "%s"\nint unused_symbol;\n' "$1" "$1" |
        $CC -std=c11 -D_GNU_SOURCE -I. $FLAGS -Wall -Wextra -Wundef -Wstrict-prototypes -Werror \
            -fsyntax-only -x c - 2>&1 | sed "s|^|$1: |"
    return "${PIPESTATUS[1]}"
}
export -f check_one
FLAGS=$(pkg-config --cflags libmicrohttpd jansson libuv sqlite3 openblas zlib nettle 2>/dev/null)
export FLAGS

headers=$(find api daemon engine store tests/lib -name '*.h' | LC_ALL=C sort)
alone=
for h in $headers; do
    head -5 "$h" | grep -qE '_tmpl|template|expanded' || alone+="$h "
done
printf '%s\n' $alone | xargs -P "$(nproc)" -I{} bash -c 'check_one {}' || exit 1
echo "headers: $(wc -w <<<"$alone") compile alone"
