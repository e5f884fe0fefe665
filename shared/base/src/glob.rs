//! Redis's glob patterns, of KEYS, SCAN, CONFIG GET and COMMAND LIST: `*`, `?`, `[a-z]`, `[^...]`, and
//! `\` before a character that stands for itself. Works on bytes. Where Redis's matcher recurses, this
//! one goes back to the last star only, so that no pattern takes more than pattern times text steps.

/// Whether `pattern` matches the whole of `text`. `fold_case` compares ASCII letters without case.
pub fn matches(pattern: &[u8], text: &[u8], fold_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None; // pattern after it, text it has eaten up to
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(next) = match_one(&pattern[p..], text[t], fold_case) {
            p += next;
            t += 1;
            continue;
        }
        let Some((after, eaten)) = star else {
            return false;
        };
        (p, t) = (after, eaten + 1);
        star = Some((p, t));
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first element if it matches `byte`.
fn match_one(pattern: &[u8], byte: u8, fold_case: bool) -> Option<usize> {
    let fold = |b: u8| if fold_case { b.to_ascii_lowercase() } else { b };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => match_class(class, byte, fold).map(|length| length + 1),
        [b'\\', literal, ..] => (fold(*literal) == fold(byte)).then_some(2),
        [literal, ..] => (fold(*literal) == fold(byte)).then_some(1),
    }
}

/// The length of a class, its closing bracket included, if it matches. One that is never closed
/// reaches to the end of the pattern, as in Redis.
fn match_class(class: &[u8], byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    let byte = fold(byte);
    loop {
        match &class[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= fold(*literal) == byte;
                at += 2;
            }
            [one, b'-', other, ..] => {
                let (one, other) = (fold(*one), fold(*other));
                found |= (one.min(other)..=one.max(other)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= fold(*literal) == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("***", "x", true),
            ("?", "", false),
            ("?", "x", true),
            ("a?c", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("*wal*", "max_wal_size", true),
            ("*a*b*c", "xaybzc", true),
            ("*a*b*c", "xaybz", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[\\]]", "]", true),
            ("[a\\-z]", "-", true),
            ("[a\\-z]", "m", false),
            ("[abc", "b", true),
            ("[abc", "d", false),
            ("[", "[", false),
            ("[^", "x", true),
            ("[]", "x", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a\\", "a\\", true),
            ("\\?x", "?x", true),
            ("ABC", "abc", false),
            ("config|*", "config|get", true),
            ("*b*b*", "abcb", true),
            ("a*c", "abbcd", false),
        ];
        for (pattern, text, expected) in cases {
            let got = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(got, *expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn case_is_folded_on_request() {
        assert!(matches(b"ABC*", b"abcd", true));
        assert!(matches(b"[A-C]", b"b", true));
        assert!(!matches(b"[A-C]", b"b", false));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(500);
        let text = b"a".repeat(5_000);
        assert!(matches(&pattern, &text, false));
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text, false));
    }
}
