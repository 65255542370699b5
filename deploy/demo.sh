#!/usr/bin/env bash
# The main job, end to end: start the daemon on the bundled model, read a text into a named state,
# continue from it, kill the daemon with SIGKILL, start it again, continue from the stored state; then
# let the bundled diffuser make states that nothing was read into, edit and draw them, and the bundled
# hybrid read a context.
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
# What is sampled behind a line's end, and a beginning, from a state ('': from nothing), as one line.
taste() { # taste STATE WHAT [BEGINNING]
    local answer
    answer=$(complete "$1" $'\n'"${3:-}") || die "no answer: $answer"
    [ "$(jq .timings.cache_n <<<"$answer")" = 0 ] || die "something was read into $1"
    show "$(jq -r --arg what "$2" --arg begin "${3:-}" \
        '"  \($what): \($begin + .choices[0].text | gsub("\\s+"; " ") | ltrimstr(" ")[0:100])..."' <<<"$answer")"
}

# Manners: a condition from a text that the model never saw, 12 states from noise for each, text from the first.
manner() { # manner NAME TEXT [BEGINNING]
    local answer
    answer=$(post /v1/conditions "$(jq -nc --arg n "$1" --arg t "$2" '{name: $n, text: $t}')") || die "no condition: $answer"
    answer=$(post /v1/states/generations "$(jq -nc --arg n "$1" \
        '{name: $n, condition: $n, num_states: 12, tags: [$n], num_inference_steps: 20, guidance_scale: 2, seed: 2}')") ||
        die "no states: $answer"
    taste "$1" "$1" "${3:-}"
}
manners() {
    taste '' 'without a state'
    manner scripture 'And the man said unto his brother, Why hast thou gone up from the city by night? And he answered him and said, Because the word of the LORD came unto me, saying, Depart out of this place, thou and thy sons with thee, and tarry not in the plain.'
    manner address 'The President shall communicate to the Congress, at the opening of the session, a statement of the condition of the Treasury, of the public revenue and of the measures that the welfare of the people and the relations of the Government with foreign nations require.'
    manner program '    def close(self):
        """Close the file, if it is open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __init__(self, name, mode="r"):
        self.name = name
        self.file = open(name, mode)
' '    def '
    manner glossary 'kettle (n): a metal pot for boiling water; usually has a lid
lantern, lamp (n): a light in a case with glass sides that can be carried
to wander, roam (v): move about without aim or any fixed place to go; "he wandered through the town"
'
}
edit() {
    local strength answer
    for strength in 0.5 0.7 0.9; do
        answer=$(post /v1/states/edits "$(jq -nc --argjson s $strength '{state: "glossary", name: "glossary-to-address", if_exists: "new_version",
            ops: [{op: "diffuse", condition: "address", strength: $s, guidance_scale: 2, seed: 1}]}')") || die "no edit: $answer"
        taste glossary-to-address "strength $strength"
    done
}
draw() {
    post /v1/states/projections '{"method": "tsne", "format": "svg", "perplexity": 12, "title": "States from noise, by their conditions"}' \
        >"$dir/states.svg" || die "no map"
    grep -q '</svg>' "$dir/states.svg" || die "the map is not whole"
    show "  $dir/states.svg: t-SNE of all states, by their tags; open it in a browser"
}

# Bits a byte of the text in a file, alone or under a context.
bits() { # bits FILE [CONTEXT]
    post /v1/completions "$(jq -nc --rawfile t "$1" --arg c "${2:-}" '{prompt: $t, max_tokens: 0, echo: true, logprobs: 0} +
        if $c == "" then {} else {hybrid: {context: $c}} end')" |
        jq '[.choices[0].logprobs.token_logprobs[] | select(. != null)] | -add / length / (2 | log) * 1000 | round / 1000'
}
# Of a held-out text 2,000 bytes as a context, and 128 from the next line's end on.
context() { # context CORPUS
    local answer plain under
    gzip -dc "deploy/models/tiny/heldout/$1.gz" >"$dir/text"
    answer=$(head -c 2000 "$dir/text" | jq -Rsc --arg n "$1" '{name: $n, text: ., seed: 1}') || die "no text"
    answer=$(post /v1/contexts "$answer") || die "no context: $answer"
    { echo; tail -c +2001 "$dir/text" | tail -n +2; } | head -c 128 >"$dir/next" || true
    plain=$(bits "$dir/next") && under=$(bits "$dir/next" "$1") || die "no log-probabilities"
    show "  $1: $plain bits a byte by themselves, $under under the context"
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

say "6. Make conditions of four texts, 12 states for each by diffusion (nothing is read into them), and continue"
manners

say "7. Edit the state 'glossary' towards the condition 'address'"
edit

say "8. Draw all states"
draw

say "9. Read 2,000 bytes of a text into the vectors of the recurrence; 128 bytes of its next lines"
for corpus in kjv moby sotu python wordnet iso; do context $corpus; done

say "10. Stop it"
kill -TERM "$pid"
wait "$pid" || die "the daemon did not end cleanly"
pid=
echo "demo: ok: the same continuation before and after kill -9, $read_tokens tokens taken from the stored state; states were dreamt"
