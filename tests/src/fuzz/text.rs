//! What clients, servers and people write: requests, replies, numbers, configuration files.

use rd_base::{Config, conf_file};
use rd_wire::client::DecodeLimits;
use rd_wire::longdouble::{LongDouble, Parsed as Float};
use rd_wire::{Limits, Parsed, ReplyDecoder, RequestParser, num, rdb};
use std::fs;

/// Limits small enough for small inputs to meet them.
const LIMITS: Limits = Limits {
    bulk_bytes_max: 100,
    args_max: 20,
    inline_bytes_max: 200,
    request_bytes_max: 400,
};

/// What the parser says of `input`, if it comes in pieces of `piece` bytes: words and the bytes taken.
fn parsed(input: &[u8], piece: usize) -> Vec<String> {
    let mut parser = RequestParser::new(LIMITS);
    let (mut from, mut until) = (0, 0);
    let mut found = Vec::new();
    loop {
        match parser.parse(&input[from..until]) {
            Parsed::Request { args, consumed } => {
                let words: Vec<&[u8]> = args.iter().collect();
                found.push(format!("{words:?}"));
                from += consumed;
            }
            Parsed::Empty { consumed } => from += consumed,
            Parsed::Incomplete { need } => {
                assert!(need > 0 && need <= LIMITS.request_bytes_max + 200);
                if until == input.len() {
                    return found;
                }
                until = (until + piece).min(input.len());
            }
            Parsed::Error(error) => {
                found.push(error.reply());
                return found;
            }
            Parsed::HttpAttack => {
                found.push("http".to_owned());
                return found;
            }
        }
        assert!(from <= until);
    }
}

/// A client's bytes: the same requests come of them however they are cut.
pub fn request(input: &[u8]) {
    let whole = parsed(input, input.len().max(1));
    for piece in [1, 7] {
        assert_eq!(parsed(input, piece), whole);
    }
}

/// A server's bytes, read by a client: in one piece and byte by byte.
pub fn reply(input: &[u8]) {
    let limits = DecodeLimits {
        bulk_bytes_max: 1000,
        elements_max: 1000,
        depth_max: 8,
    };
    let decoded = |piece: usize| {
        let mut decoder = ReplyDecoder::new(limits);
        let mut found = Vec::new();
        for bytes in input.chunks(piece) {
            decoder.feed(bytes);
            loop {
                match decoder.next_reply() {
                    Ok(Some(reply)) => found.push(format!("{reply:?}")),
                    Ok(None) => break,
                    Err(error) => {
                        found.push(error.to_string());
                        return found;
                    }
                }
            }
        }
        found
    };
    assert_eq!(decoded(1), decoded(input.len().max(1)));
}

/// Numbers, sums of floats, and payloads of RESTORE, whose checksum is made right.
pub fn numbers(input: &[u8]) {
    let half = input.len() / 2;
    let (a, b) = (&input[..half], &input[half..]);
    for text in [a, b, input] {
        if let Some(number) = num::parse_i64(text) {
            assert_eq!(num::Decimal::of(number).as_bytes(), text);
        }
    }
    let float = |text| match LongDouble::parse(text) {
        Some(Float::Number(number)) => Some(number),
        Some(Float::Infinite) | None => None,
    };
    if let (Some(a), Some(b)) = (float(a), float(b))
        && let Some(sum) = a.plus(b)
    {
        let text = sum.text();
        assert!(
            text != "-0" && LongDouble::parse(text.as_bytes()).is_some(),
            "{text}"
        );
    }
    let _ = rdb::restore(input, 10_000);
    let dumped = rdb::dump(input).unwrap_or_default();
    if let Ok(value) = rdb::restore(&dumped, input.len()) {
        assert_eq!(value, input);
    }
}

/// A configuration file, and the same rewritten: it reads as before, or neither can be read.
pub fn config(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(conf_file::FILE_NAME);
    let read = |text: &[u8]| {
        fs::write(&path, text).expect("a file of ours");
        Config::load(dir.path(), &[])
    };
    match read(input) {
        Ok(_) => {
            let text = String::from_utf8(input.to_vec()).expect("it was read");
            let changes = [(rd_base::Param::Port, "7001".to_owned())];
            let again = read(conf_file::rewrite(&text, &changes).as_bytes());
            assert_eq!(again.expect("it was right before").port(), 7001);
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

fn owned(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub(super) fn request_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n",
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n",
        "SET key \"a \\x41\\n\" 'b'\r\nPING\r\n\r\n",
        "*-1\r\n*0\r\n*1\r\n$-1\r\n",
        "*1\r\n$101\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\n",
    ])
}

pub(super) fn reply_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "+OK\r\n-ERR no\r\n:-12\r\n$5\r\nhello\r\n$-1\r\n*2\r\n:1\r\n$0\r\n\r\n",
        "%1\r\n+a\r\n#t\r\n~2\r\n,1.5\r\n(123\r\n_\r\n",
        "|1\r\n+ttl\r\n:1\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n>1\r\n+m\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n",
    ])
}

pub(super) fn numbers_seeds() -> Vec<Vec<u8>> {
    let mut seeds = owned(&[
        "10.50.1000",
        "1e300-1e299",
        "0x1.8p3-0x.1p-3",
        "-0.0e5000-.0e999",
        "0.1e-9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
    ]);
    for value in [&b"12345"[..], b"-7", &[b'a'; 70], b""] {
        seeds.extend(rdb::dump(value));
    }
    // 40 times "a", as Redis writes it; its checksum is that of another payload.
    seeds.push(b"\0\xC3\x06\x28\x01aa\xE0\x1D\x00\x09\x00\0\0\0\0\0\0\0\0".to_vec());
    seeds
}

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    owned(&[
        "port = 7433 # comment\nmax_wal_size = 2GB\nlisten_addresses = '127.0.0.1, ::1'\n",
        "\u{feff}port 1\r\nshared_buffers='128MB'\r\ncheckpoint_timeout = 1.5min\r\n",
        "include 'redoubt.conf'\ninclude_if_exists = 'x.conf'\ninclude_dir '.'\n",
        "log_min = 'it''s'\nport = 99999999999999999999TB\nfsync = maybe\n=\n",
    ])
}
