#!/usr/bin/env bash
# How fast Redoubt replays its log, beside PostgreSQL, on this machine, in one run.
#
#   tests/bench/recovery.sh [--keys N] [--upserts N] [--workers "1 2"] [--runs N]
#                           [--dir DIRECTORY] [--bin DIRECTORY] [--no-postgres]
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
# Needs redis-cli and redis-benchmark; for PostgreSQL initdb, pg_ctl and psql of version 15
# (PG_BIN), and, when run by root, a user `postgres` to run it as.
set -euo pipefail

PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}
VALUE_BYTES=100
keys=1000000
upserts=3000000
workers=
runs=3
base=${TMPDIR:-/tmp}
bin=
postgres=1
root=$(cd "$(dirname "$0")/../.." && pwd)

while [ $# -gt 0 ]; do
    case $1 in
        --keys) keys=$2; shift ;;
        --upserts) upserts=$2; shift ;;
        --workers) workers=$2; shift ;;
        --runs) runs=$2; shift ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        --no-postgres) postgres= ;;
        *) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done
# Enough for all pages: what is measured is redo, not the reading of pages again and again.
buffers=$((keys / 2500 + 256))MB

say() { printf '%s\n' "$*" >&2; }

if [ -z "$bin" ]; then
    say "building"
    (cd "$root" && cargo build --release --workspace --bins >&2)
    bin=${CARGO_TARGET_DIR:-$root/target}/release
fi
work=$(mktemp -d "$base/rd-recovery.XXXXXX")
chmod 755 "$work"
server_pid=
pg_running=

as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && su postgres -s /bin/sh -c "$*")
    else
        sh -c "$*"
    fi
}

cleanup() {
    trap - EXIT
    [ -z "$server_pid" ] || kill -KILL "$server_pid" 2>/dev/null || true
    [ -z "$pg_running" ] \
        || as_postgres "$PG_BIN/pg_ctl stop -s -m immediate -D $work/postgres" || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

free_port() { # from where to look
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

takes_writes() { [ "$(redis-cli -s "$1/.s.REDOUBT.$port" SET probe 1 2>/dev/null)" = OK ]; }

start() { # data directory, log, further options
    local dir=$1 log=$2
    shift 2
    "$bin/redoubt" -D "$dir" -c "port=$port" -c "shared_buffers=$buffers" \
        -c checkpoint_timeout=1h -c max_wal_size=100GB -c recovery_time_target=0 \
        "$@" >>"$log" 2>&1 &
    server_pid=$!
    until takes_writes "$dir"; do
        kill -0 "$server_pid" 2>/dev/null || { tail "$log" >&2; exit 1; }
        sleep 0.005
    done
}

crash() { # data directory
    kill -KILL "$server_pid"
    wait "$server_pid" 2>/dev/null || true
    server_pid=
    # Its children end a moment later, and hold the lock until then.
    flock "$1/postmaster.lock" true 2>/dev/null || sleep 1
}

port=$(free_port 17532)
data=$work/redoubt
start "$data" "$work/log"
say "loading $keys keys"
awk -v keys="$keys" -v bytes="$VALUE_BYTES" 'BEGIN {
    value = sprintf("%" bytes "s", ""); gsub(/ /, "x", value)
    for (key = 0; key < keys; key++) printf "SET key:%012d %s\r\n", key, value
}' | redis-cli -p "$port" --pipe >/dev/null
redis-cli -p "$port" CHECKPOINT >/dev/null
say "$upserts random upserts"
redis-benchmark -p "$port" -t set -n "$upserts" -c 16 -P 64 -r "$keys" -d $VALUE_BYTES --csv \
    2>/dev/null | tail -n 1 >&2
crash "$data"

one_run() { # number of workers, or nothing for the default
    local copy=$work/copy log=$work/run.log from
    rm -rf "$copy" "$log"
    cp -a --reflink=auto "$data" "$copy"
    sync
    from=$(date +%s%N)
    # shellcheck disable=SC2086
    start "$copy" "$log" ${1:+-c recovery_workers=$1}
    local until_write_ms=$((($(date +%s%N) - from) / 1000000))
    crash "$copy"
    local redo_s
    redo_s=$(sed -n 's/.*redo done at .*elapsed \([0-9.]*\) s.*/\1/p' "$log")
    # Without these the redo point has moved on, and the figure would be of something else.
    local records
    records=$(sed -n 's/.*redo done at [^:]*: \([0-9]*\) records.*/\1/p' "$log")
    [ "$records" -ge "$upserts" ] || { say "only $records records were replayed"; exit 1; }
    say "workers ${1:-default}: redo $redo_s s, first write after $until_write_ms ms"
    echo "$redo_s" >>"$work/redo.${1:-default}"
    echo "$until_write_ms" >>"$work/open.${1:-default}"
}

for ((run = 0; run < runs; run++)); do
    if [ -z "$workers" ]; then one_run ""; fi
    for number in $workers; do one_run "$number"; done
done
for number in ${workers:-default}; do
    printf '| Redoubt, workers: %s | %s |\n' "$number" "$(awk -v redo="$(median <"$work/redo.$number")" \
        -v open="$(median <"$work/open.$number")" -v upserts="$upserts" \
        'BEGIN { printf "%.0f | %.2f | %.2f", upserts / redo, redo, open / 1000 }')" >>"$work/table"
done

if [ -n "$postgres" ] && [ -x "$PG_BIN/initdb" ]; then
    rm -rf "$work/copy"
    pg_port=$(free_port 15532)
    pg_dir=$work/postgres
    mkdir "$pg_dir"
    [ "$(id -u)" != 0 ] || chown postgres "$pg_dir"
    as_postgres "$PG_BIN/initdb -D $pg_dir -A trust -U postgres >/dev/null"
    pg_start() {
        as_postgres "$PG_BIN/pg_ctl start -s -w -t 600 -D $1 -l $1/log -o '-p $pg_port -k $work/postgres \
            -c listen_addresses=127.0.0.1 -c shared_buffers=$buffers -c synchronous_commit=off \
            -c checkpoint_timeout=1h -c max_wal_size=100GB'"
    }
    pg_running=1
    pg_start "$pg_dir"
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
    as_postgres "$PG_BIN/psql -q -h 127.0.0.1 -p $pg_port -U postgres -f $work/load.sql postgres"
    as_postgres "$PG_BIN/pg_ctl stop -s -m immediate -D $pg_dir"
    for ((run = 0; run < runs; run++)); do
        rm -rf "$work/pgcopy"
        cp -a --reflink=auto "$pg_dir" "$work/pgcopy"
        : >"$work/pgcopy/log"
        sync
        from=$(date +%s%N)
        pg_start "$work/pgcopy"
        until_ms=$((($(date +%s%N) - from) / 1000000))
        redo_s=$(sed -n 's/.*redo done at .*elapsed: \([0-9.]*\) s.*/\1/p' "$work/pgcopy/log")
        as_postgres "$PG_BIN/pg_ctl stop -s -m immediate -D $work/pgcopy"
        say "PostgreSQL: redo $redo_s s, started after $until_ms ms"
        echo "$redo_s" >>"$work/redo.pg"
        echo "$until_ms" >>"$work/open.pg"
    done
    pg_running=
    printf '| PostgreSQL 15 | %s |\n' "$(awk -v redo="$(median <"$work/redo.pg")" \
        -v open="$(median <"$work/open.pg")" -v upserts="$upserts" \
        'BEGIN { printf "%.0f | %.2f | %.2f", upserts / redo, redo, open / 1000 }')" >>"$work/table"
fi

echo
echo "$(date -u +%Y-%m-%d): $("$bin/redoubt" --version); $(nproc) cores; $keys keys, $upserts random"
echo "upserts of $VALUE_BYTES bytes replayed, shared_buffers = $buffers; medians of $runs."
echo
echo "| what | transactions/s in redo | redo, s | until the first write, s |"
echo "| --- | --- | --- | --- |"
cat "$work/table"
