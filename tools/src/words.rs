//! A line of command-line options cut into words as a shell would, without any expansion.

/// The words of `line`: blanks part them, quotes of either sort and backslashes keep them
/// together. `None` if a quote is not closed.
pub fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(letters.next()?),
            '\'' | '"' => quoted(&mut letters, letter, word.get_or_insert_default())?,
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Some(words)
}

/// Takes what is within quotes up to their end. In double ones a backslash keeps the next letter.
fn quoted(letters: &mut std::str::Chars<'_>, quote: char, word: &mut String) -> Option<()> {
    loop {
        match letters.next()? {
            letter if letter == quote => return Some(()),
            '\\' if quote == '"' => word.push(letters.next()?),
            letter => word.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_a_shells() {
        for (line, words) in [
            ("", vec![]),
            ("  -p  7433 ", vec!["-p", "7433"]),
            ("-c name='a b'", vec!["-c", "name=a b"]),
            (r#""-D" "a \"b\" \\c" ''"#, vec!["-D", r#"a "b" \c"#, ""]),
            (r"a\ b 'c\d'", vec!["a b", r"c\d"]),
        ] {
            assert_eq!(split(line).expect("closed"), words, "{line}");
        }
        for open in ["'", "a \"b", "\"a\\", "\\"] {
            assert_eq!(split(open), None, "{open}");
        }
    }
}
