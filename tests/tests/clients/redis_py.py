"""What a Python program would do, through redis-py. Takes the unix socket's path."""

import sys

import redis


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")


def scans(r):
    found = sorted(r.scan_iter(match="pipe:*", count=17))
    check("scan_iter", found, sorted(f"pipe:{n}".encode() for n in range(1000)))
    check("scan_iter", list(r.scan_iter(match="nothing*")), [])
    check("scan_iter", r.delete(*r.scan_iter(match="pipe:*")), 1000)


def transactions(r):
    with r.pipeline() as pipe:
        pipe.set("tx", 1).incr("tx").get("tx").expire("tx", 100).ttl("tx")
        check("multi", pipe.execute(), [True, 2, b"2", True, 100])
    with r.pipeline() as pipe:
        pipe.set("tx", "text").incr("tx").set("after", 1)
        try:
            pipe.execute()
            sys.exit("incr of a text gave no error in a transaction")
        except redis.ResponseError as error:
            check("exec error", "not an integer" in str(error), True)
    check("the rest of it was done", r.get("after"), b"1")

    # The helper runs again if somebody else changes what it watches.
    r.set("tx", 1)
    runs = []

    def double(pipe):
        value = int(pipe.get("tx"))
        if not runs:
            r.set("tx", 10)
        runs.append(value)
        pipe.multi()
        pipe.set("tx", value * 2)

    check("transaction", r.transaction(double, "tx"), [True])
    check("transaction ran again", (runs, r.get("tx")), ([1, 10], b"20"))


def locks(r):
    # A lock is SET NX PX; it is let go of by a script, which the server does not run and says so.
    lock = r.lock("lock", timeout=60, blocking=False)
    check("lock", lock.acquire(), True)
    check("lock twice", r.lock("lock", timeout=60, blocking=False).acquire(), False)
    check("lock ends", 0 < r.pttl("lock") <= 60_000, True)
    token = lock.local.token
    try:
        lock.release()
        sys.exit("a script was run")
    except redis.ResponseError as error:
        check("script", "unknown command" in str(error), True)
    check("still locked", r.get("lock"), token)

    # What does the same without a script.
    def release(pipe):
        owner = pipe.get("lock")
        pipe.multi()
        if owner == token:
            pipe.delete("lock")

    check("release", r.transaction(release, "lock"), [1])
    short = r.lock("lock", timeout=0.05, blocking=False)
    check("lock again", short.acquire(), True)
    late = r.lock("lock", timeout=60, blocking_timeout=30, sleep=0.01)
    check("a lock that ends is free", late.acquire(), True)
    r.delete("lock", "tx", "after")


def session(socket, protocol):
    r = redis.Redis(unix_socket_path=socket, protocol=protocol)
    check("ping", r.ping(), True)
    r.flushall()
    check("set", r.set("key", b"value\x00\xff"), True)
    check("get", r.get("key"), b"value\x00\xff")
    check("get nothing", r.get("nothing"), None)
    check("set nx", r.set("key", "other", nx=True), None)
    check("set xx get", r.set("key", "new", xx=True, get=True), b"value\x00\xff")
    check("mset", r.mset({"a": 1, "b": 2, "c": 3}), True)
    check("mget", r.mget("a", "nothing", "c"), [b"1", None, b"3"])
    check("incr", r.incr("a", 41), 42)
    check("decr", r.decr("a", 2), 40)
    check("append", r.append("log", "line"), 4)
    check("strlen", r.strlen("log"), 4)
    check("exists", r.exists("a", "b", "nothing"), 2)
    check("delete", r.delete("a", "nothing"), 1)
    check("dbsize", r.dbsize(), 4)
    found = r.execute_command("RANGE", "b", "d")
    pairs = found if protocol == 2 else [x for pair in found.items() for x in pair]
    check("range", pairs, [b"b", b"2", b"c", b"3"])
    try:
        r.incr("key")
        sys.exit("incr of a text gave no error")
    except redis.ResponseError as error:
        check("error", str(error), "value is not an integer or out of range")
    try:
        r.execute_command("NOSUCH", "a")
        sys.exit("an unknown command gave no error")
    except redis.ResponseError as error:
        check("unknown", str(error).startswith("unknown command 'NOSUCH'"), True)

    pipe = r.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"pipe:{number}", number)
    check("pipeline", pipe.execute(), [True] * 1000)
    pipe = r.pipeline(transaction=False)
    for number in range(1000):
        pipe.get(f"pipe:{number}")
    check("pipeline", pipe.execute(), [str(n).encode() for n in range(1000)])

    large = bytes(range(256)) * 4096
    check("set large", r.set("large", large), True)
    check("get large", r.get("large"), large)

    scans(r)
    transactions(r)
    locks(r)

    check("info", r.info("server")["redis_mode"], "standalone")
    wal = r.info("wal")
    check("lsn", "/" in wal["insert_lsn"] and "/" in wal["durable_lsn"], True)
    check("config get", r.config_get("max_connections"), {"max_connections": "10000"})
    check("config set", r.config_set("timeout", 60), True)
    check("config get", r.config_get("timeout"), {"timeout": "60"})
    check("client id", isinstance(r.client_id(), int), True)
    check("setname", r.client_setname("python"), True)
    check("getname", r.client_getname() in ("python", b"python"), True)
    names = [client["name"] for client in r.client_list()]
    check("client list", "python" in names, True)
    check("command count", r.command_count() > 30, True)
    check("save", r.save(), True)
    check("lastsave", r.lastsave().year >= 2024, True)
    check("flushdb", r.flushdb(), True)
    check("dbsize", r.dbsize(), 0)
    r.close()


session(sys.argv[1], 2)
session(sys.argv[1], 3)
print("all right")
