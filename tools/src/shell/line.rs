//! A typed line as the words of a command, by the server's own rules for inline commands: blanks
//! part words; `"…"` with `\n`, `\x00` and the like, and `'…'`, keep any bytes together.

use rd_wire::request::{Limits, Parsed, RequestParser};

/// The words of a line; none if it is empty.
///
/// # Errors
/// When a quote is not closed, or is closed within a word.
pub fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let limits = Limits {
        bulk_bytes_max: u32::MAX as usize,
        args_max: u32::MAX as usize,
        inline_bytes_max: u32::MAX as usize,
        request_bytes_max: u32::MAX as usize,
    };
    // The blank in front keeps a line that begins with `*` from being taken for the protocol's
    // own form, which nobody types.
    let mut input = Vec::with_capacity(line.len() + 3);
    input.push(b' ');
    input.extend_from_slice(line);
    input.extend_from_slice(b"\r\n");
    match RequestParser::new(limits).parse(&input) {
        Parsed::Request { args, .. } => Ok(args.iter().map(<[u8]>::to_vec).collect()),
        Parsed::Empty { .. } => Ok(Vec::new()),
        Parsed::HttpAttack => Err("That is the beginning of an HTTP request, not a command"),
        Parsed::Incomplete { .. } | Parsed::Error(_) => Err("Invalid argument(s)"),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_and_escapes() {
        for (line, expected) in [
            (&b""[..], vec![]),
            (b"   ", vec![]),
            (b"get k", vec![&b"get"[..], b"k"]),
            (b" set \"a b\" '\"' ", vec![b"set", b"a b", b"\""]),
            (br#"set k "\x00\n\"\\""#, vec![b"set", b"k", b"\x00\n\"\\"]),
            (b"*1 $3", vec![b"*1", b"$3"]),
            (b"set k ''", vec![b"set", b"k", b""]),
        ] {
            assert_eq!(words(line).expect("well formed"), expected, "{line:?}");
        }
        for bad in [&b"set \"k"[..], b"set 'k'v", b"'"] {
            assert_eq!(words(bad), Err("Invalid argument(s)"), "{bad:?}");
        }
        assert!(words(b"POST /").is_err());
    }
}
