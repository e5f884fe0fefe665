//! Commands of Redis that there are none of here, because they are about what there is none of: a
//! client is told so, rather than that the command is unknown.

/// What a set of commands is about, in a sentence that begins with the command, and the commands.
const FOREIGN: &[(&str, &str)] = &[
    (
        "works on a list; Redoubt stores strings only",
        "blmove blmpop blpop brpop brpoplpush lindex linsert llen lmove lmpop lpop lpos \
         lpush lpushx lrange lrem lset ltrim rpop rpoplpush rpush rpushx sort sort_ro",
    ),
    (
        "works on a hash; Redoubt stores strings only",
        "hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield \
         hscan hset hsetnx hstrlen hvals",
    ),
    (
        "works on a set; Redoubt stores strings only",
        "sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers \
         smismember smove spop srandmember srem sscan sunion sunionstore",
    ),
    (
        "works on a sorted set; Redoubt stores strings only, and all keys in order: see RANGE",
        "bzmpop bzpopmax bzpopmin geoadd geodist geohash geopos georadius georadius_ro \
         georadiusbymember georadiusbymember_ro geosearch geosearchstore zadd zcard zcount \
         zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore \
         zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore zrangestore zrank \
         zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex \
         zrevrangebyscore zrevrank zscan zscore zunion zunionstore",
    ),
    (
        "works on a stream; Redoubt stores strings only",
        "xack xadd xautoclaim xclaim xdel xgroup xinfo xlen xpending xrange xread \
         xreadgroup xrevrange xsetid xtrim",
    ),
    (
        "works on a HyperLogLog; Redoubt has none",
        "pfadd pfcount pfmerge",
    ),
    (
        "is about messages between clients; Redoubt has none",
        "psubscribe publish pubsub punsubscribe spublish ssubscribe subscribe sunsubscribe \
         unsubscribe",
    ),
    (
        "runs scripts on the server; Redoubt has none: see BEGIN and MULTI",
        "eval eval_ro evalsha evalsha_ro fcall fcall_ro function script",
    ),
];

/// What the command `name` is about, if it is one of these.
pub(super) fn what(name: &[u8]) -> Option<&'static str> {
    let is_it = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
    let row = FOREIGN
        .iter()
        .find(|(_, names)| names.split(' ').any(is_it));
    row.map(|(what, _)| *what)
}
