#!/usr/bin/env bash
# Whether a recovery that is killed again and again gets on, and how much of it is done twice.
#
#   tests/bench/resumable.sh [--quick] [--keys N] [--wal MB] [--every SECONDS]
#                            [--dir DIRECTORY] [--bin DIRECTORY]
#
# Loads 4 million keys (1 GB of pages), writes them out, sets random ones of them until 2 GB of log lie behind the
# redo point, and kills the server with SIGKILL. One copy of what that leaves recovers undisturbed;
# another is killed every 3 s until it has taken a write. Compared is the log read: of each start from
# its redo point to where it said it had read, ten times a second; that of the first, which finds
# nothing prepared, is left out.
#
# Prints a table in Markdown; exits with 1 if more than 1.5 times as much log was read, or the killed
# recovery does not finish in 1,000 starts. Takes about a quarter of an hour.
#
# --quick: a million keys, 200 MB of log, a kill every second; to see that everything works.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
set -euo pipefail

keys=4000000
wal_mb=2048
every=3
base=${TMPDIR:-/tmp}
bin=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) keys=1000000 wal_mb=200 every=0.8 ;;
        --keys) keys=$2; shift ;;
        --wal) wal_mb=$2; shift ;;
        --every) every=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        *) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
buffers=$((keys / 2500 + 256))MB
options=(-c checkpoint_timeout=1h -c max_wal_size=100GB -c log_startup_progress_interval=100ms)
load=(-w set -k "$keys" -c 64 -P 16)

redo_mb() { echo $(($(info recovery recovery_redo_bytes) / 1048576)); }

start_on_socket "$work/redoubt" "$buffers" "${options[@]}" -c recovery_time_target=0
say "loading $keys keys"
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 0 -q --load
cli CHECKPOINT >/dev/null
"$bin/rd_bench" -s "$socket" "${load[@]}" -t 3600 -q >/dev/null 2>&1 &
load_pid=$!
until [ "$(redo_mb)" -ge "$wal_mb" ]; do sleep 0.1; done
crash_redoubt "$work/redoubt"
wait "$load_pid" || true

# MB of log that the start of which $work/run.log tells has read.
read_mb() {
    awk '
        function at(text,    part) { split(text, part, "/"); return hex(part[1]) * 4294967296 + hex(part[2]) }
        function hex(digits,    i, n) {
            for (i = 1; i <= length(digits); i++)
                n = n * 16 + index("0123456789ABCDEF", substr(digits, i, 1)) - 1
            return n
        }
        /redo starts at/ { from = $NF; begun = 1 }
        /redo in progress/ { match($0, /read up to [0-9A-F\/]+/); to = substr($0, RSTART + 11, RLENGTH - 11) }
        /redo done at/ { match($0, /redo done at [0-9A-F\/]+/); to = substr($0, RSTART + 13, RLENGTH - 13) }
        END { printf "%.0f\n", begun && to != "" ? (at(to) - at(from)) / 1048576 : 0 }' "$work/run.log"
}

cp -a --reflink=auto "$work/redoubt" "$work/copy"
sync
from=$(date +%s%N)
start_on_socket "$work/copy" "$buffers" "${options[@]}"
whole_ms=$((($(date +%s%N) - from) / 1000000))
crash_redoubt "$work/copy"
rm -rf "$work/copy"
whole=$(read_mb)
say "undisturbed: $whole MB of log read, first write after $whole_ms ms"

data=$work/redoubt
socket=$data/.s.REDOUBT.7432
starts=0 all=0
is_done=
sync
while [ -z "$is_done" ]; do
    [ $starts -lt 1000 ] || { say "not finished after $starts starts"; exit 1; }
    "$bin/redoubt" -D "$data" -c listen_addresses= -c "shared_buffers=$buffers" "${options[@]}" \
        >"$work/run.log" 2>&1 &
    redoubt_pid=$!
    until_ns=$(awk -v now="$(date +%s%N)" -v every="$every" 'BEGIN { printf "%.0f", now + every * 1e9 }')
    while [ "$(date +%s%N)" -lt "$until_ns" ]; do
        if [ "$(cli SET probe 1 2>/dev/null)" = OK ]; then
            is_done=1
            break
        fi
        sleep 0.02
    done
    crash_redoubt "$data"
    mb=$(read_mb)
    starts=$((starts + 1))
    say "start $starts: $mb MB of log read$([ -z "$is_done" ] || echo ", and done")"
    [ $starts -eq 1 ] || all=$((all + mb))
done

: >"$work/table"
bar "log read, MB" "%.0f" "$all" "$whole" 1.5 at-most
echo
machine
echo
echo "| what | killed every $every s | undisturbed | ratio | bar | met |"
echo "| --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "$starts starts, the first one's reading not counted; $keys keys, shared_buffers = $buffers."
exit $missed
