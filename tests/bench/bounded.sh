#!/usr/bin/env bash
# Whether recovery takes no longer than `recovery_time_target` asks for, and as long as was predicted.
#
#   tests/bench/bounded.sh [--quick] [--kills N] [--targets "2 5 10"] [--keys N] [--longest SECONDS]
#                          [--dir DIRECTORY] [--bin DIRECTORY]
#
# 64 connections with 16 operations each under way set random keys, values of 100 bytes, as fast as
# they are answered. The server is killed with SIGKILL at random moments and started again, 20 times
# for each target. Measured is the time from the start until the first write is answered; predicted
# is what `pg_control` leads the start to expect, as it logs it. So that writing out everything at
# once does not pass for it, the log left to redo at the longest target must be three times that at
# the shortest.
#
# Each round lasts from a fifth of --longest to all of it (default 30 s): at the longest target the
# log takes so long to become as long as it may. Log size and time ask for no checkpoints meanwhile.
#
# Prints a table in Markdown; exits with 1 if a bar is missed. Takes about 30 minutes.
#
# --quick: 2 kills for each target, rounds of 2 to 10 s; to see that everything works.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
set -euo pipefail

kills=20
targets="2 5 10"
keys=1000000
longest=30
base=${TMPDIR:-/tmp}
bin=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) kills=2 longest=10 ;;
        --kills) kills=$2; shift ;;
        --targets) targets=$2; shift ;;
        --keys) keys=$2; shift ;;
        --longest) longest=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        *) sed -n '2,23s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
buffers=$((keys / 2500 + 256))MB
data=$work/redoubt
load=(-w set -k "$keys" -c 64 -P 16)

start() { # target
    start_on_socket "$data" "$buffers" -c "recovery_time_target=${1}s" -c checkpoint_timeout=1h \
        -c max_wal_size=64GB
}

# A number from the start's log: what stands before `s`, `kB` or the like behind some words.
logged() { # sed pattern with one group
    sed -n "s/.*$1.*/\\1/p" "$work/run.log" | tail -n 1
}

start 10
say "loading $keys keys"
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 0 -q --load
cli CHECKPOINT >/dev/null

RANDOM=1
round() { # target
    local load_pid from took_ms expected took redo_s redo_kb left_us
    "$bin/rd_bench" -s "$socket" "${load[@]}" -t 3600 --seed $RANDOM -q >/dev/null 2>&1 &
    load_pid=$!
    sleep "$(awk -v longest="$longest" -v random=$RANDOM \
        'BEGIN { print longest * (0.2 + 0.8 * random / 32768) }')"
    left_us=$(info recovery recovery_estimate_us)
    crash_redoubt "$data"
    wait "$load_pid" || true
    from=$(date +%s%N)
    start "$1"
    took_ms=$((($(date +%s%N) - from) / 1000000))
    # The log tells of it a moment later than a write is answered.
    wait_until 60 grep -q "recovery took" "$work/run.log"
    took=$(logged 'recovery took \([0-9.]*\) s')
    expected=$(logged 'of log; \([0-9.]*\) s were expected')
    redo_s=$(logged 'recovery took [0-9.]* s, \([0-9.]*\) s')
    redo_kb=$(logged 's of it for \([0-9]*\) kB of log')
    say "target $1 s: first write after $took_ms ms (the server says $took s), expected $expected s," \
        "$redo_s s for $((redo_kb / 1024)) MB of log; INFO said $((left_us / 1000)) ms before the kill"
    echo "$took_ms $(awk -v s="$expected" 'BEGIN { print s * 1000 }') $((redo_kb / 1024))" >>"$work/of.$1"
}

for target in $targets; do
    configure recovery_time_target "${target}s"
    for ((kill = 0; kill < kills; kill++)); do round "$target"; done
done

: >"$work/table"
for target in $targets; do
    # Longest time, median time, median of what was off (as a factor, whichever way), median log.
    awk -v target="$target" '
        function median(v, n,    i, j, t) {
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] < v[j - 1]; j--) {
                t = v[j]; v[j] = v[j - 1]; v[j - 1] = t
            }
            return v[int((n + 1) / 2)]
        }
        { took[NR] = $1; off[NR] = $2 > $1 ? $2 / $1 - 1 : 1 - $2 / $1; redo[NR] = $3
          if ($1 > most) most = $1
          if ($1 <= target * 1000) kept++ }
        END {
            error = 100 * median(off, NR)
            met = kept == NR && error <= 25
            printf "| %s s | %d of %d | %.2f | %.2f | %.0f %% | %d | %s |\n", target, kept, NR,
                median(took, NR) / 1000, most / 1000, error, median(redo, NR), met ? "yes" : "**no**"
            exit met ? 0 : 1
        }' "$work/of.$target" >>"$work/table" || missed=1
done

of() { awk '{ print $3 }' "$work/of.$1" | median; }
first=${targets%% *} last=${targets##* }
echo
machine
echo
echo "| target | within it | median, s | longest, s | prediction off by | log at the kill, MB | met |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "Until the first write is answered; medians of $kills kills; within the target in all, prediction"
echo "off by at most 25 % in the median. $keys keys, shared_buffers = $buffers."
if [ "$first" != "$last" ]; then
    awk -v short="$(of "$first")" -v long="$(of "$last")" -v first="$first" -v last="$last" 'BEGIN {
        ratio = short > 0 ? long / short : 0
        met = ratio >= 3
        printf "Log at %s s by that at %s s: %.2f, at least 3: %s.\n", last, first, ratio,
            met ? "met" : "**missed**"
        exit met ? 0 : 1
    }' || missed=1
fi
exit $missed
