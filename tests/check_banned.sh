#!/usr/bin/env bash
# check_banned.sh: calls that have a safer form here, exits outside main.c, unfinished work, compiler
# flags that change the numbers. Comments and strings are no calls. Prints what offends and fails.
set -uo pipefail
shopt -s lastpipe # refuse, at the end of a pipe, sets bad here
cd "$(dirname "$0")/.."
bad=0

# The sources as file:line:text, without comments, strings and character constants.
code() {
    find "$@" -name '*.[ch]' -print0 | LC_ALL=C sort -z | xargs -0 awk '
    FNR == 1 { inside = 0 }
    {
        out = ""; s = $0
        while (s != "") {
            if (inside) {
                if (!(at = index(s, "*/"))) break
                s = substr(s, at + 2); inside = 0
            } else if (match(s, /\/\*|\/\/|["\047]/)) {
                out = out substr(s, 1, RSTART - 1)
                mark = substr(s, RSTART, RLENGTH); s = substr(s, RSTART + RLENGTH)
                if (mark == "//") break
                if (mark == "/*") { inside = 1; continue }
                pattern = mark == "\"" ? "^([^\"\\\\]|\\\\.)*\"" : "^([^\047\\\\]|\\\\.)*\047"
                if (match(s, pattern)) s = substr(s, RLENGTH + 1)
                out = out mark mark
            } else {
                out = out s; s = ""
            }
        }
        if (out ~ /[^ \t]/) print FILENAME ":" FNR ":" out
    }'
}

# refuse WHY: fails if there is any input, and shows it.
refuse() {
    local lines
    lines=$(cat)
    [ -z "$lines" ] && return
    printf '%s:\n%s\n' "$1" "$lines"
    bad=1
}

calls='strcpy|strcat|stpcpy|sprintf|vsprintf|atoi|atol|atoll|atof|strtok|rand|srand|random|drand48'
calls+='|gmtime|localtime|asctime|ctime|signal|alloca|system|gets|tmpnam|mktemp|vfork'
code api daemon engine store tests | grep -P ":.*(?<![\\w.>])($calls)[ \\t]*\\(" | refuse 'banned calls'
code api daemon engine store | grep -v '^daemon/main\.c:' |
    grep -P ':.*(?<![\w.>])(exit|_exit|_Exit|quick_exit)[ \t]*\(' | refuse 'exit outside main.c'
code api daemon engine store | grep -v '^daemon/base/assert\.h:' |
    grep -P ':.*(?<![\w.>])abort[ \t]*\(' | refuse 'abort outside ASSERT'
code api daemon engine store | grep -P ':.*(?<![\w.>])assert[ \t]*\(' | refuse 'assert (use ASSERT, which stays in release)'

words='TO''DO|FIX''ME|XX''X:|HA''CK:'
grep -rnIwE --exclude-dir=node_modules "$words" api daemon engine store tests deploy Makefile README.md openapi.yaml 2>/dev/null |
    refuse 'unfinished'
grep -nE -- '-ffast-math|-march=native|-Ofast|-funsafe-math' Makefile | refuse 'compiler flags'
grep -rnE '__DATE__|__TIME__' --include='*.[ch]' api daemon engine store | refuse 'not reproducible'

[ $bad -eq 0 ] && echo "banned: none found"
exit $bad
