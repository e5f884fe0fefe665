# What the scripts of this directory share: servers to compare, started in one temporary directory
# and stopped at the end, and the table. Sourced; expects `base` and `bin` to be set.

PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}

say() { printf '%s\n' "$*" >&2; }

need() { # programs
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || { say "$program is not installed"; exit 2; }
    done
}

if [ -z "$bin" ]; then
    say "building"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    (cd "$root" && cargo build --release --workspace --bins >&2)
    bin=${CARGO_TARGET_DIR:-$root/target}/release
fi

work=$(mktemp -d "$base/rd-bench.XXXXXX")
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

# The same without TCP, until it takes a write; further options go to the server. Its socket is
# then `$socket`, its log, from this start on, `$work/run.log`.
start_on_socket() { # data directory, shared_buffers, options of the server
    local dir=$1 buffers=$2
    shift 2
    socket=$dir/.s.REDOUBT.7432
    "$bin/redoubt" -D "$dir" -c listen_addresses= -c "shared_buffers=$buffers" "$@" \
        >"$work/run.log" 2>&1 &
    redoubt_pid=$!
    until [ "$("$bin/rd_cli" -s "$socket" SET probe 1 2>/dev/null)" = OK ]; do
        kill -0 "$redoubt_pid" 2>/dev/null || { tail "$work/run.log" >&2; exit 1; }
        sleep 0.005
    done
}

crash_redoubt() { # data directory
    kill -KILL "$redoubt_pid"
    wait "$redoubt_pid" 2>/dev/null || true
    redoubt_pid=
    # Its children end a moment later, and hold the lock until then.
    flock "$1/postmaster.lock" true 2>/dev/null || sleep 1
}

cli() { "$bin/rd_cli" -s "$socket" "$@"; }

info() { # section, field
    cli INFO "$1" | tr -d '\r' | sed -n "s/^$2:\([-0-9]*\).*/\1/p"
}

configure() { # name, value, name, value ...
    cli CONFIG SET "$@" >/dev/null
}

stop_redoubt() {
    end "$redoubt_pid"
    wait "$redoubt_pid" || true
    redoubt_pid=
}

start_redis() { # port
    mkdir "$work/redis"
    (cd "$work/redis" && exec redis-server --port "$1" --unixsocket "$work/redis/socket" \
        --dir "$work/redis" --save '' --appendonly yes --appendfsync always) \
        >"$work/redis.log" 2>&1 &
    redis_pid=$!
    wait_until 60 answers "$1"
}

start_postgres() { # port, shared_buffers, further options for the server
    mkdir "$work/postgres"
    [ "$(id -u)" != 0 ] || chown postgres "$work/postgres"
    as_postgres "$PG_BIN/initdb -D $work/postgres -A trust -U postgres >/dev/null"
    pg_running=1
    as_postgres "$PG_BIN/pg_ctl start -s -w -D $work/postgres -l $work/postgres/log -o '-p $1 \
        -k $work/postgres -c listen_addresses=127.0.0.1 -c shared_buffers=$2 \
        -c synchronous_commit=on ${3:-}'"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

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

# A line of the table for what must not be more, or not less, than a bar.
bar() { # what, printf format of the figures, Redoubt's, what it is held against, bar, at-most|at-least
    awk -v what="$1" -v form="$2" -v ours="$3" -v other="$4" -v bar="$5" -v side="$6" 'BEGIN {
        ratio = other > 0 ? ours / other : 0
        met = side == "at-most" ? ratio <= bar : ratio >= bar
        printf "| %s | " form " | " form " | %.2f | %s %.2f | %s |\n", what, ours, other, ratio,
            side == "at-most" ? "at most" : "at least", bar, met ? "yes" : "**no**"
        exit met ? 0 : 1
    }' >>"$work/table" || missed=1
    tail -n 1 "$work/table" >&2
}

machine() { # prints what was compared, and on what
    local cpu memory
    cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
    memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    echo "$(date -u +%Y-%m-%d): $("$bin/redoubt" --version),"
    [ -z "$redis_pid" ] || echo "$(redis-server --version | sed 's/ sha=.*//'),"
    [ -z "$pg_running" ] || echo "$("$PG_BIN/postgres" --version);"
    echo "$(nproc) x ${cpu:-unknown processor}, $memory, $(uname -sr), $(file_system)."
}

file_system() { # prints what the data lies on; a journal costs those who grow a file with each write
    local type device
    type=$(df --output=fstype "$work" | tail -n 1)
    device=$(readlink -f "/sys/dev/block/$(stat -c %Hd:%Ld "$work")")
    case $type in
        ext[34])
            if compgen -G "/proc/fs/jbd2/${device##*/}-*" >/dev/null; then
                echo "$type with a journal"
            else
                echo "$type without a journal"
            fi
            ;;
        *) echo "$type" ;;
    esac
}
