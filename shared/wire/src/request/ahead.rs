//! A look at requests that are still to be parsed, to know what they will ask for.
//!
//! It only guesses: what it gives has passed no limit and no check, and nothing may be done with
//! it but to fetch into caches what will probably be wanted.

/// Digits of a number that the look ahead understands.
const DIGITS_MAX: usize = 9;
/// Arguments of a request that the look ahead skips over.
const ARGS_MAX: usize = 64;

/// The requests at the front of an input, each by its name and its first argument. Ends at the
/// first that has not arrived whole, or is not plainly an array of bulk strings.
#[derive(Clone, Debug)]
pub struct Ahead<'a> {
    rest: &'a [u8],
}

impl<'a> Ahead<'a> {
    /// Looks at `input`, which begins where a request begins.
    #[inline]
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// The number behind `mark`, and its line taken off.
    #[inline]
    fn number(&mut self, mark: u8) -> Option<usize> {
        let digits = self.rest.strip_prefix(&[mark])?;
        let mut value = 0usize;
        for (at, &byte) in digits.iter().enumerate().take(DIGITS_MAX) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                self.rest = digits.get(at..)?.strip_prefix(b"\r\n")?;
                return Some(value);
            }
            value = value.wrapping_mul(10).wrapping_add(usize::from(digit));
        }
        None
    }

    /// A bulk string, taken off.
    #[inline]
    fn bulk(&mut self) -> Option<&'a [u8]> {
        let len = self.number(b'$')?;
        let (bulk, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest.strip_prefix(b"\r\n")?;
        Some(bulk)
    }
}

impl<'a> Iterator for Ahead<'a> {
    /// The name, and the first argument if there is one.
    type Item = (&'a [u8], Option<&'a [u8]>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let count = self
            .number(b'*')
            .filter(|count| (1..=ARGS_MAX).contains(count))?;
        let name = self.bulk()?;
        let mut first = None;
        for at in 1..count {
            let bulk = self.bulk()?;
            if at == 1 {
                first = Some(bulk);
            }
        }
        Some((name, first))
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;
    use crate::{Limits, Parsed, RequestParser};
    use proptest::prelude::*;

    fn seen(input: &[u8]) -> Vec<(&[u8], Option<&[u8]>)> {
        Ahead::new(input).collect()
    }

    #[test]
    fn whole_requests_are_seen_and_the_first_odd_one_ends_it() {
        let set: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n";
        let ping = b"*1\r\n$4\r\nPING\r\n";
        let input = [set, ping, &set[..set.len() - 1]].concat();
        let expected: [(&[u8], Option<&[u8]>); 2] = [(b"SET", Some(b"k")), (b"PING", None)];
        assert_eq!(seen(&input), expected);
        for odd in [
            "GET k\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*1\r\n$-1\r\n",
            "*1\r\n+a\r\n",
            "*99\r\n",
            "",
        ] {
            assert_eq!(seen(odd.as_bytes()), [], "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_seen_is_what_is_parsed(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..5),
                0..6,
            ),
        ) {
            let mut input = Vec::new();
            for request in &requests {
                input.extend(format!("*{}\r\n", request.len()).bytes());
                for arg in request {
                    input.extend(format!("${}\r\n", arg.len()).bytes());
                    input.extend(arg);
                    input.extend(b"\r\n");
                }
            }
            let mut parser = RequestParser::new(Limits::default());
            let mut rest = input.as_slice();
            for (name, first) in Ahead::new(&input) {
                match parser.parse(rest) {
                    Parsed::Request { args, consumed } => {
                        prop_assert_eq!(args.name(), name);
                        prop_assert_eq!(args.get(1), first);
                        rest = &rest[consumed..];
                    }
                    // Names that only an attack has.
                    _ => return Ok(()),
                }
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Ahead::new(&input).count() <= input.len());
        }
    }
}
