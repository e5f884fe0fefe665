#!/usr/bin/env bash
# How short a stop is for clients, and whether its deadline is kept.
#
#   tests/bench/stop.sh [--dirty MB] [--runs N] [--stops N] [--deadlines "20 5 2"]
#                       [--dir DIRECTORY] [--bin DIRECTORY]
#
# Makes so many MB of pages dirty with SETs, and stops the server while a client asks it for PONGs
# all the time. The service gap is the time from the last PONG to the end of the server. Runs of
# `rd_ctl stop` alternate with runs in which a second SIGINT follows at once, so that all is written
# after the clients are gone; the median counts. Then comes `rd_ctl stop --deadline`, by turns with
# each of the deadlines: how many are kept, and what the next start was forecast to take and took.
#
# Needs redis-benchmark.
set -euo pipefail

dirty=1024
runs=3
stops=20
deadlines="20 5 2"
base=${TMPDIR:-/tmp}
bin=

while [ $# -gt 0 ]; do
    case $1 in
        --dirty) dirty=$2; shift ;;
        --runs) runs=$2; shift ;;
        --stops) stops=$2; shift ;;
        --deadlines) deadlines=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
need redis-benchmark

data=$work/data
socket=$data/.s.REDOUBT.7432
now() { date +%s.%N; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a - b }'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

start() {
    rm -rf "$data"
    "$bin/rd_initdb" -D "$data" >/dev/null
    begin
    # Values of 7,000 bytes: about a page each.
    redis-benchmark -s "$socket" -q -c 16 -P 8 -t set -d 7000 -r $((dirty * 140)) \
        -n $((dirty * 256)) >/dev/null
    say "$("$bin/rd_cli" -s "$socket" INFO recovery | grep -E '^recovery_dirty_pages' | tr -d '\r')"
}

begin() {
    "$bin/rd_ctl" -D "$data" -l "$work/log" -s -t 600 start -o "-c listen_addresses='' \
        -c shared_buffers=$((dirty * 3 / 2 + 128))MB -c recovery_time_target=0 \
        -c checkpoint_timeout=1h -c max_wal_size=64GB"
    redoubt_pid=$(head -1 "$data/postmaster.pid")
}

ask() { # until nobody answers; leaves the time of the last answer
    while "$bin/rd_cli" -s "$socket" PING 2>/dev/null | grep -q PONG; do now >"$work/last"; done
}

gap() { # how
    start
    ask &
    local asker=$! began
    sleep 1
    began=$(now)
    if [ "$1" = at_once ]; then
        kill -INT "$redoubt_pid"
        sleep 0.1
    fi
    "$bin/rd_ctl" -D "$data" -s -t 600 stop
    local ended
    ended=$(now)
    wait "$asker" || true
    redoubt_pid=
    say "$1: $(less "$ended" "$began") s in all, service gap $(less "$ended" "$(cat "$work/last")") s"
    less "$ended" "$(cat "$work/last")" >>"$work/$1"
    echo >>"$work/$1"
}

for _ in $(seq "$runs"); do
    gap cleaned
    gap at_once
done

kept=0
read -r -a choice <<<"$deadlines"
for number in $(seq "$stops"); do
    deadline=${choice[$(((number - 1) % ${#choice[@]}))]}
    start
    began=$(now)
    if "$bin/rd_ctl" -D "$data" stop --deadline "$deadline" >"$work/said"; then
        took=$(less "$(now)" "$began")
        if awk -v a="$took" -v b="$deadline" 'BEGIN { exit !(a <= b) }'; then kept=$((kept + 1)); fi
    else
        took="too long"
    fi
    began=$(now)
    begin
    "$bin/rd_cli" -s "$socket" SET first write >/dev/null
    say "deadline $deadline s: $took s; next start $(less "$(now)" "$began") s"
    sed 's/^/    /' "$work/said" >&2
    "$bin/rd_ctl" -D "$data" -s -m immediate stop
    redoubt_pid=
done

echo "| stop with $dirty MB dirty | service gap, s (median of $runs) |"
echo "| --- | --- |"
echo "| rd_ctl stop | $(grep . "$work/cleaned" | median) |"
echo "| all written after the clients are gone | $(grep . "$work/at_once" | median) |"
echo
echo "Deadlines kept: $kept of $stops."
