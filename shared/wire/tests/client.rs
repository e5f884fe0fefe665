//! The client's codec and connection: any cut gives the same replies, hostile servers are
//! refused before they cost memory, and a conversation works over both kinds of socket.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rd_wire::client::{Client, DecodeError, DecodeLimits, Error, Reply, ReplyDecoder};
use rd_wire::{Limits, Parsed, Proto, ReplyWriter, RequestParser};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

fn decode<'a>(
    limits: DecodeLimits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Reply>, Option<DecodeError>) {
    let mut decoder = ReplyDecoder::new(limits);
    let mut replies = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

fn simple(text: &str) -> Reply {
    Reply::Simple(text.into())
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.into())
}

#[test]
fn every_type_decodes_at_every_cut() {
    let input = b"+OK\r\n-ERR no\r\n:-5\r\n$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n*-1\r\n_\r\n*0\r\n\
        *2\r\n*1\r\n:1\r\n*0\r\n%1\r\n+k\r\n~1\r\n#t\r\n,1.5\r\n,inf\r\n=7\r\ntxt:abc\r\n\
        >2\r\n+m\r\n#f\r\n(123456789012345678901\r\n!5\r\nERR x\r\n|1\r\n+ttl\r\n:3\r\n+after\r\n";
    let expected = vec![
        simple("OK"),
        Reply::Error("ERR no".into()),
        Reply::Int(-5),
        bulk("a\r\n"),
        bulk(""),
        Reply::Null,
        Reply::Null,
        Reply::Null,
        Reply::Array(vec![]),
        Reply::Array(vec![
            Reply::Array(vec![Reply::Int(1)]),
            Reply::Array(vec![]),
        ]),
        Reply::Map(vec![(simple("k"), Reply::Set(vec![Reply::Bool(true)]))]),
        Reply::Double(1.5),
        Reply::Double(f64::INFINITY),
        Reply::Verbatim {
            format: "txt".into(),
            text: b"abc".to_vec(),
        },
        Reply::Push(vec![simple("m"), Reply::Bool(false)]),
        Reply::BigNumber("123456789012345678901".into()),
        Reply::Error("ERR x".into()),
        simple("after"),
    ];
    for cut in 0..=input.len() {
        let (a, b) = input.split_at(cut);
        let (replies, error) = decode(DecodeLimits::default(), [a, b]);
        assert_eq!((error, &replies), (None, &expected), "cut at {cut}");
    }
    assert_eq!(decode(DecodeLimits::default(), input.chunks(1)).0, expected);
}

#[test]
fn hostile_replies_are_refused() {
    let limits = DecodeLimits {
        bulk_bytes_max: 100,
        elements_max: 10,
        depth_max: 4,
    };
    for input in [
        "$101\r\n",
        "*11\r\n",
        "%11\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        "|1\r\n|1\r\n|1\r\n|1\r\n|1\r\n",
        "$-2\r\n",
        "$x\r\n",
        "$18446744073709551616\r\n",
        "$3\r\nabcd\r\n",
        ":x\r\n",
        "#x\r\n",
        ",x\r\n",
        "?\r\n",
        "\r\n",
        "\n",
        "HTTP/1.1 200 OK\r\n",
    ] {
        let (replies, error) = decode(limits, [input.as_bytes()]);
        assert!(
            error.is_some() && replies.is_empty(),
            "{input:?}: {replies:?}"
        );
        assert_eq!(decode(limits, input.as_bytes().chunks(1)), (replies, error));
    }
    let endless = vec![b'+'; 100_000];
    assert!(matches!(
        decode(limits, [&endless[..]]).1,
        Some(DecodeError::Limit { .. })
    ));
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        "[a-z ]{0,9}".prop_map(Reply::Simple),
        "[A-Z ]{0,9}".prop_map(Reply::Error),
        any::<i64>().prop_map(Reply::Int),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(Reply::Bulk),
        Just(Reply::Null),
        any::<bool>().prop_map(Reply::Bool),
        any::<f64>()
            .prop_filter("equal to itself", |x| !x.is_nan())
            .prop_map(Reply::Double),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(|text| Reply::Verbatim {
            format: "txt".into(),
            text
        }),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Reply::Array),
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Reply::Set),
            proptest::collection::vec((inner.clone(), inner), 0..4).prop_map(Reply::Map),
        ]
    })
}

fn write(reply: &mut ReplyWriter<'_>, what: &Reply) {
    match what {
        Reply::Simple(text) => reply.simple(text),
        Reply::Error(text) => reply.error(text),
        Reply::Int(value) => reply.integer(*value),
        Reply::Bulk(bytes) => reply.bulk(bytes),
        Reply::Null => reply.null(),
        Reply::Bool(value) => reply.boolean(*value),
        Reply::Double(value) => reply.double(*value),
        Reply::Verbatim { text, .. } => reply.verbatim(*b"txt", text),
        Reply::BigNumber(digits) => reply.big_number(digits),
        Reply::Array(items) => {
            reply.array(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Reply::Set(items) => {
            reply.set(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Reply::Push(items) => {
            reply.push(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Reply::Map(pairs) => {
            reply.map(pairs.len());
            pairs.iter().for_each(|(key, value)| {
                write(reply, key);
                write(reply, value);
            });
        }
    }
}

proptest! {
    #[test]
    fn what_the_server_writes_the_client_reads(
        replies in proptest::collection::vec(any_reply(), 1..4),
        piece in 1usize..20,
    ) {
        let mut out = Vec::new();
        let mut writer = ReplyWriter::new(&mut out, Proto::Resp3);
        replies.iter().for_each(|reply| write(&mut writer, reply));
        let (got, error) = decode(DecodeLimits::default(), out.chunks(piece));
        prop_assert_eq!(error, None);
        prop_assert_eq!(got, replies);
    }

    #[test]
    fn random_bytes_never_panic(input in "[-+:$*%~>|=!#,_(0-9a-z\r\n]{0,80}") {
        let limits = DecodeLimits { bulk_bytes_max: 40, elements_max: 10, depth_max: 4 };
        let whole = decode(limits, [input.as_bytes()]);
        let by_byte = decode(limits, input.as_bytes().chunks(1));
        // NaN is not equal to itself.
        prop_assert_eq!(format!("{whole:?}"), format!("{by_byte:?}"));
    }
}

/// Answers each request with its arguments, until the client leaves.
fn echo_arguments(mut socket: impl Read + Write) {
    let mut parser = RequestParser::new(Limits::default());
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match socket.read(&mut chunk).unwrap() {
            0 => return,
            count => input.extend_from_slice(&chunk[..count]),
        }
        let mut out = Vec::new();
        let mut start = 0;
        while let Parsed::Request { args, consumed } = parser.parse(&input[start..]) {
            let mut reply = ReplyWriter::new(&mut out, Proto::Resp3);
            match args.arg(0) {
                b"push" => {
                    reply.push(1);
                    reply.simple("news");
                    reply.ok();
                }
                b"silence" => {}
                b"hang up" => return,
                _ => {
                    reply.array(args.len());
                    args.iter().for_each(|arg| reply.bulk(arg));
                }
            }
            start += consumed;
        }
        input.drain(..start);
        socket.write_all(&out).unwrap();
    }
}

fn converse(mut client: Client) {
    let reply = client.cmd(&[b"SET", b"k", &[0; 100_000]]).unwrap();
    assert_eq!(
        reply.as_slice().unwrap()[2].as_bytes().unwrap().len(),
        100_000
    );
    for i in 0..100 {
        client.send(&["GET", &i.to_string()]);
    }
    let replies = client.receive_many(100).unwrap();
    assert_eq!(replies[99].as_slice().unwrap()[1].as_int(), Some(99));
    assert!(client.call(&["push"]).unwrap().is_ok());
    assert_eq!(client.take_push(), Some(vec![simple("news")]));
    assert_eq!(client.take_push(), None);
    client.set_timeout(Some(Duration::from_millis(20))).unwrap();
    assert!(matches!(client.call(&["silence"]), Err(Error::Timeout)));
    client.set_timeout(None).unwrap();
    assert!(matches!(client.call(&["hang up"]), Err(Error::Closed)));
}

#[test]
fn a_conversation_over_tcp_and_unix_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || echo_arguments(listener.accept().unwrap().0));
    converse(Client::connect(address).unwrap());
    server.join().unwrap();

    let path = std::env::temp_dir().join(format!("rd-wire-client-{}.sock", std::process::id()));
    // A process that had this number may have been killed before it came to the end.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || echo_arguments(listener.accept().unwrap().0));
    converse(Client::connect_unix(&path).unwrap());
    server.join().unwrap();
    std::fs::remove_file(&path).unwrap();

    let error = Client::connect_unix(&path).unwrap_err();
    assert!(error.to_string().contains("rd-wire-client-"), "{error}");
    assert!(error.is_connection_lost());
}

#[test]
fn two_halves_carry_more_than_the_sockets_hold() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || echo_arguments(listener.accept().unwrap().0));
    let client = Client::connect_timeout(address, Duration::from_secs(5)).unwrap();
    let (mut sender, mut receiver) = client.split();
    let count = 2000;
    let sending = std::thread::spawn(move || {
        for i in 0..count {
            sender.send(&[b"ECHO".as_slice(), &vec![i as u8; 10_000]]);
            sender.flush().unwrap();
        }
        sender
    });
    for i in 0..count {
        let reply = receiver.receive().unwrap();
        assert_eq!(reply.as_slice().unwrap()[1].as_bytes().unwrap()[0], i as u8);
    }
    drop(sending.join().unwrap());
    drop(receiver);
    server.join().unwrap();
}
