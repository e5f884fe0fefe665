//! Replies as text, in the forms of `redis-cli`: [`pretty`] for people, [`raw`] for pipes.
//!
//! Invariant: the text is as deep as the reply, and the decoder limits how deep that can be.

use rd_format::describe::escape;
use rd_wire::Reply;
use std::fmt::Write as _;

/// The reply for people, with a line end: strings in quotes, types named, elements numbered.
pub fn pretty(reply: &Reply) -> String {
    let mut text = String::new();
    push_pretty(&mut text, reply, "");
    text
}

/// `indent` is what stands before the lines behind the first.
fn push_pretty(text: &mut String, reply: &Reply, indent: &str) {
    let line = match reply {
        Reply::Simple(status) => printable(status),
        Reply::Error(error) => format!("(error) {}", printable(error)),
        Reply::Int(number) => format!("(integer) {number}"),
        Reply::Bulk(bytes) => quoted(bytes),
        Reply::Null => "(nil)".to_owned(),
        Reply::Double(number) => format!("(double) {number}"),
        Reply::Bool(truth) => format!("({truth})"),
        Reply::Verbatim { text, .. } => String::from_utf8_lossy(text).into_owned(),
        Reply::BigNumber(digits) => printable(digits),
        Reply::Array(items) => return push_items(text, items, indent, ')', "array"),
        Reply::Set(items) => return push_items(text, items, indent, '~', "set"),
        Reply::Push(items) => return push_items(text, items, indent, '>', "push"),
        Reply::Map(pairs) => return push_pairs(text, pairs, indent),
    };
    text.push_str(&line);
    text.push('\n');
}

fn push_items(text: &mut String, items: &[Reply], indent: &str, separator: char, what: &str) {
    if items.is_empty() {
        writeln!(text, "(empty {what})").expect("a string takes all");
    }
    let width = items.len().to_string().len();
    let deeper = format!("{indent}{:1$}", "", width + 2);
    for (index, item) in items.iter().enumerate() {
        let indent = if index == 0 { "" } else { indent };
        write!(text, "{indent}{:>width$}{separator} ", index + 1).expect("a string takes all");
        push_pretty(text, item, &deeper);
    }
}

fn push_pairs(text: &mut String, pairs: &[(Reply, Reply)], indent: &str) {
    if pairs.is_empty() {
        text.push_str("(empty hash)\n");
    }
    let width = pairs.len().to_string().len();
    let deeper = format!("{indent}{:1$}", "", width + 2);
    for (index, (key, value)) in pairs.iter().enumerate() {
        let indent = if index == 0 { "" } else { indent };
        write!(text, "{indent}{:>width$}# ", index + 1).expect("a string takes all");
        push_pretty(text, key, &deeper);
        // The value goes on in the key's line.
        text.truncate(text.trim_end_matches('\n').len());
        text.push_str(" => ");
        let mut shown = String::new();
        push_pretty(&mut shown, value, &deeper);
        if shown.lines().nth(1).is_some() {
            text.push('\n');
            text.push_str(&deeper);
        }
        text.push_str(&shown);
    }
}

/// Bytes in double quotes; what is not plain ASCII is escaped.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", escape(bytes))
}

/// A status or error, without what could move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// Whether a command's reply is text for people, to be shown as it is.
pub fn is_text(words: &[Vec<u8>]) -> bool {
    let is = |index: usize, name: &str| {
        words
            .get(index)
            .is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    is(0, "info") || (is(0, "client") && (is(1, "list") || is(1, "info")))
}

/// The reply to a command in the form that is wanted, with a line end.
pub fn shown(words: &[Vec<u8>], reply: &Reply, as_raw: bool) -> Vec<u8> {
    let text = reply.as_bytes().filter(|_| is_text(words));
    match text {
        Some(text) if text.ends_with(b"\n") => text.to_vec(),
        _ if as_raw || text.is_some() => {
            let mut bytes = raw(reply);
            bytes.push(b'\n');
            bytes
        }
        _ => pretty(reply).into_bytes(),
    }
}

/// The bytes that the reply carries, without decoration: elements on a line each. No line end
/// behind the last.
pub fn raw(reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    push_raw(&mut out, reply);
    out
}

fn push_raw(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Null => {}
        Reply::Simple(text) | Reply::BigNumber(text) => out.extend_from_slice(text.as_bytes()),
        // With a line end of its own, as in redis-cli.
        Reply::Error(text) => {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
        Reply::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Reply::Double(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Reply::Bool(truth) => out.extend_from_slice(format!("({truth})").as_bytes()),
        Reply::Bulk(bytes) | Reply::Verbatim { text: bytes, .. } => out.extend_from_slice(bytes),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b'\n');
                }
                push_raw(out, item);
            }
        }
        Reply::Map(pairs) => {
            for (index, (key, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    out.push(b'\n');
                }
                push_raw(out, key);
                out.push(b' ');
                push_raw(out, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn simple_replies_are_redis_clis() {
        for (reply, text) in [
            (Reply::Simple("OK".into()), "OK"),
            (Reply::Error("ERR no".into()), "(error) ERR no"),
            (Reply::Int(-7), "(integer) -7"),
            (Reply::Null, "(nil)"),
            (Reply::Bool(true), "(true)"),
            (Reply::Double(1.5), "(double) 1.5"),
            (
                Reply::Bulk(b"a\"\\\n\r\t\x07\x08\x00\xff\xc3\xa4 z".to_vec()),
                r#""a\"\\\n\r\t\a\b\x00\xff\xc3\xa4 z""#,
            ),
            (Reply::Array(vec![]), "(empty array)"),
            (Reply::Map(vec![]), "(empty hash)"),
            (Reply::Error("ERR \x1b[2J".into()), "(error) ERR  [2J"),
        ] {
            assert_eq!(pretty(&reply), format!("{text}\n"));
        }
    }

    #[test]
    fn nested_replies_are_numbered_and_indented() {
        let inner = Reply::Array(vec![
            Reply::Int(1),
            Reply::Array(vec![bulk("x"), bulk("y")]),
        ]);
        let mut items = vec![bulk("a"), inner];
        items.extend((3..=10).map(Reply::Int));
        assert_eq!(
            pretty(&Reply::Array(items)),
            " 1) \"a\"\n \
             2) 1) (integer) 1\n    \
                2) 1) \"x\"\n       \
                   2) \"y\"\n \
             3) (integer) 3\n \
             4) (integer) 4\n \
             5) (integer) 5\n \
             6) (integer) 6\n \
             7) (integer) 7\n \
             8) (integer) 8\n \
             9) (integer) 9\n\
             10) (integer) 10\n"
        );
        let map = Reply::Map(vec![
            (bulk("server"), bulk("redoubt")),
            (
                bulk("modules"),
                Reply::Array(vec![Reply::Int(1), Reply::Int(2)]),
            ),
            (bulk("none"), Reply::Set(vec![])),
        ]);
        assert_eq!(
            pretty(&map),
            "1# \"server\" => \"redoubt\"\n\
             2# \"modules\" => \n   \
                1) (integer) 1\n   \
                2) (integer) 2\n\
             3# \"none\" => (empty set)\n"
        );
    }

    #[test]
    fn raw_replies_are_bytes() {
        let map = Reply::Map(vec![(bulk("k"), Reply::Int(1)), (bulk("l"), Reply::Null)]);
        for (reply, bytes) in [
            (Reply::Bulk(vec![0, 255]), &[0, 255][..]),
            (Reply::Null, b""),
            (Reply::Error("ERR no".into()), b"ERR no\n"),
            (
                Reply::Array(vec![bulk("a"), Reply::Null, Reply::Int(2)]),
                b"a\n\n2",
            ),
            (map, b"k 1\nl "),
        ] {
            assert_eq!(raw(&reply), bytes);
        }
    }
}
