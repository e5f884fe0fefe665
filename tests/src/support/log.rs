//! The server's log, as tests read it.

/// The labels of lines that complain.
const COMPLAINTS: [&str; 4] = ["WARNING", "ERROR", "FATAL", "PANIC"];

/// The label of a log line: `LOG` of `2026-11-21 11:28:37.123 UTC [4711] startup LOG:  text`.
pub fn label(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" UTC [")?;
    let (_, rest) = rest.split_once("] ")?;
    let (head, _) = rest.split_once(":  ")?;
    head.split(' ').next_back()
}

/// The lines of a log that complain.
pub fn complaints(log: &str) -> impl Iterator<Item = &str> {
    log.lines()
        .filter(|line| label(line).is_some_and(|label| COMPLAINTS.contains(&label)))
}

/// Asserts that the log has all these texts, in this order.
///
/// # Panics
/// With the first text that is not there, or not after the one before it.
pub fn assert_order(log: &str, texts: &[&str]) {
    let mut rest = log;
    for text in texts {
        match rest.find(text) {
            Some(at) => rest = &rest[at + text.len()..],
            None => panic!("{text:?} does not come in its turn of {texts:#?} in:\n{log}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_complain() {
        let log = "2026-11-21 11:28:37.123 UTC [1] postmaster LOG:  ERROR is only a word here\n\
                   2026-11-21 11:28:37.123 UTC [2] backend 3 WARNING:  a key of \"x:  y\"\n\
                   2026-11-21 11:28:37.123 UTC [2] PANIC:  could not sync\n\
                   ERROR:  a line of text\n";
        let found: Vec<&str> = complaints(log).filter_map(label).collect();
        assert_eq!(found, ["WARNING", "PANIC"]);
    }

    #[test]
    #[should_panic(expected = "does not come in its turn")]
    fn order_matters() {
        assert_order("b a", &["a", "b"]);
    }
}
