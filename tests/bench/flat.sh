#!/usr/bin/env bash
# Whether clients feel checkpoints: the same load with them and without, and beside PostgreSQL.
#
#   tests/bench/flat.sh [--quick] [--pairs N] [--seconds N] [--keys N] [--rate N]
#                       [--dir DIRECTORY] [--bin DIRECTORY] [--csv DIRECTORY] [--no-postgres]
#
# 32 connections set random keys of 4 million with values of 100 bytes (about 1 GB of pages), durably
# and in an open loop, at 70 % of what a closed loop has reached in the minute before. One of a pair of
# runs has checkpoint_timeout = 30s and recovery_time_target = 10s, in the other no page is written at
# all. Compared are medians: the 99.9th percentile and the maximum of the response time, which
# begins when an operation is due, and the longest time in which nobody got a reply. Where runs without
# checkpoints differ from each other by more than a bar, what they differ by is the bar. In
# runs with checkpoints: the worst second as a part of the median one, and the log that a commit takes
# in the 3 seconds behind a checkpoint's start against the 3 seconds before.
#
# The server is killed once before, so that the target is held against the speed of redo here and not
# against a guess.
#
# PostgreSQL gets the same upserts at 70 % of what it reaches, with checkpoint_timeout = 30s, once.
#
# Prints a table in Markdown; exits with 1 if a bar is missed. Takes 5 pairs of 180 s, about 45
# minutes in all.
#
# --quick: one pair of 40 s, a million keys, without PostgreSQL; to see that everything works.
# --rate:  operations a second, in place of 70 % of the fastest.
# --csv:   a directory for the second-by-second figures of each run.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
#
# Needs jq; for PostgreSQL initdb and pg_ctl of version 15 (PG_BIN), and, when run by root, a user
# `postgres` to run it as.
set -euo pipefail

CONNECTIONS=32
PART=0.7
pairs=5
seconds=180
# Long enough for what a virtual machine lends and takes back.
fastest_seconds=60
keys=4000000
rate=
base=${TMPDIR:-/tmp}
bin=
postgres=1
csv=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) pairs=1 seconds=40 fastest_seconds=10 keys=1000000 postgres= ;;
        --pairs) pairs=$2; shift ;;
        --seconds) seconds=$2; shift ;;
        --keys) keys=$2; shift ;;
        --rate) rate=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        --csv) csv=$(realpath "$2"); shift ;;
        --no-postgres) postgres= ;;
        *) sed -n '2,34s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
need jq
buffers=$((keys / 2500 + 256))MB
load=(-w set -k "$keys" -c $CONNECTIONS)

# --- one run ---------------------------------------------------------------------------------------
# Leaves a line of figures in a file of the run's name: p99.9, maximum and longest gap (us), worst
# and median second, operations a second, what was never sent, checkpoints.
run() { # name, rate, options that reach the server
    local json=$work/$1.json
    "$bin/rd_bench" "${@:3}" "${load[@]}" -r "$2" -t "$seconds" --warm-up 3 -q --json "$json" \
        --csv "${csv:-$work}/$1.${pair:-0}.csv"
    jq -r '[.main.response_us["p99.9"], .main.response_us.max, .main.longest_gap_us,
            .worst_second_operations, .median_second_operations, .main.per_s, .main.unsent,
            (.checkpoints | length)] | map(tostring) | join(" ")' "$json" >>"$work/$1"
    jq -r '.checkpoints[] | select(.wal_bytes_per_operation_before != null
            and .wal_bytes_per_operation_behind != null)
            | "\(.wal_bytes_per_operation_before) \(.wal_bytes_per_operation_behind)"' "$json" \
        >>"$work/$1.wal"
    say "$1: $(tail -n 1 "$work/$1" | awk '{ printf "p99.9 %.2f ms, max %.2f ms, longest gap %.2f ms, " \
        "worst second %d of %d, %.0f/s, %d never sent, %d checkpoints", $1 / 1e3, $2 / 1e3, $3 / 1e3,
        $4, $5, $6, $7, $8 }')"
}

fastest() { # options that reach the server: operations a second in a closed loop
    "$bin/rd_bench" "$@" "${load[@]}" -t $fastest_seconds --warm-up 3 -q --json - | jq .main.per_s
}

part_of() { awk -v rate="$1" -v part=$PART 'BEGIN { printf "%.0f", rate * part }'; }

column() { awk -v column="$2" '{ print $column }' "$work/$1" | median; }

# The largest figure of a column divided by the least.
spread() { awk -v column="$2" '{ v = $column; if (NR == 1 || v < least) least = v; if (v > most) most = v }
    END { printf "%.3f", (least > 0 ? most / least : 1) }' "$work/$1"; }

widest() { awk -v a="$1" -v b="$2" 'BEGIN { print (a + 0 > b + 0 ? a : b) }'; }

# --- Redoubt ---------------------------------------------------------------------------------------
quiet() {
    configure recovery_time_target 0 checkpoint_timeout 1d
    cli CHECKPOINT >/dev/null
}
checkpointing() {
    configure recovery_time_target 10s checkpoint_timeout 30s
    cli CHECKPOINT >/dev/null
}

start_on_socket "$work/redoubt" "$buffers" -c max_wal_size=32GB
say "loading $keys keys"
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 0 -q --load
quiet
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 5 -q
crash_redoubt "$work/redoubt"
start_on_socket "$work/redoubt" "$buffers" -c max_wal_size=32GB
quiet
asked=$rate
rates=()
for ((pair = 0; pair < pairs; pair++)); do
    quiet
    if [ -z "$asked" ]; then
        fastest=$(fastest -s "$socket")
        rate=$(part_of "$fastest")
        say "the fastest is $(printf %.0f "$fastest")/s, $PART of it $rate/s"
        quiet
    fi
    rates+=("$rate")
    run without "$rate" -s "$socket"
    checkpointing
    cli CONFIG RESETSTAT >/dev/null
    run with "$rate" -s "$socket"
    say "pages written: $(cli INFO checkpoint | tr -d '\r' | grep '^pages_written_' | grep -v ':0$' \
        | sed 's/^pages_written_//' | tr '\n' ' ')"
done
stop_redoubt

# --- PostgreSQL ------------------------------------------------------------------------------------
if [ -n "$postgres" ] && [ -x "$PG_BIN/initdb" ]; then
    rm -rf "$work/redoubt"
    start_postgres 5432 "$buffers" "-c listen_addresses= -c checkpoint_timeout=30s -c max_wal_size=32GB"
    to=(-S postgres -h "$work/postgres" -p 5432)
    say "loading $keys rows into PostgreSQL"
    "$bin/rd_bench" "${to[@]}" "${load[@]}" -t 0 -q --load
    pg_rate=$(part_of "$(fastest "${to[@]}")")
    # Its data are in $work/postgres.
    run beside "$pg_rate" "${to[@]}"
fi

# --- the report ------------------------------------------------------------------------------------
: >"$work/table"
held() { # what, column, bar
    bar "$1" "%.2f" "$(column with "$2" | awk '{ print $1 / 1e3 }')" \
        "$(column without "$2" | awk '{ print $1 / 1e3 }')" "$(widest "$3" "$(spread without "$2")")" at-most
}
held "p99.9, ms" 1 1.25
held "maximum, ms" 2 2
held "longest time without a reply, ms" 3 2
# A ninth column: the worst second as a part of the median one, percent.
for name in with without; do
    awk '{ print $0, 100 * $4 / $5 }' "$work/$name" >"$work/$name.worst"
done
apart=$(spread without.worst 9)
bar "operations in the worst second, % of the median one" "%.1f" "$(column with.worst 9)" 100 \
    "$(awk -v apart="$apart" 'BEGIN { print (1 / apart < 0.9 ? 1 / apart : 0.9) }')" at-least
[ -s "$work/with.wal" ] || { say "no checkpoint began far enough from the ends of a run"; exit 1; }
before=$(awk '{ print $1 }' "$work/with.wal" | median)
behind=$(awk '{ print $2 }' "$work/with.wal" | median)
bar "log of a commit behind a checkpoint's start, bytes, against before" "%.1f" "$behind" "$before" \
    1.02 at-most

echo
machine
echo
echo "| what | with checkpoints | without | ratio | bar | met |"
echo "| --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "Medians of $pairs pairs of $seconds s: $CONNECTIONS connections over a unix socket, durable SETs of"
echo "$keys random keys, 100 bytes, open loop at ${rates[*]} a second, shared_buffers = $buffers; $(awk '{ n += $8 }
    END { print n }' "$work/with") checkpoints."
if [ -s "$work/beside" ]; then
    echo
    awk -v rate="$pg_rate" '{ printf "PostgreSQL at %d/s: p99.9 %.2f ms, maximum %.2f ms, longest time " \
        "without a reply %.2f ms, worst second %.0f %% of the median one; ", rate, $1 / 1e3, $2 / 1e3,
        $3 / 1e3, 100 * $4 / $5 }' "$work/beside"
    awk '{ before += $1; behind += $2 } END { if (NR) printf "log of a commit %.0f bytes before a " \
        "checkpoint'"'"'s start, %.0f behind.\n", before / NR, behind / NR }' "$work/beside.wal"
fi
exit $missed
