#!/usr/bin/env bash
# How fast Redoubt's transactions and ranges are beside PostgreSQL and Redis, on this machine, in
# one run.
#
#   tests/bench/transactions.sh [--quick] [--dir DIRECTORY] [--bin DIRECTORY]
#                               [--transport unix|tcp|both]
#
# rd_bench is the client of all three, with 32 connections and two threads; runs alternate between
# the servers, and the median counts. All is durable: Redoubt as it is, PostgreSQL with synchronous_commit = on,
# `redis-server --appendonly yes --appendfsync always`, all data on one file system (--dir, by
# default $TMPDIR or /tmp). Of PostgreSQL the faster of rd_bench and `pgbench -M prepared` counts.
#
# transfer  BEGIN, read two of 100,000 accounts, write both, COMMIT: six trips to the server, at
#           REPEATABLE READ in PostgreSQL
# exec      the same as one MULTI to EXEC, beside Redis
# range     100 keys in order of 100,000, values of 100 bytes
# readers   the 99th percentile of GET beside 4 writers in a closed loop, with synchronous_commit
#           on, as a multiple of that with it off
#
# Over unix sockets, and over TCP on loopback, where on few processors the kernel's network takes
# more time than the servers. Prints a table in Markdown for each; exits with 1 if a bar is missed.
# Takes about six minutes.
#
# --quick: short runs, one of each; to see that everything works, not to quote.
# --bin:   the directory of the programs; without it they are built (cargo build --release).
#
# Needs redis-server, redis-cli, and initdb, pg_ctl, psql and pgbench of PostgreSQL 15 (PG_BIN);
# when run by root, a user `postgres` to run it as.
set -euo pipefail

COUNT=100000
VALUE_BYTES=100
CONNECTIONS=32
WRITERS=4
BUFFERS=1GB
runs=3
seconds=5
base=${TMPDIR:-/tmp}
bin=
transports="unix tcp"

while [ $# -gt 0 ]; do
    case $1 in
        --quick) runs=1 seconds=1 ;;
        --dir) base=$2; shift ;;
        --bin) bin=$2; shift ;;
        --transport)
            case $2 in
                unix | tcp) transports=$2 ;;
                both) ;;
                *) echo "--transport is unix, tcp or both" >&2; exit 2 ;;
            esac
            shift
            ;;
        *) sed -n '2,30s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    shift
done

. "$(dirname "$0")/common.sh"

need redis-server redis-cli "$PG_BIN/pgbench"

redoubt_port=$(free_port 17432)
redis_port=$(free_port 17379)
pg_port=$(free_port 15432)
start_redis "$redis_port"
start_redoubt "$work/redoubt" "$redoubt_port" $BUFFERS
start_postgres "$pg_port" $BUFFERS

# The options that reach a server.
to() { # server, transport
    case $1-$2 in
        redoubt-unix) echo "-h $work/redoubt -p $redoubt_port" ;;
        redoubt-tcp) echo "-h 127.0.0.1 -p $redoubt_port" ;;
        redis-unix) echo "-S redis -s $work/redis/socket" ;;
        redis-tcp) echo "-S redis -h 127.0.0.1 -p $redis_port" ;;
        postgres-unix) echo "-S postgres -h $work/postgres -p $pg_port" ;;
        postgres-tcp) echo "-S postgres -h 127.0.0.1 -p $pg_port" ;;
    esac
}

# One run of rd_bench; prints its summary.
bench() { # server, transport, options
    local server=$1 transport=$2
    shift 2
    # The options of `to` are several words.
    # shellcheck disable=SC2046
    "$bin/rd_bench" $(to "$server" "$transport") -k $COUNT -b $VALUE_BYTES -c $CONNECTIONS -j 2 \
        -t "$seconds" --warm-up 1 "$@"
}

# Operations per second of one run.
rate() { # server, transport, work
    bench "$1" "$2" -w "$3" | awk -v work="$3:" '$1 == work { print $4 + 0 }'
}

# Transactions per second of one run of pgbench, with as many connections.
pgbench_rate() { # transport, work
    local host=$work/postgres
    [ "$1" = unix ] || host=127.0.0.1
    as_postgres "PGOPTIONS='-c default_transaction_isolation=repeatable\\ read' $PG_BIN/pgbench \
        -h $host -p $pg_port -U postgres -n -M prepared -c $CONNECTIONS -j 2 -T $seconds \
        --max-tries=1000 -f $work/$2.sql postgres" 2>"$work/pgbench.log" | awk '/^tps/ { print $3 }' \
        || { tail -n 5 "$work/pgbench.log" >&2; exit 1; }
}

# The accounts are written in the order of their numbers, as rd_bench does it.
cat >"$work/transfer.sql" <<SQL
\\set low random(0, $((COUNT - 2)))
\\set high random(:low + 1, $((COUNT - 1)))
\\set amount random(0, 9)
BEGIN;
SELECT balance AS first FROM rd_bench_accounts WHERE k = :low \\gset
SELECT balance AS second FROM rd_bench_accounts WHERE k = :high \\gset
\\set first :first - :amount
\\set second :second + :amount
UPDATE rd_bench_accounts SET balance = :first WHERE k = :low;
UPDATE rd_bench_accounts SET balance = :second WHERE k = :high;
COMMIT;
SQL
cat >"$work/range.sql" <<SQL
\\set key random(0, $((COUNT - 1)))
SELECT k, v FROM rd_bench_values WHERE k >= :key ORDER BY k LIMIT 100;
SQL

# Makes what a work is about, in each server.
load() { # work, servers
    local work=$1 server
    shift
    for server in "$@"; do
        seconds=0 bench "$server" tcp -w "$work" --load
    done
}

compare() { # what, bar, server, transport, work
    local run
    : >"$work/ours"
    : >"$work/theirs"
    for ((run = 0; run < runs; run++)); do
        {
            rate "$3" "$4" "$5"
            [ "$3" != postgres ] || pgbench_rate "$4" "$5"
        } | sort -n | tail -n 1 >>"$work/theirs"
        rate redoubt "$4" "$5" >>"$work/ours"
    done
    row "$1" "${3/p/P}" "$(median <"$work/theirs")" "$(median <"$work/ours")" "$2"
}

# The 99th percentile of GET beside writers, in milliseconds.
p99() { # transport, options
    bench redoubt "$1" -w get --writers $WRITERS "${@:2}" | awk '/^  measured/ { print $6; exit }'
}

readers() { # transport
    local run durable fast
    : >"$work/durable"
    : >"$work/fast"
    for ((run = 0; run < runs; run++)); do
        p99 "$1" >>"$work/durable"
        p99 "$1" --asynchronous >>"$work/fast"
    done
    durable=$(median <"$work/durable")
    fast=$(median <"$work/fast")
    awk -v durable="$durable" -v fast="$fast" -v writers=$WRITERS 'BEGIN {
        ratio = fast > 0 ? durable / fast : 99
        printf "| GET beside %d writers, p99 | %.2f ms | synchronous_commit = off %.2f ms", \
            writers, durable, fast
        printf " | %.2f | at most 1.5 | %s |\n", ratio, ratio <= 1.5 ? "yes" : "**no**"
        exit ratio <= 1.5 ? 0 : 1
    }' >>"$work/table" || missed=1
    tail -n 1 "$work/table" >&2
}

say "loading"
load transfer redoubt redis postgres
load range redoubt postgres

for transport in $transports; do
    say "over $transport"
    : >"$work/table"
    compare "transfer, BEGIN to COMMIT" 3.0 postgres "$transport" transfer
    compare "transfer, MULTI to EXEC" 1.2 redis "$transport" exec
    compare "range of 100 keys" 3.0 postgres "$transport" range
    readers "$transport"
    mv "$work/table" "$work/table.$transport"
done

echo
machine
for transport in $transports; do
    echo
    case $transport in
        unix) echo "Over unix sockets:" ;;
        tcp) echo "Over TCP on loopback:" ;;
    esac
    echo
    echo "| what | Redoubt, per s | other, per s | ratio | bar | met |"
    echo "| --- | --- | --- | --- | --- | --- |"
    cat "$work/table.$transport"
done
echo
echo "Medians of $runs runs of $seconds s; $COUNT accounts or keys, $CONNECTIONS connections, all on one"
echo "file system. Redoubt: shared_buffers = $BUFFERS, defaults otherwise. Redis: appendonly yes,"
echo "appendfsync always, save ''. PostgreSQL: shared_buffers = $BUFFERS, synchronous_commit = on,"
echo "defaults otherwise; the faster of rd_bench and pgbench -M prepared, both with -j 2."
exit $missed
