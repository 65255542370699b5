#!/usr/bin/env bash
# check_layers.sh: who may include what, by the #include lines of the sources.
#
#     api -> daemon -> engine, store -> daemon/base
#
# api reaches the engine and the store only through daemon's headers; engine and store do not know each
# other; only a subcommand starts the api (through api/api.h). A third-party header belongs to its layer,
# and a header of ours that needs jansson stays inside its folder. Prints what offends and fails.
set -uo pipefail
cd "$(dirname "$0")/.."
list=$(mktemp)
trap 'rm -f "$list"' EXIT

# file:line:header of every include, system headers in <>
find api daemon engine store -name '*.[ch]' -print0 | LC_ALL=C sort -z |
    xargs -0 awk 'match($0, /^[ \t]*#[ \t]*include[ \t]+["<][^">]+[">]/) {
        h = $0; sub(/^[^"<]*/, "", h); sub(/[">][^">]*$/, "", h); sub(/^"/, "", h)
        print FILENAME ":" FNR ":" h }' >"$list"

awk -F: '
function starts(s, p) { return substr(s, 1, length(p)) == p }
function folder(f) { sub(/\/[^\/]*$/, "", f); return f }
function bad(why) { sub(/^</, "", h); print $1 ":" $2 ": includes " h ": " why; n++ }
BEGIN {
    # layer: what it may include of ours
    may["api"] = "api/ daemon/"
    may["daemon/base"] = "daemon/base/"
    may["daemon"] = "daemon/ engine/ store/ build/"
    may["engine"] = "engine/ daemon/base/"
    may["store"] = "store/ daemon/base/"
    # third-party header: where it may be included
    home["microhttpd.h"] = "api/"
    home["uv.h"] = "daemon/"
    home["sqlite3.h"] = "store/"
    home["cblas.h"] = "engine/kernels/"
    home["openblas_config.h"] = "engine/kernels/"
    home["gnutls/gnutls.h"] = "daemon/"
    home["gnutls/x509.h"] = "daemon/"
    home["jansson.h"] = "api/ daemon/ engine/sampling/ engine/tensor/ engine/train/"
}
function layer(f) {
    if (starts(f, "daemon/base/")) return "daemon/base"
    sub(/\/.*/, "", f)
    return f
}
function allowed(path, list,   i, k, p) {
    k = split(list, p, " ")
    for (i = 1; i <= k; i++) if (starts(path, p[i])) return 1
    return 0
}
FNR == NR { # first reading: headers that need jansson
    if ($3 == "<jansson.h" && $1 ~ /\.h$/) inner[$1] = folder($1)
    next
}
{
    h = $3
    if (starts(h, "<")) {
        name = substr(h, 2)
        if (name in home && (!allowed($1, home[name]) || starts($1, "daemon/base/")))
            bad("belongs to " home[name])
        next
    }
    l = layer($1)
    if (h == "api/api.h" && $1 ~ /^daemon\/(cmd_[a-z_]*|main)\.c$/) next
    if (!allowed(h, may[l])) bad(l " may include only " may[l])
    if (h in inner && folder($1) != inner[h]) bad("it needs jansson.h and stays inside " inner[h])
}
END { if (!n) print "layers: " FNR " includes checked"; exit n > 0 }
' "$list" "$list"
