#!/usr/bin/env bash
# How fast Redoubt replays its log, beside PostgreSQL, on this machine, in one run.
#
#   tests/bench/recovery.sh [--quick] [--keys N] [--upserts N] [--workers "1 2"] [--runs N]
#                           [--dir DIRECTORY] [--bin DIRECTORY] [--no-postgres] [--cold]
#
# Loads all keys, writes them out with a checkpoint, upserts random ones of them, one transaction
# each, and kills the server with SIGKILL. Then starts copies of what that leaves: the log is the
# same in every run, and so is the work. Reported are the transactions replayed in a second (those
# of the log, by the time that the server says its redo took) and the time from the start until the
# first answer to a write. Runs of different numbers of workers alternate; the median counts. The
# kernel's cache is warm, as it is after a crash of the server alone.
#
# PostgreSQL does the same with INSERT ... ON CONFLICT DO UPDATE on a bigint key, one transaction
# each, by a procedure on the server with synchronous_commit = off, which changes nothing in the log.
#
# Prints a table in Markdown; exits with 1 if redo with as many workers as there are processors, or
# more, is not 4 times as fast as PostgreSQL's, or if it is slower with more workers than with fewer
# (by more than a tenth). A million keys and 3 million upserts take about five minutes.
#
# --quick: 100,000 keys, 300,000 upserts, one run; to see that everything works, not to quote.
# --cold:  the kernel's cache holds no page when redo begins, as after a power failure, so that the
#          disk is measured too: PostgreSQL's files are treated alike.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
#
# Needs redis-cli and redis-benchmark; for PostgreSQL initdb, pg_ctl and psql of version 15
# (PG_BIN), and, when run by root, a user `postgres` to run it as.
set -euo pipefail

VALUE_BYTES=100
BAR=4
keys=1000000
upserts=3000000
processors=$(nproc)
workers="1 $processors $((2 * processors))"
runs=3
base=${TMPDIR:-/tmp}
bin=
postgres=1
cold=

while [ $# -gt 0 ]; do
    case $1 in
        --quick) keys=100000 upserts=300000 runs=1 ;;
        --keys) keys=$2; shift ;;
        --upserts) upserts=$2; shift ;;
        --workers) workers=$2; shift ;;
        --runs) runs=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        --no-postgres) postgres= ;;
        --cold) cold=1 ;;
        *) sed -n '2,29s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
need redis-cli redis-benchmark
# Enough for all pages: what is measured is redo, not the reading of pages again and again.
buffers=$((keys / 2500 + 256))MB

start() { # data directory, further options
    start_on_socket "$1" "$buffers" -c checkpoint_timeout=1h -c max_wal_size=100GB \
        -c recovery_time_target=0 "${@:2}"
}

# Copies what a crash has left, ready for a start.
copy_of() { # directory, copy
    rm -rf "$2"
    cp -a --reflink=auto "$1" "$2"
    sync
    [ -z "$cold" ] || find "$2" -type f -exec dd if={} iflag=nocache count=0 status=none \;
}

data=$work/redoubt
start "$data"
say "loading $keys keys"
awk -v keys="$keys" -v bytes="$VALUE_BYTES" 'BEGIN {
    value = sprintf("%" bytes "s", ""); gsub(/ /, "x", value)
    for (key = 0; key < keys; key++) printf "SET key:%012d %s\r\n", key, value
}' | redis-cli -s "$socket" --pipe >/dev/null
cli CHECKPOINT >/dev/null
say "$upserts random upserts"
redis-benchmark -s "$socket" -t set -n "$upserts" -c 16 -P 64 -r "$keys" -d $VALUE_BYTES --csv \
    2>/dev/null | tail -n 1 >&2
crash_redoubt "$data"

one_run() { # number of workers
    local copy=$work/copy from
    copy_of "$data" "$copy"
    from=$(date +%s%N)
    start "$copy" -c "recovery_workers=$1"
    local until_write_ms=$((($(date +%s%N) - from) / 1000000))
    crash_redoubt "$copy"
    local redo_s
    redo_s=$(sed -n 's/.*redo done at .*elapsed \([0-9.]*\) s.*/\1/p' "$work/run.log")
    # Without these the redo point has moved on, and the figure would be of something else.
    local records
    records=$(sed -n 's/.*redo done at [^:]*: \([0-9]*\) records.*/\1/p' "$work/run.log")
    [ "$records" -ge "$upserts" ] || { say "only $records records were replayed"; exit 1; }
    say "workers $1: redo $redo_s s, first write after $until_write_ms ms"
    echo "$redo_s" >>"$work/redo.$1"
    echo "$until_write_ms" >>"$work/open.$1"
}

for ((run = 0; run < runs; run++)); do
    for number in $workers; do one_run "$number"; done
done

if [ -n "$postgres" ] && [ -x "$PG_BIN/initdb" ]; then
    rm -rf "$work/copy"
    pg_dir=$work/postgres
    options="-c listen_addresses= -c synchronous_commit=off -c checkpoint_timeout=1h -c max_wal_size=100GB"
    start_postgres 5432 "$buffers" "$options"
    say "loading $keys rows into PostgreSQL, then $upserts random upserts"
    cat >"$work/load.sql" <<SQL
CREATE TABLE kv (key bigint PRIMARY KEY, value text);
INSERT INTO kv SELECT n, repeat('x', $VALUE_BYTES) FROM generate_series(0, $((keys - 1))) n;
VACUUM ANALYZE kv;
CHECKPOINT;
DO \$\$ BEGIN
    FOR n IN 1 .. $upserts LOOP
        INSERT INTO kv VALUES (floor(random() * $keys), repeat('x', $VALUE_BYTES))
            ON CONFLICT (key) DO UPDATE SET value = excluded.value;
        COMMIT;
    END LOOP;
END \$\$;
SQL
    chmod 644 "$work/load.sql"
    as_postgres "$PG_BIN/psql -q -h $pg_dir -p 5432 -U postgres -f $work/load.sql postgres"
    as_postgres "$PG_BIN/pg_ctl stop -s -m immediate -D $pg_dir"
    pg_running=
    for ((run = 0; run < runs; run++)); do
        copy_of "$pg_dir" "$work/pgcopy"
        : >"$work/pgcopy/log"
        from=$(date +%s%N)
        as_postgres "$PG_BIN/pg_ctl start -s -w -t 600 -D $work/pgcopy -l $work/pgcopy/log -o '-p 5432 \
            -k $pg_dir -c shared_buffers=$buffers $options'"
        until_ms=$((($(date +%s%N) - from) / 1000000))
        redo_s=$(sed -n 's/.*redo done at .*elapsed: \([0-9.]*\) s.*/\1/p' "$work/pgcopy/log")
        as_postgres "$PG_BIN/pg_ctl stop -s -m immediate -D $work/pgcopy"
        say "PostgreSQL: redo $redo_s s, started after $until_ms ms"
        echo "$redo_s" >>"$work/redo.pg"
        echo "$until_ms" >>"$work/open.pg"
    done
fi

: >"$work/table"
fewer_s=
for number in $workers; do
    redo_s=$(median <"$work/redo.$number")
    pg_s=
    [ ! -s "$work/redo.pg" ] || pg_s=$(median <"$work/redo.pg")
    awk -v workers="$number" -v redo="$redo_s" -v open="$(median <"$work/open.$number")" \
        -v upserts="$upserts" -v pg="$pg_s" -v bar=$BAR -v fewer="$fewer_s" \
        -v processors="$processors" 'BEGIN {
            ratio = pg > 0 ? pg / redo : 0
            slower = fewer > 0 && redo > 1.1 * fewer
            # Of fewer workers than there are processors nothing is asked.
            met = (pg == "" || workers < processors || ratio >= bar) && !slower
            printf "| Redoubt, workers: %s | %.0f | %.2f | %.2f | %s | %s |\n", workers, upserts / redo,
                redo, open / 1000, pg == "" ? "" : sprintf("%.2f", ratio),
                slower ? "**slower than with fewer**" : met ? "yes" : "**no**"
            exit met ? 0 : 1
        }' >>"$work/table" || missed=1
    # The fastest so far.
    fewer_s=$({ [ -z "$fewer_s" ] || echo "$fewer_s"; echo "$redo_s"; } | sort -n | head -n 1)
done
if [ -s "$work/redo.pg" ]; then
    printf '| PostgreSQL 15 | %s | | |\n' "$(awk -v redo="$(median <"$work/redo.pg")" \
        -v open="$(median <"$work/open.pg")" -v upserts="$upserts" \
        'BEGIN { printf "%.0f | %.2f | %.2f", upserts / redo, redo, open / 1000 }')" >>"$work/table"
fi

echo
machine
[ -z "$postgres" ] || "$PG_BIN/postgres" --version
echo
echo "| what | transactions/s in redo | redo, s | until the first write, s | ratio (bar $BAR) | met |"
echo "| --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "$keys keys, $upserts random upserts of $VALUE_BYTES bytes replayed, shared_buffers = $buffers;"
echo "medians of $runs${cold:+, no page in the cache of the kernel}."
exit $missed
