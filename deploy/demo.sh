#!/usr/bin/env bash
# The main job, end to end: start the daemon on the bundled model, read a text into a named state,
# continue from it, kill the daemon with SIGKILL, start it again, continue from the stored state; then
# let the bundled diffuser make a state that nothing was read into, and continue from that.
# Leaves nothing running; the database stays in build/demo until the next run.
# Of a daemon that runs elsewhere: `demo.sh read URL` asks for the reading and the first continuation,
# `demo.sh again URL`, after a restart of any kind, for the second, and compares.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${DREAMSTATED:-build/release/dreamstated}
dir=build/demo
quiet=${DEMO_QUIET:-}
pid=

bold= plain=
[ ! -t 1 ] || bold=$'\033[1m' plain=$'\033[0m'
say() { [ -n "$quiet" ] || printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
show() { [ -n "$quiet" ] || printf '%s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }
stop() { [ -z "$pid" ] || kill "$pid" 2>/dev/null || true; }
trap stop EXIT

# Starts the daemon on a free port and waits for its one line on stdout; sets pid and url.
start() {
    coproc DAEMON { exec "$bin" serve --listen 127.0.0.1:0 --data "$dir/data" 2>>"$dir/log"; }
    pid=$DAEMON_PID
    local line=
    read -r -u "${DAEMON[0]}" line || die "the daemon did not start: $(tail -1 "$dir/log")"
    url=${line#listening on }
    show "$line (process $pid)"
}
post() { curl -sS --fail-with-body -H 'Content-Type: application/json' -d "$2" "$url$1"; }
complete() { # complete STATE PROMPT: 160 sampled bytes, always the same for a seed; STATE '': from nothing
    post /v1/completions "$(jq -nc --arg s "$1" --arg p "$2" 'if $s == "" then {} else {state: $s} end +
        {prompt: $p, max_tokens: 160, temperature: 0.7, top_p: 0.9, seed: 7}')"
}


# The steps that only need a daemon at $url; what the first two answered is kept for the last.
read_text() {
    local text record
    text='In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there be light: and there was light.
'
    record=$(post /v1/states "$(jq -nc --arg t "$text" '{name: "genesis", text: $t}')") || die "no state: $record"
    show "$(jq -r '"\(.id): \(.n_tokens) tokens read, \(.bytes) bytes, sha256 \(.sha256[0:16])..."' <<<"$record")"
    printf '%s\n' "$record" >"$dir/record.json"
}
continue_text() { # continue_text FILE: the answer is kept there
    local answer
    answer=$(complete genesis 'And God ') || die "no answer: $answer"
    printf '%s\n' "$answer" >"$1"
    show "And God $(jq -r '.choices[0].text' "$1")"
    show "$(jq -rc '"tokens taken from the state: \(.timings.cache_n), newly read: \(.timings.prompt_n)"' "$1")"
}
compare() {
    read_tokens=$(jq .n_tokens "$dir/record.json")
    [ "$(jq .timings.cache_n "$dir/after.json")" = "$read_tokens" ] || die "the state was not used"
    [ "$(jq .timings.prompt_n "$dir/after.json")" = "$(jq .timings.prompt_n "$dir/before.json")" ] || die "the text was read again"
    [ "$(jq .choices[0].text "$dir/after.json")" = "$(jq .choices[0].text "$dir/before.json")" ] || die "the text differs after the restart"
}
# A state in the manner of a text, from noise, and what it goes on with.
dream() {
    local text answer
    text='The President shall communicate to the Congress, at the opening of the session, a statement of the condition of the Treasury, of the public revenue and of the measures that the welfare of the people and the relations of the Government with foreign nations require.'
    answer=$(post /v1/states/generations "$(jq -nc --arg t "$text" \
        '{name: "dreamt", condition: {text: $t}, num_inference_steps: 20, guidance_scale: 2, seed: 3}')") || die "no state: $answer"
    answer=$(complete dreamt $'\n') || die "no answer: $answer"
    [ "$(jq .timings.cache_n <<<"$answer")" = 0 ] || die "nothing was read into that state"
    show "$(jq -r '.choices[0].text' <<<"$answer")"
    answer=$(complete '' $'\n') || die "no answer: $answer"
    show "(without a state: $(jq -r '.choices[0].text[0:70]' <<<"$answer" | tr '\n' ' ')...)"
}

case "${1:-}" in
read)
    url=$2
    mkdir -p "$dir"
    read_text
    continue_text "$dir/before.json"
    exit ;;
again)
    url=$2
    continue_text "$dir/after.json"
    compare
    exit ;;
esac

rm -rf "$dir" && mkdir -p "$dir"
say "1. Start the daemon on the bundled model"
start
curl -sS "$url/v1/models" | jq -r '.data[] | "model \(.id): \(.meta.n_params) parameters, state of \(.meta.state_size) bytes"' \
    | { [ -n "$quiet" ] && cat >/dev/null || cat; }

say "2. Read a text into the named state 'genesis' (no token is sampled)"
read_text

say "3. Continue from it"
continue_text "$dir/before.json"

say "4. Kill the daemon with SIGKILL and start it again"
{ kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true
start

say "5. Continue from the stored state: the text is not read again"
continue_text "$dir/after.json"
compare

say "6. Make the state 'dreamt' by diffusion, in the manner of a text that is not read, and continue from it"
dream

say "7. Stop it"
kill -TERM "$pid"
wait "$pid" || die "the daemon did not end cleanly"
pid=
echo "demo: ok: the same continuation before and after kill -9, $read_tokens tokens taken from the stored state; a state was dreamt"
