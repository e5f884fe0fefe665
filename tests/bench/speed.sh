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

PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}
KEYS=1000000
VALUE_BYTES=100
BUFFERS=1GB
runs=3
seconds=8
base=${TMPDIR:-/tmp}
bin=
postgres=1
root=$(cd "$(dirname "$0")/../.." && pwd)

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

say() { printf '%s\n' "$*" >&2; }

for program in redis-server redis-cli redis-benchmark; do
    command -v "$program" >/dev/null || { say "$program is not installed"; exit 2; }
done
if [ -n "$postgres" ] && [ ! -x "$PG_BIN/pgbench" ]; then
    say "no pgbench in $PG_BIN: PostgreSQL is left out"
    postgres=
fi
if [ -z "$bin" ]; then
    say "building"
    (cd "$root" && cargo build --release --workspace --bins >&2)
    bin=${CARGO_TARGET_DIR:-$root/target}/release
fi

work=$(mktemp -d "$base/rd-speed.XXXXXX")
chmod 755 "$work"
redis_pid=
redoubt_pid=
pg_running=

as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && su postgres -s /bin/sh -c "$*")
    else
        sh -c "$*"
    fi
}

end() { # process id: a fast stop, then a hard one
    kill -INT "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

cleanup() {
    trap - EXIT
    [ -z "$redoubt_pid" ] || end "$redoubt_pid"
    [ -z "$redis_pid" ] || end "$redis_pid"
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

answers() { [ "$(redis-cli -p "$1" PING 2>/dev/null)" = PONG ]; }

wait_until() { # seconds, command
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $until ] || { say "waited in vain for: $*"; exit 1; }
        sleep 0.01
    done
}

start_redoubt() { # data directory, port, shared_buffers
    "$bin/redoubt" -D "$1" -c "port=$2" -c "shared_buffers=$3" >>"$work/redoubt.log" 2>&1 &
    redoubt_pid=$!
    wait_until 60 answers "$2"
}

stop_redoubt() {
    end "$redoubt_pid"
    wait "$redoubt_pid" || true
    redoubt_pid=
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# One run of redis-benchmark; prints requests per second.
bench() { # port, test, requests, clients, pipeline
    redis-benchmark -p "$1" -t "$2" -n "$3" -c "$4" -P "$5" -r $KEYS -d $VALUE_BYTES --csv 2>/dev/null \
        | awk -F'"' '$2 != "test" { print $4 }'
}

missed=0
row() { # what, other's name, other's rate, ours, bar
    awk -v what="$1" -v other="$2" -v theirs="$3" -v ours="$4" -v bar="$5" 'BEGIN {
        ratio = theirs > 0 ? ours / theirs : 0
        verdict = ratio >= bar ? "yes" : "**no**"
        printf "| %s | %.0f | %s %.0f | %.2f | %.1f | %s |\n",
            what, ours, other, theirs, ratio, bar, verdict
        exit ratio >= bar ? 0 : 1
    }' >>"$work/table" || missed=1
    tail -n 1 "$work/table" >&2
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
mkdir "$work/redis"
(cd "$work/redis" && exec redis-server --port "$redis_port" --dir "$work/redis" --save '' \
    --appendonly yes --appendfsync always) >"$work/redis.log" 2>&1 &
redis_pid=$!
wait_until 60 answers "$redis_port"
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
    mkdir "$work/postgres"
    [ "$(id -u)" != 0 ] || chown postgres "$work/postgres"
    say "loading $KEYS rows into PostgreSQL"
    as_postgres "$PG_BIN/initdb -D $work/postgres -A trust -U postgres >/dev/null"
    cat >"$work/upsert.sql" <<SQL
\\set key random(0, $((KEYS - 1)))
INSERT INTO kv VALUES (:key, repeat('x', $VALUE_BYTES))
    ON CONFLICT (key) DO UPDATE SET value = excluded.value;
SQL
    pg_running=1
    as_postgres "$PG_BIN/pg_ctl start -s -w -D $work/postgres -l $work/postgres/log -o '-p $pg_port \
        -k $work/postgres -c listen_addresses=127.0.0.1 -c shared_buffers=$BUFFERS \
        -c synchronous_commit=on'"
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
cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
file_system=$(stat -f -c %T "$work")
echo
echo "$(date -u +%Y-%m-%d): $("$bin/redoubt" --version), $(redis-server --version | sed 's/ sha=.*//'),"
[ -z "$postgres" ] || echo "$("$PG_BIN/postgres" --version);"
echo "$(nproc) x ${cpu:-unknown processor}, $memory, $(uname -sr), file system $file_system."
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
