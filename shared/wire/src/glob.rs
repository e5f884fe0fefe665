//! Patterns of `CONFIG GET` and `COMMAND LIST FILTERBY PATTERN`: `*`, `?`, `[a-z]`, `[^a]` and
//! `\` before a character that stands for itself.
//!
//! Matching takes time proportional to pattern times text at worst: when a part after a star
//! fails, only the last star takes one byte more, for what an earlier star could gain by
//! taking more, the last can gain as well.

/// Whether the whole of `text` fits `pattern`. With `fold_case`, ASCII letters match both ways.
pub fn matches(pattern: &[u8], text: &[u8], fold_case: bool) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        if let [byte, text_rest @ ..] = text {
            if let Some(rest) = step(pattern, *byte, fold_case) {
                (pattern, text) = (rest, text_rest);
                continue;
            }
        } else {
            return pattern.is_empty();
        }
        match retry {
            Some((after_star, [_, shorter @ ..])) => {
                retry = Some((after_star, shorter));
                (pattern, text) = (after_star, shorter);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the first element of `pattern`; what is left of it if it fits.
fn step(pattern: &[u8], byte: u8, fold_case: bool) -> Option<&[u8]> {
    let same = |a: u8| a == byte || fold_case && a.eq_ignore_ascii_case(&byte);
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => step_class(rest, byte, fold_case),
        [b'\\', literal, rest @ ..] => same(*literal).then_some(rest),
        [literal, rest @ ..] => same(*literal).then_some(rest),
    }
}

/// Matches one byte against a class, whose `[` has been taken. A class that is never closed
/// ends with the pattern, as in Redis.
fn step_class(class: &[u8], byte: u8, fold_case: bool) -> Option<&[u8]> {
    let fold = |b: u8| if fold_case { b.to_ascii_lowercase() } else { b };
    let byte = fold(byte);
    let (negated, mut class) = match class {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => break,
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [b'\\', literal, rest @ ..] => {
                found |= fold(*literal) == byte;
                rest
            }
            [low, b'-', high, rest @ ..] => {
                let (low, high) = (fold(*low.min(high)), fold(*low.max(high)));
                found |= (low..=high).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                found |= fold(*literal) == byte;
                rest
            }
        };
    }
    (found != negated).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_redis() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*b*b*", "abcb", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a", "ha", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("config|*", "config|get", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes(), false),
                fits,
                "{pattern} {text}"
            );
        }
        assert!(matches(b"MAX*", b"max_wal_size", true));
        assert!(!matches(b"MAX*", b"max_wal_size", false));
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = b"*a".repeat(200);
        let text = vec![b'a'; 199];
        assert!(!matches(&pattern, &text, false));
    }
}
