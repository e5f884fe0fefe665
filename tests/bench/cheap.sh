#!/usr/bin/env bash
# What it costs to keep recovery short: pages written for a commit, with and without.
#
#   tests/bench/cheap.sh [--quick] [--seconds N] [--keys N] [--rate N] [--reads PERCENT]
#                        [--dir DIRECTORY] [--bin DIRECTORY]
#
# 32 connections do 30,000 commits a second on keys of a zipfian distribution (0.99), and as many
# reads, in an open loop, for 5 minutes from the end of one full checkpoint to the next one: first
# with full checkpoints alone (recovery_time_target = 0), then with recovery_time_target = 10s beside
# them. Counted are all pages written to relation files, whatever for, those of the checkpoint at the
# end included.
#
# Before the second part the server is killed once, so that the target is held against the speed of
# redo here and not against a guess.
#
# Prints a table in Markdown; exits with 1 if the bar is missed. Takes about 12 minutes.
#
# --quick:   cycles of 30 s, a million keys, 10,000 commits a second; to see that everything works.
# --seconds: length of a cycle.
# --bin:     the directory of the programs; without it they are built (cargo build --release).
set -euo pipefail

seconds=300
keys=4000000
rate=30000
reads=50
base=${TMPDIR:-/tmp}
bin=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) seconds=30 keys=1000000 rate=10000 ;;
        --seconds) seconds=$2; shift ;;
        --keys) keys=$2; shift ;;
        --rate) rate=$2; shift ;;
        --reads) reads=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        *) sed -n '2,22s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
buffers=$((keys / 2500 + 256))MB
data=$work/redoubt
operations=$(awk -v rate="$rate" -v reads="$reads" 'BEGIN { printf "%.0f", rate * 100 / (100 - reads) }')
load=(-w mixed --reads "$reads" -k "$keys" --distribution zipfian -c 32 -P 4)

start() { # target
    start_on_socket "$data" "$buffers" -c "recovery_time_target=$1" \
        -c checkpoint_timeout=1h -c max_wal_size=64GB
}

written() { cli INFO checkpoint | tr -d '\r' | awk -F: '/^pages_written_/ { n += $2 } END { print n }'; }

# Pages for a thousand commits of a cycle, which begins behind a checkpoint.
cycle() { # name
    local before pages commits
    before=$(written)
    "$bin/rd_bench" -s "$socket" "${load[@]}" -r "$operations" -t "$seconds" --warm-up 0 -q \
        --seed "$RANDOM" --json "$work/$1.json"
    cli CHECKPOINT >/dev/null
    pages=$(($(written) - before))
    commits=$(jq '.main.operations' "$work/$1.json" | awk -v reads="$reads" \
        '{ printf "%.0f", $1 * (100 - reads) / 100 }')
    say "$1: $pages pages written, $commits commits ($(jq .main.per_s "$work/$1.json" | cut -d. -f1)" \
        "operations/s, $(jq .main.unsent "$work/$1.json") never sent)"
    awk -v pages="$pages" -v commits="$commits" 'BEGIN { printf "%.3f\n", 1000 * pages / commits }' \
        >"$work/$1"
}
need jq

RANDOM=1
start 0
say "loading $keys keys"
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 0 -q --load
cli CHECKPOINT >/dev/null
cycle full

say "a kill, so that the speed of redo is known"
"$bin/rd_bench" -s "$socket" "${load[@]}" -r "$operations" -t $((seconds / 10 + 5)) -q
crash_redoubt "$data"
start 10s
cli CHECKPOINT >/dev/null
cli INFO recovery | tr -d '\r' | grep -E '^recovery_(fixed_us|redo_)' >&2
cycle both
cli INFO checkpoint | tr -d '\r' | grep '^pages_written_' | grep -v ':0$' >&2

: >"$work/table"
bar "pages written for 1,000 commits" "%.2f" "$(cat "$work/both")" "$(cat "$work/full")" 1.5 at-most
echo
machine
echo
echo "| what | target 10 s | full checkpoints alone | ratio | bar | met |"
echo "| --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "$rate commits/s and $((operations - rate)) reads/s, $keys zipfian keys of 100 bytes, for"
echo "$seconds s and with the full checkpoint at their end; shared_buffers = $buffers."
exit $missed
