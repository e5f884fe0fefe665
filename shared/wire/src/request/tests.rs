//! Fragmentation, Redis's error texts, hostile input, and the bounds on memory and work.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// What became of a stream of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request(Vec<Vec<u8>>),
    Error(ProtocolError),
    Http,
}

/// Feeds `pieces` as a connection does, and says what came out. Also checks that `need` never
/// asks for more than the stream had to have.
fn feed<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut parser = RequestParser::new(limits);
    let mut buffer: Vec<u8> = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut start = 0;
        loop {
            match parser.parse(&buffer[start..]) {
                Parsed::Request { args, consumed } => {
                    assert!(!args.is_empty());
                    seen.push(Seen::Request(args.iter().map(<[u8]>::to_vec).collect()));
                    start += consumed;
                }
                Parsed::Empty { consumed } => {
                    assert!(consumed > 0);
                    start += consumed;
                }
                Parsed::Incomplete { need } => {
                    assert!(need > 0);
                    break;
                }
                Parsed::Error(error) => {
                    seen.push(Seen::Error(error));
                    assert!(matches!(parser.parse(b"PING\r\n"), Parsed::Error(e) if e == error));
                    return seen;
                }
                Parsed::HttpAttack => {
                    seen.push(Seen::Http);
                    assert!(matches!(parser.parse(b"PING\r\n"), Parsed::HttpAttack));
                    return seen;
                }
            }
        }
        buffer.drain(..start);
    }
    seen
}

fn whole(input: &[u8]) -> Vec<Seen> {
    feed(Limits::default(), [input])
}

fn request(words: &[&str]) -> Seen {
    Seen::Request(words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

/// Every cut into two, and one byte at a time, gives what the whole gives.
fn assert_cuts_do_not_matter(limits: Limits, input: &[u8]) {
    let expected = feed(limits, [input]);
    for cut in 0..=input.len() {
        let (a, b) = input.split_at(cut);
        assert_eq!(
            feed(limits, [a, b]),
            expected,
            "cut at {cut} of {}",
            input.escape_ascii()
        );
    }
    assert_eq!(
        feed(limits, input.chunks(1)),
        expected,
        "{}",
        input.escape_ascii()
    );
}

#[test]
fn requests_of_both_kinds_in_a_pipeline() {
    let input = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nbc\r\n\r\n  \r\n*0\r\n*-1\r\nget k\r\n\
        *1\r\n$0\r\n\r\nPING\n*01\r\n";
    let expected = vec![
        request(&["SET", "k", "a\r\nbc"]),
        request(&["get", "k"]),
        request(&[""]),
        request(&["PING"]),
        Seen::Error(ProtocolError::MultibulkLength),
    ];
    assert_eq!(whole(input), expected);
    assert_cuts_do_not_matter(Limits::default(), input);
}

#[test]
fn inline_quotes_are_those_of_redis() {
    for (line, words) in [
        (r#"set k "a b""#, vec!["set", "k", "a b"]),
        (r#""\x41\n\q\"" ''"#, vec!["A\nq\"", ""]),
        (r#"'a\'b' 'c\n' "d'e""#, vec!["a'b", "c\\n", "d'e"]),
        (r#"pre"fix" a"b c""#, vec!["prefix", "ab c"]),
        ("\x0b a\x0bb \t c", vec!["a\x0bb", "c"]),
        ("a\0b", vec!["a\0b"]),
        (r#""\x4" "\xzz""#, vec!["x4", "xzz"]),
    ] {
        let input = format!("{line}\r\n");
        assert_eq!(whole(input.as_bytes()), [request(&words)], "{line}");
        assert_cuts_do_not_matter(Limits::default(), input.as_bytes());
    }
    for line in [
        r#"a "b"#, r#"a 'b"#, r#""a"b"#, r#"'a'b"#, r#""a\"#, r#"'a\'"#, "\"\\x4",
    ] {
        let input = format!("{line}\r\n");
        assert_eq!(
            whole(input.as_bytes()),
            [Seen::Error(ProtocolError::Quotes)],
            "{line}"
        );
    }
}

#[test]
fn malformed_requests_get_redis_texts() {
    for (input, text) in [
        ("*x\r\n", "Protocol error: invalid multibulk length"),
        ("*\r\n", "Protocol error: invalid multibulk length"),
        ("*+1\r\n", "Protocol error: invalid multibulk length"),
        ("*01\r\n", "Protocol error: invalid multibulk length"),
        ("*1048577\r\n", "Protocol error: invalid multibulk length"),
        (
            "*99999999999999999999999\r\n",
            "Protocol error: invalid multibulk length",
        ),
        ("*1\rx", "Protocol error: invalid multibulk length"),
        ("*1\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"),
        ("*1\r\n\r\n", "Protocol error: expected '$', got ' '"),
        ("*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$\r\n", "Protocol error: invalid bulk length"),
        ("*1\r\n$ 1\r\n", "Protocol error: invalid bulk length"),
        (
            "*1\r\n$04\r\nPING\r\n",
            "Protocol error: invalid bulk length",
        ),
        ("*1\r\n$16777217\r\n", "Protocol error: invalid bulk length"),
        (
            "*1\r\n$9223372036854775807\r\n",
            "Protocol error: invalid bulk length",
        ),
        (
            "*2\r\n$4\r\nPINGxx$1\r\n",
            "Protocol error: expected CRLF after bulk string",
        ),
        (
            "*1\r\n$4\r\nPINGS\r\n",
            "Protocol error: expected CRLF after bulk string",
        ),
    ] {
        let got = whole(input.as_bytes());
        let [Seen::Error(error)] = got.as_slice() else {
            panic!("{input:?}: {got:?}")
        };
        assert_eq!(error.to_string(), text, "{input:?}");
        assert_eq!(error.reply(), format!("ERR {text}"));
        assert_cuts_do_not_matter(Limits::default(), input.as_bytes());
    }
}

#[test]
fn lines_that_do_not_end_are_refused() {
    let digits = "1".repeat(70_000);
    for (input, text) in [
        (
            format!("*{digits}"),
            "Protocol error: too big mbulk count string",
        ),
        (
            format!("*1\r\n${digits}"),
            "Protocol error: too big bulk count string",
        ),
        (digits.clone(), "Protocol error: too big inline request"),
        (
            format!("{digits}\r\n"),
            "Protocol error: too big inline request",
        ),
    ] {
        let got = whole(input.as_bytes());
        assert!(
            matches!(&got[..], [Seen::Error(error)] if error.to_string() == text),
            "{text}: {got:?}"
        );
        assert_eq!(feed(Limits::default(), input.as_bytes().chunks(1000)), got);
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let limits = Limits {
        bulk_bytes_max: 10,
        args_max: 3,
        inline_bytes_max: 12,
        request_bytes_max: 40,
    };
    let cases: [(&[u8], Option<ProtocolError>); 8] = [
        (b"*1\r\n$10\r\n0123456789\r\n", None),
        (b"*1\r\n$11\r\n", Some(ProtocolError::BulkLength)),
        (b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", None),
        (b"*4\r\n", Some(ProtocolError::MultibulkLength)),
        (b"0123456789a\r\n", None),
        (b"0123456789ab\r\n", Some(ProtocolError::InlineLine)),
        (b"*2\r\n$10\r\n0123456789\r\n$10\r\n0123456789\r\n", None),
        (
            b"*3\r\n$10\r\n0123456789\r\n$10\r\n0123456789\r\n$0\r\n",
            Some(ProtocolError::RequestBytes),
        ),
    ];
    for (input, error) in cases {
        // The longest that is allowed: 4 + 17 + 17 = 38 bytes of 40.
        let got = feed(limits, [input]);
        match error {
            None => assert!(matches!(&got[..], [Seen::Request(_)]), "{got:?}"),
            Some(error) => assert_eq!(got, [Seen::Error(error)], "{}", input.escape_ascii()),
        }
        assert_cuts_do_not_matter(limits, input);
    }
}

#[test]
fn browsers_are_recognised() {
    for input in [
        "POST / HTTP/1.1\r\nFLUSHALL\r\n",
        "post\r\n",
        "Host: localhost:7432\r\n",
        "*1\r\n$4\r\nPost\r\n",
        "*2\r\n$5\r\nhost:\r\n$1\r\nx\r\n",
    ] {
        assert_eq!(whole(input.as_bytes()), [Seen::Http], "{input:?}");
        assert_cuts_do_not_matter(Limits::default(), input.as_bytes());
    }
    assert_eq!(whole(b"GET POST\r\n"), [request(&["GET", "POST"])]);
}

#[test]
fn an_announcement_takes_no_memory() {
    let mut parser = RequestParser::new(Limits::default());
    assert_eq!(parser.heap_bytes(), 0);
    for input in [b"*1000000\r\n".as_slice(), b"*1000000\r\n$16777216\r\nabc"] {
        assert!(matches!(parser.parse(input), Parsed::Incomplete { .. }));
        assert_eq!(parser.heap_bytes(), 0);
    }
}

#[test]
fn memory_of_a_large_request_is_given_back() {
    let mut input = b"*100000\r\n".to_vec();
    (0..100_000).for_each(|_| input.extend_from_slice(b"$0\r\n\r\n"));
    let mut parser = RequestParser::new(Limits::default());
    assert!(matches!(parser.parse(&input), Parsed::Request { args, .. } if args.len() == 100_000));
    let large = parser.heap_bytes();
    assert!(
        large <= input.len() * 2,
        "{large} bytes for {} of input",
        input.len()
    );
    assert!(matches!(parser.parse(b"PING\r\n"), Parsed::Request { .. }));
    assert!(parser.heap_bytes() < 16 * 1024);
    parser.shrink();
    assert_eq!(parser.heap_bytes(), 0);
}

/// For how long this thread has run: a machine that lets it wait for others adds nothing to that.
fn cpu_time() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Behind the name, which may hold anything: ticks as a user, and in the kernel, are the 12th and the 13th.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_ascii_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| TICK * ticks.parse::<u32>().unwrap())
        .sum()
}

/// 16 MiB in pieces of 16 KiB, then 64 KiB of header byte by byte: were the input scanned anew
/// each time, the first would look at 8 GiB and the second at 2 GiB.
#[test]
fn work_is_linear_however_the_bytes_are_cut() {
    let before = cpu_time();
    let len = 16 << 20;
    let mut input = format!("*2\r\n$4\r\nECHO\r\n${len}\r\n").into_bytes();
    input.resize(input.len() + len, b'x');
    input.extend_from_slice(b"\r\n");
    let mut parser = RequestParser::new(Limits::default());
    let mut have = 0;
    loop {
        have = (have + 16 * 1024).min(input.len());
        match parser.parse(&input[..have]) {
            Parsed::Incomplete { need } => assert!(have + need <= input.len()),
            Parsed::Request { args, consumed } => {
                assert_eq!((args.arg(1).len(), consumed), (len, input.len()));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    for start in [b'*', b'x'] {
        let line = vec![start; 64 * 1024];
        let mut parser = RequestParser::new(Limits::default());
        for have in 1..line.len() {
            assert!(matches!(
                parser.parse(&line[..have]),
                Parsed::Incomplete { .. }
            ));
        }
    }
    let took = cpu_time() - before;
    // It takes some ten; to scan anew more than a thousand.
    assert!(took.as_millis() < 300, "{took:?}");
}

#[test]
fn args_can_be_kept_and_taken_apart() {
    let kept = RequestBuf::new(["MSET", "a", "1", "b", "2", "c"]).unwrap();
    let args = kept.args();
    assert_eq!(args.len(), 6);
    assert_eq!(args.get(6), None);
    let pairs: Vec<_> = args.skip(1).pairs().collect();
    assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b"2")]);
    assert!(args.skip(6).is_empty() && args.skip(7).is_empty());
    assert_eq!(format!("{:?}", args.skip(4)), r#"["2", "c"]"#);
}

/// Bytes that are nearly requests, so that random ones get somewhere.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"*1\r\n".to_vec()),
        Just(b"*2\r\n$3\r\nGET\r\n".to_vec()),
        Just(b"$1\r\nk\r\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\x4".to_vec()),
        Just(b"POST ".to_vec()),
        (-3i64..30).prop_map(|n| n.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_cuts_do_not_matter(
        input in nearly_requests(),
        cuts in proptest::collection::vec(1usize..7, 1..40),
    ) {
        let limits = Limits {
            bulk_bytes_max: 20,
            args_max: 8,
            inline_bytes_max: 24,
            request_bytes_max: 60,
        };
        for limits in [limits, Limits::default()] {
            let expected = feed(limits, [input.as_slice()]);
            prop_assert_eq!(&feed(limits, input.chunks(1)), &expected);
            let mut rest = input.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(&feed(limits, pieces), &expected);
        }
    }

    #[test]
    fn what_the_client_encodes_the_server_reads(
        requests in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..5), 1..5),
    ) {
        let mut input = Vec::new();
        requests.iter().for_each(|args| crate::client::encode(&mut input, args));
        let seen = whole(&input);
        let expected: Vec<_> = requests.into_iter().map(Seen::Request).collect();
        prop_assume!(!seen.contains(&Seen::Http));
        prop_assert_eq!(seen, expected);
    }
}
