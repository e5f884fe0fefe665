//! The table of commands as clients see it: the replies of COMMAND, decoded; the rows against
//! what a Redis server says of the same commands; errors to the letter; the printed document.

#![allow(clippy::unwrap_used)]

use rd_wire::client::{DecodeLimits, Reply, ReplyDecoder};
use rd_wire::command::{
    all, command_document, commands, keys, lookup, name_of, synopsis, write_command_count,
    write_command_docs, write_command_getkeys, write_command_info, write_command_list, write_help,
};
use rd_wire::{Args, CommandId, Proto, ReplyWriter, RequestBuf, resolve};
use std::collections::{BTreeSet, HashSet};

fn decode(bytes: &[u8]) -> Reply {
    let mut decoder = ReplyDecoder::new(DecodeLimits::default());
    decoder.feed(bytes);
    let reply = decoder.next_reply().unwrap().expect("one whole reply");
    assert!(!decoder.is_within_reply(), "more than one reply");
    reply
}

fn written(proto: Proto, write: impl FnOnce(&mut ReplyWriter<'_>)) -> Reply {
    let mut out = Vec::new();
    write(&mut ReplyWriter::new(&mut out, proto));
    decode(&out)
}

fn with_args<T>(words: &[&str], f: impl FnOnce(Args<'_>) -> T) -> T {
    f(RequestBuf::new(words).unwrap().args())
}

fn text(reply: &Reply) -> &str {
    reply
        .as_str()
        .unwrap_or_else(|| panic!("no text: {reply:?}"))
}

fn words(reply: &Reply) -> String {
    let items = reply
        .as_slice()
        .unwrap_or_else(|| panic!("no words: {reply:?}"));
    items.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The value of `key`, in a map or in an array that stands for one.
fn field<'a>(reply: &'a Reply, key: &str) -> Option<&'a Reply> {
    match reply {
        Reply::Map(pairs) => pairs
            .iter()
            .find(|(name, _)| text(name) == key)
            .map(|(_, v)| v),
        Reply::Array(items) => items
            .chunks(2)
            .find(|pair| text(&pair[0]) == key)
            .map(|p| &p[1]),
        other => panic!("no map: {other:?}"),
    }
}

/// A row of COMMAND INFO in the words of the fixture.
fn info_line(row: &Reply) -> String {
    let row = row.as_slice().unwrap();
    assert_eq!(row.len(), 10);
    let number = |index: usize| row[index].as_int().unwrap();
    let specs = row[8].as_slice().unwrap();
    for (index, spec) in specs.iter().enumerate() {
        let search = field(spec, "begin_search").unwrap();
        assert_eq!(text(field(search, "type").unwrap()), "index");
        let first = field(field(search, "spec").unwrap(), "index").unwrap();
        assert_eq!(first.as_int(), Some(number(3) + index as i64));
        let find = field(field(spec, "find_keys").unwrap(), "spec").unwrap();
        assert_eq!(field(find, "keystep").unwrap().as_int(), Some(number(5)));
    }
    let access = specs
        .iter()
        .map(|spec| words(field(spec, "flags").unwrap()));
    let access = access.collect::<Vec<_>>().join(" | ");
    let places = [3, 4, 5].map(|index| number(index).to_string()).join(" ");
    let [flags, categories, tips] = [2, 6, 7].map(|index| words(&row[index]));
    format!(
        "{};{};{flags};{places};{categories};{tips};{access}",
        text(&row[0]),
        number(1)
    )
}

#[test]
fn rows_are_those_of_redis() {
    // Where we differ, and why.
    let differ = [
        // Redis 7.2 takes `COMMAND GETKEYS PING`, 7.0 does not.
        ("command|getkeys;-4;", "command|getkeys;-3;"),
        ("command|getkeysandflags;-4;", "command|getkeysandflags;-3;"),
    ];
    let mut seen = 0;
    for line in include_str!("data/redis_commands.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
    {
        let mut expected = line.to_owned();
        for (theirs, ours) in differ {
            expected = expected.replace(theirs, ours);
        }
        let name = line.split(';').next().unwrap();
        for proto in [Proto::Resp2, Proto::Resp3] {
            let reply = with_args(&[name], |args| {
                written(proto, |reply| write_command_info(reply, args))
            });
            assert_eq!(info_line(&reply.as_slice().unwrap()[0]), expected);
        }
        seen += 1;
    }
    // Redis has all of our commands but these.
    let own = [
        "range",
        "revrange",
        "countrange",
        "delrange",
        "checkpoint",
        "client|setinfo",
        "client|no-touch",
        "client|synchronous-commit",
        "waitaof",
        "begin",
        "commit",
        "rollback",
        "savepoint",
        "release",
        "use",
        "namespace",
        "namespace|create",
        "namespace|drop",
        "namespace|rename",
        "namespace|readonly",
        "namespace|readwrite",
        "namespace|offline",
        "namespace|online",
        "namespace|list",
        "namespace|info",
        "namespace|help",
        "stat",
        "stat|checkpoints",
        "stat|checkpoint",
        "stat|recovery",
        "stat|io",
        "stat|wal",
        "stat|buffers",
        "stat|scrub",
        "stat|processes",
        "stat|advice",
        "stat|recoveries",
        "stat|help",
    ];
    assert_eq!(seen + own.len(), all().count());
    assert!(own.iter().all(|name| all().any(|row| row.name == *name)));
}

#[test]
fn info_has_redis_shape_byte_by_byte() {
    let write = |proto, names: &[&str]| {
        let mut out = Vec::new();
        with_args(names, |args| {
            write_command_info(&mut ReplyWriter::new(&mut out, proto), args)
        });
        String::from_utf8(out).unwrap().replace("\r\n", " ")
    };
    assert_eq!(
        write(Proto::Resp2, &["GET", "nope"]),
        "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@read +@string +@fast *0 *1 *6 $5 flags \
         *2 +RO +access $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 $9 find_keys \
         *4 $4 type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0 *0 $-1 "
    );
    assert_eq!(
        write(Proto::Resp3, &["mset", "config|nope"]),
        "*2 *10 $4 mset :-3 ~2 +write +denyoom :1 :-1 :2 ~3 +@write +@string +@slow ~2 $26 \
         request_policy:multi_shard $29 response_policy:all_succeeded ~1 %3 $5 flags ~2 +OW \
         +update $12 begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 \
         type $5 range $4 spec %3 $7 lastkey :-1 $7 keystep :2 $5 limit :0 *0 _ "
    );
}

#[test]
fn the_whole_table_decodes_in_both_protocols() {
    for proto in [Proto::Resp2, Proto::Resp3] {
        let none = |args: Args<'_>| written(proto, |reply| write_command_info(reply, args));
        let rows = with_args(&[], none);
        let names: BTreeSet<_> = rows
            .as_slice()
            .unwrap()
            .iter()
            .map(|row| text(&row.as_slice().unwrap()[0]))
            .collect();
        assert_eq!(names, commands().map(|row| row.name).collect());
        let count = written(proto, write_command_count);
        assert_eq!(count.as_int(), Some(names.len() as i64));

        let docs = with_args(&[], |args| {
            written(proto, |reply| write_command_docs(reply, args))
        });
        for row in commands() {
            let entry = field(&docs, row.name).unwrap();
            assert_eq!(text(field(entry, "summary").unwrap()), row.summary);
            assert_eq!(text(field(entry, "group").unwrap()), row.group.name());
            let subcommands = field(entry, "subcommands");
            assert_eq!(subcommands.is_some(), row.subcommands().next().is_some());
            for sub in row.subcommands() {
                assert!(
                    field(subcommands.unwrap(), sub.name).is_some(),
                    "{}",
                    sub.name
                );
            }
        }
    }
}

#[test]
fn docs_describe_arguments() {
    let docs = with_args(&["set", "nope"], |args| {
        written(Proto::Resp2, |reply| write_command_docs(reply, args))
    });
    assert_eq!(docs.as_slice().unwrap().len(), 2);
    let arguments = field(field(&docs, "set").unwrap(), "arguments")
        .unwrap()
        .as_slice()
        .unwrap();
    let [key, value, condition, get, expiration] = arguments else {
        panic!("{arguments:?}")
    };
    assert_eq!(text(field(key, "type").unwrap()), "key");
    assert_eq!(field(key, "key_spec_index").unwrap().as_int(), Some(0));
    assert_eq!(text(field(value, "display_text").unwrap()), "value");
    assert_eq!(text(field(condition, "type").unwrap()), "oneof");
    assert_eq!(words(field(condition, "flags").unwrap()), "optional");
    let xx = &field(condition, "arguments").unwrap().as_slice().unwrap()[1];
    assert_eq!(text(field(xx, "token").unwrap()), "XX");
    assert_eq!(text(field(get, "type").unwrap()), "pure-token");
    let ex = &field(expiration, "arguments").unwrap().as_slice().unwrap()[0];
    assert_eq!(text(field(ex, "token").unwrap()), "EX");
}

#[test]
fn list_filters() {
    let list = |options: &[&str]| {
        with_args(options, |args| {
            written(Proto::Resp3, |reply| write_command_list(reply, args))
        })
    };
    let names = |reply: &Reply| -> HashSet<String> {
        reply
            .as_slice()
            .unwrap()
            .iter()
            .map(|name| text(name).to_owned())
            .collect()
    };
    assert_eq!(names(&list(&[])).len(), all().count());
    assert_eq!(
        names(&list(&["FILTERBY", "pattern", "config|re*"])),
        ["config|rewrite", "config|resetstat"]
            .map(String::from)
            .into()
    );
    let strings = names(&list(&["filterby", "ACLCAT", "string"]));
    assert!(strings.contains("get") && !strings.contains("del"));
    assert!(names(&list(&["filterby", "aclcat", "nope"])).is_empty());
    assert!(names(&list(&["filterby", "module", "x"])).is_empty());
    for options in [
        &["filterby"][..],
        &["filterby", "x", "y"],
        &["a", "b", "c"],
        &["x"; 4],
    ] {
        assert_eq!(list(options).error(), Some("ERR syntax error"));
    }
}

#[test]
fn getkeys_answers_as_redis() {
    let getkeys = |request: &[&str]| {
        with_args(request, |args| {
            written(Proto::Resp2, |reply| write_command_getkeys(reply, args))
        })
    };
    assert_eq!(words(&getkeys(&["mset", "a", "b", "c", "d"])), "a c");
    assert_eq!(words(&getkeys(&["SET", "a", "b", "NX"])), "a");
    assert_eq!(words(&getkeys(&["del", "a", "b", "c"])), "a b c");
    for (request, error) in [
        (
            &["get", "a", "b"][..],
            "ERR Invalid number of arguments specified for command",
        ),
        (&["nope", "a"], "ERR Invalid command specified"),
        (&["config", "nope"], "ERR Invalid command specified"),
        (
            &["config", "get", "a"],
            "ERR The command has no key arguments",
        ),
        (&["config"], "ERR The command has no key arguments"),
        (&["ping"], "ERR The command has no key arguments"),
    ] {
        assert_eq!(getkeys(request).error(), Some(error), "{request:?}");
    }
}

#[test]
fn every_row_is_found_whatever_its_letters() {
    for row in commands() {
        assert_eq!(
            lookup(row.name.as_bytes()).map(|row| row.name),
            Some(row.name)
        );
        assert_eq!(
            lookup(row.name.to_uppercase().as_bytes()).map(|r| r.name),
            Some(row.name)
        );
        assert!(lookup(format!("{}x", row.name).as_bytes()).is_none());
        assert!(row.summary.chars().next().unwrap().is_uppercase() && !row.summary.ends_with('.'));
        assert_eq!(row.name, row.name.to_lowercase());
    }
    for name in [
        "",
        "g",
        "ge",
        "config|get",
        "g\0t",
        "GEt\u{300}",
        &"x".repeat(5000),
    ] {
        assert!(lookup(name.as_bytes()).is_none(), "{name}");
    }
}

#[test]
fn requests_resolve_to_what_can_be_called() {
    for (request, id) in [
        (&["get", "a"][..], CommandId::Get),
        (&["SeT", "a", "b", "nx", "get"], CommandId::Set),
        (&["CONFIG", "Get", "*"], CommandId::ConfigGet),
        (
            &["client", "setinfo", "lib-name", "x"],
            CommandId::ClientSetinfo,
        ),
        (&["command"], CommandId::Command),
        (&["command", "docs"], CommandId::CommandDocs),
        (&["range", "", ""], CommandId::Range),
        (&["RevRange", "PREFIX", "p", "keys"], CommandId::Revrange),
    ] {
        let resolved = with_args(request, |args| resolve(args).unwrap());
        assert_eq!(resolved.id, id);
        assert_eq!(resolved.command, id.command());
        assert_eq!(name_of(id as u32), Some(id.command().name));
    }
    assert_eq!(name_of(u32::MAX), None);
    let keys = with_args(&["mset", "a", "b", "c", "d"], |args| {
        keys(CommandId::Mset.command(), args)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    });
    assert_eq!(keys, [b"a", b"c"]);
}

#[test]
fn errors_are_worded_as_redis_words_them() {
    let error = |request: &[&[u8]]| {
        let request = RequestBuf::new(request).unwrap();
        let text = resolve(request.args()).unwrap_err().reply();
        let mut out = Vec::new();
        ReplyWriter::new(&mut out, Proto::Resp2).error_bytes(&text);
        String::from_utf8(out).unwrap()
    };
    let (long, longer) = ([b'x'; 200], [b'y'; 130]);
    let x128 = "x".repeat(128);
    let cases: [(&[&[u8]], String); 13] = [
        (
            &[b"get"],
            "wrong number of arguments for 'get' command".into(),
        ),
        (
            &[b"GET", b"a", b"b"],
            "wrong number of arguments for 'get' command".into(),
        ),
        (
            &[b"config", b"get"],
            "wrong number of arguments for 'config|get' command".into(),
        ),
        (
            &[b"config"],
            "wrong number of arguments for 'config' command".into(),
        ),
        (
            &[b"CONFIG", b"x"],
            "unknown subcommand 'x'. Try CONFIG HELP.".into(),
        ),
        (
            &[b"Client", b"x\r\ny"],
            "unknown subcommand 'x  y'. Try CLIENT HELP.".into(),
        ),
        (
            &[b"foo", b"bar", b"baz"],
            "unknown command 'foo', with args beginning with: 'bar' 'baz' ".into(),
        ),
        (
            &[b"foo"],
            "unknown command 'foo', with args beginning with: ".into(),
        ),
        (
            &[b"fo\r\no"],
            "unknown command 'fo  o', with args beginning with: ".into(),
        ),
        (
            &[b"a\0b", b"c\0d"],
            "unknown command 'a', with args beginning with: 'c' ".into(),
        ),
        (
            &[&long, b"a"],
            format!("unknown command '{x128}', with args beginning with: 'a' "),
        ),
        (
            &[b"foo", &[b'y'; 100], &[b'z'; 100], b"never"],
            format!(
                "unknown command 'foo', with args beginning with: '{}' '{}' ",
                "y".repeat(100),
                "z".repeat(25)
            ),
        ),
        (
            &[b"foo", &longer, b"never"],
            format!(
                "unknown command 'foo', with args beginning with: '{}' ",
                "y".repeat(128)
            ),
        ),
    ];
    for (request, text) in cases {
        assert_eq!(error(request), format!("-ERR {text}\r\n"));
    }
}

#[test]
fn help_lists_every_subcommand() {
    let help = written(Proto::Resp2, |reply| {
        write_help(reply, lookup(b"config").unwrap())
    });
    let lines: Vec<_> = help.as_slice().unwrap().iter().map(text).collect();
    assert_eq!(
        lines[0],
        "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    );
    assert_eq!(lines[1], "GET parameter [parameter ...]");
    assert_eq!(lines[lines.len() - 2..], ["HELP", "    Print this help."]);
    assert!(lines.contains(&"REWRITE"));
}

#[test]
fn synopses_read_as_in_redis() {
    for (name, expected) in [
        (
            "set",
            "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT \
             unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        ),
        ("expire", "EXPIRE key seconds [NX | XX | GT | LT]"),
        ("mset", "MSET key value [key value ...]"),
        (
            "range",
            "RANGE <start end | PREFIX prefix> [LIMIT count] [KEYS | VALUES]",
        ),
        ("delrange", "DELRANGE <start end | PREFIX prefix>"),
        (
            "hello",
            "HELLO [protover [AUTH username password] [SETNAME clientname]]",
        ),
        (
            "checkpoint",
            "CHECKPOINT [WAIT | NOWAIT] [FAST | SPREAD] [BACKUP] [EXPLAIN] [NAMESPACE name]",
        ),
        ("info", "INFO [section [section ...]]"),
        (
            "client|list",
            "CLIENT LIST [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
        ),
        (
            "client|setinfo",
            "CLIENT SETINFO <LIB-NAME libname | LIB-VER libver>",
        ),
        (
            "command|list",
            "COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
        ),
    ] {
        let row = all().find(|row| row.name == name).unwrap();
        assert_eq!(synopsis(row), expected);
    }
}

#[test]
fn the_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
    let text = command_document();
    if std::env::var_os("RD_WRITE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == text,
        "docs/commands.md is old: RD_WRITE_DOCS=1 cargo test -p rd-wire"
    );
}
