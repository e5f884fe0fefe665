#!/usr/bin/env bash
# How fast Redoubt is beside Redis and PostgreSQL, on this machine, in one run.
#
#   tests/bench/speed.sh [--quick] [--dir DIRECTORY] [--bin DIRECTORY] [--no-postgres]
#
# Durable writes against durable writes: Redoubt as it is, `redis-server --appendonly yes
# --appendfsync always`, PostgreSQL with synchronous_commit = on. redis-benchmark is the client of
# both Redoubt and Redis; its runs alternate between them, and the median counts. All data lies on
# one file system (--dir, by default $TMPDIR or /tmp). Values of 100 bytes, 1,000,000 random keys.
# Each run takes as many requests as fill some seconds. Prints a table in Markdown; exits with 1 if
# a bar is missed. Takes about five minutes.
#
# --quick: short runs, one of each; to see that everything works, not to quote.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
#
# Needs redis-server, redis-cli, redis-benchmark; for PostgreSQL initdb, pg_ctl and pgbench of
# version 15 (PG_BIN), and, when run by root, a user `postgres` to run it as.
set -euo pipefail

KEYS=1000000
VALUE_BYTES=100
BUFFERS=1GB
runs=3
seconds=8
base=${TMPDIR:-/tmp}
bin=
postgres=1

while [ $# -gt 0 ]; do
    case $1 in
        --quick) runs=1 seconds=1 ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        --no-postgres) postgres= ;;
        *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done

. "$(dirname "$0")/common.sh"

need redis-server redis-cli redis-benchmark
if [ -n "$postgres" ] && [ ! -x "$PG_BIN/pgbench" ]; then
    say "no pgbench in $PG_BIN: PostgreSQL is left out"
    postgres=
fi
# One run of redis-benchmark; prints requests per second.
bench() { # port, test, requests, clients, pipeline
    redis-benchmark -p "$1" -t "$2" -n "$3" -c "$4" -P "$5" -r $KEYS -d $VALUE_BYTES --csv 2>/dev/null \
        | awk -F'"' '$2 != "test" { print $4 }'
}

# Requests that fill a run, by a short one.
requests() { # port, test, clients, pipeline
    bench "$1" "$2" $((100 * $3 * $4)) "$3" "$4" \
        | awk -v seconds="$seconds" '{ n = $1 * seconds } END { printf "%d", (n > 1000 ? n : 1000) }'
}

compare() { # what, bar, test, clients, pipeline
    local run theirs ours
    theirs=$(requests "$redis_port" "$3" "$4" "$5")
    ours=$(requests "$redoubt_port" "$3" "$4" "$5")
    : >"$work/ours"
    : >"$work/theirs"
    for ((run = 0; run < runs; run++)); do
        bench "$redis_port" "$3" "$theirs" "$4" "$5" >>"$work/theirs"
        bench "$redoubt_port" "$3" "$ours" "$4" "$5" >>"$work/ours"
    done
    row "$1" Redis "$(median <"$work/theirs")" "$(median <"$work/ours")" "$2"
}

# --- start-up of a fresh server ------------------------------------------------------------------
redoubt_port=$(free_port 17432)
: >"$work/starts"
for ((run = 0; run < 3; run++)); do
    from=$(date +%s%N)
    start_redoubt "$work/fresh.$run" "$redoubt_port" 128MB
    echo $((($(date +%s%N) - from) / 1000000)) >>"$work/starts"
    stop_redoubt
    rm -rf "$work/fresh.$run"
done
start_ms=$(median <"$work/starts")

# --- Redoubt beside Redis ------------------------------------------------------------------------
redis_port=$(free_port 17379)
start_redis "$redis_port"
start_redoubt "$work/redoubt" "$redoubt_port" $BUFFERS

say "loading $KEYS random keys into both"
for port in "$redis_port" "$redoubt_port"; do
    bench "$port" set $KEYS 16 64 >/dev/null
done

compare "durable SET, 1 connection" 1.3 set 1 1
compare "durable SET, 8 connections" 1.2 set 8 1
compare "durable SET, 64 connections" 1.3 set 64 1
compare "durable SET, 64 connections x 16 in a pipeline" 1.8 set 64 16
compare "GET, 64 connections" 0.9 get 64 1

# --- Redoubt beside PostgreSQL -------------------------------------------------------------------
if [ -n "$postgres" ]; then
    pg_port=$(free_port 15432)
    say "loading $KEYS rows into PostgreSQL"
    start_postgres "$pg_port" $BUFFERS
    cat >"$work/upsert.sql" <<SQL
\\set key random(0, $((KEYS - 1)))
INSERT INTO kv VALUES (:key, repeat('x', $VALUE_BYTES))
    ON CONFLICT (key) DO UPDATE SET value = excluded.value;
SQL
    pg() { as_postgres "$PG_BIN/$1 -h 127.0.0.1 -p $pg_port -U postgres $2"; }
    pg psql "-q -d postgres -c 'CREATE TABLE kv (key bigint PRIMARY KEY, value text)' \
        -c \"INSERT INTO kv SELECT n, repeat('x', $VALUE_BYTES) FROM generate_series(0, $((KEYS - 1))) n\" \
        -c 'VACUUM ANALYZE kv' -c CHECKPOINT"
    ours=$(requests "$redoubt_port" set 64 1)
    : >"$work/ours"
    : >"$work/theirs"
    for ((run = 0; run < runs; run++)); do
        pg pgbench "-n -M prepared -c 64 -j 2 -T $seconds -f $work/upsert.sql postgres" 2>/dev/null \
            | awk '/^tps/ { print $3 }' >>"$work/theirs"
        bench "$redoubt_port" set "$ours" 64 1 >>"$work/ours"
    done
    row "durable SET, 64 connections" "PostgreSQL upsert" "$(median <"$work/theirs")" \
        "$(median <"$work/ours")" 2.0
fi

# --- the report ----------------------------------------------------------------------------------
echo
machine
echo
echo "| what | Redoubt, per s | other, per s | ratio | bar | met |"
echo "| --- | --- | --- | --- | --- | --- |"
cat "$work/table"
echo
echo "Medians of $runs; $VALUE_BYTES-byte values, $KEYS random keys, client redis-benchmark (pgbench"
echo "-M prepared -c 64 -j 2 for PostgreSQL), over TCP on loopback, all on one file system. Redoubt:"
echo "shared_buffers = $BUFFERS, defaults otherwise. Redis: appendonly yes, appendfsync always, save ''."
echo "PostgreSQL: shared_buffers = $BUFFERS, synchronous_commit = on, defaults otherwise."
echo
echo "A fresh server with shared_buffers = 128MB, data directory made on the way, answers after"
echo "$start_ms ms."
[ "$start_ms" -lt 1000 ] || missed=1
exit $missed
