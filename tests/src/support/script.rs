//! Requests and the replies they must get, byte by byte, in a text file:
//!
//! ```text
//! == a section: a new connection, and no keys
//! # a comment
//! > SET key "a value"
//! +OK\r\n
//! > GET nothing
//! 2 $-1\r\n
//! 3 _\r\n
//! ! *1\r\n$-7\r\n
//! -ERR Protocol error: invalid bulk length\r\n
//! ```
//!
//! `?` is a request by its words to which exactly one reply comes, as in a transaction, where an ECHO
//! behind it would be queued, too.
//!
//! `>` is a request by its words; a word `x*5000` stands for so many x. `!` is raw bytes, to which
//! the server may answer by closing the connection. The line after it is the reply in RESP2 and
//! RESP3; or one line for each, when they differ.

use super::raw::{RawClient, escape, request, unescape};
use rd_wire::Proto;
use std::path::Path;

/// A file of requests and replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    sections: Vec<Section>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    /// With the comments below it.
    head: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// Line in the file, from 1.
    number: usize,
    /// `> ...` or `! ...`.
    line: String,
    /// In RESP2 and RESP3; as they stand in the file.
    replies: [String; 2],
}

impl Step {
    fn replies_of(&self, client: &mut RawClient) -> Vec<u8> {
        match self.line.starts_with("? ") {
            true => client.ask(&self.bytes()),
            false => client.exchange(&self.bytes()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self.line.split_at(2) {
            ("> " | "? ", words) => {
                let words = split(words);
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                request(&words)
            }
            (_, raw) => unescape(raw),
        }
    }
}

/// The words of a request: bare, or in quotes with escapes.
fn split(text: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut end = 0;
                while quoted.as_bytes()[end] != b'"' {
                    end += if quoted.as_bytes()[end] == b'\\' {
                        2
                    } else {
                        1
                    };
                }
                words.push(unescape(&quoted[..end]));
                end + 2
            }
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                let word = &rest[..end];
                let many = word.strip_prefix("x*").and_then(|count| count.parse().ok());
                words.push(match many {
                    Some(count) => vec![b'x'; count],
                    None => word.as_bytes().to_vec(),
                });
                end
            }
        };
        rest = rest[end..].trim_start();
    }
    words
}

impl Script {
    /// Reads a script.
    ///
    /// # Panics
    /// When it is none.
    pub fn parse(text: &str) -> Script {
        let mut sections: Vec<Section> = Vec::new();
        let mut replies = 0;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.starts_with("== ") || sections.is_empty() {
                let head = vec![line.to_owned()];
                let steps = Vec::new();
                sections.push(Section { head, steps });
                continue;
            }
            let section = sections.last_mut().expect("there is one");
            if ["> ", "? ", "! "].iter().any(|kind| line.starts_with(kind)) {
                replies = 0;
                section.steps.push(Step {
                    number,
                    line: line.to_owned(),
                    replies: [String::new(), String::new()],
                });
            } else if let Some(step) = section.steps.last_mut().filter(|_| !line.is_empty()) {
                assert!(replies < 2, "line {number}: one reply too many");
                replies += 1;
                match line.split_at_checked(2) {
                    Some(("2 ", reply)) => step.replies[0] = reply.to_owned(),
                    Some(("3 ", reply)) => step.replies[1] = reply.to_owned(),
                    _ => step.replies = [line.to_owned(), line.to_owned()],
                }
            } else if !line.is_empty() {
                section.head.push(line.to_owned());
            }
        }
        Script { sections }
    }

    /// Sends all requests in one protocol; gives the replies, escaped, section by section.
    pub fn run(&self, socket: &Path, proto: Proto) -> Vec<Vec<String>> {
        let section = |section: &Section| {
            let mut client = RawClient::connect(socket);
            client.exchange(&request(&[b"FLUSHALL"]));
            if proto == Proto::Resp3 {
                client.exchange(&request(&[b"HELLO", b"3"]));
            }
            let replies = section.steps.iter();
            replies
                .map(|step| escape(&step.replies_of(&mut client)))
                .collect()
        };
        self.sections.iter().map(section).collect()
    }

    /// Runs it against a server and says where the replies differ; empty if nowhere.
    pub fn differences(&self, socket: &Path, proto: Proto) -> String {
        let index = usize::from(proto == Proto::Resp3);
        let replies = self.run(socket, proto);
        let mut text = String::new();
        for (section, replies) in self.sections.iter().zip(&replies) {
            for (step, found) in section.steps.iter().zip(replies) {
                let expected = &step.replies[index];
                if found != expected {
                    let Step { number, line, .. } = step;
                    text.push_str(&format!(
                        "line {number} in {proto:?}: {line}\n  expected {expected}\n  found    {found}\n"
                    ));
                }
            }
        }
        text
    }

    /// The same requests with the replies that this server gives.
    pub fn recorded(&self, socket: &Path) -> Script {
        let mut script = self.clone();
        for (index, proto) in [Proto::Resp2, Proto::Resp3].into_iter().enumerate() {
            let replies = self.run(socket, proto);
            for (section, replies) in script.sections.iter_mut().zip(replies) {
                for (step, reply) in section.steps.iter_mut().zip(replies) {
                    step.replies[index] = reply;
                }
            }
        }
        script
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (index, section) in self.sections.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            text.push_str(&section.head.join("\n"));
            text.push('\n');
            for step in &section.steps {
                text.push_str(&step.line);
                text.push('\n');
                match &step.replies {
                    [resp2, resp3] if resp2 == resp3 => {
                        text.push_str(&format!("{resp2}\n"));
                    }
                    [resp2, resp3] => text.push_str(&format!("2 {resp2}\n3 {resp3}\n")),
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_it_is_written() {
        let text = "# about\n\n== one\n# more\n> SET key \"a \\\"b\\\"\"\n+OK\\r\\n\n> GET no\n\
                    2 $-1\\r\\n\n3 _\\r\\n\n\n== two\n! *1\\r\\n\n\n";
        let script = Script::parse(text);
        assert_eq!(script.render(), text);
        let step = &script.sections[1].steps[0];
        assert_eq!(step.bytes(), request(&[b"SET", b"key", b"a \"b\""]));
        assert_eq!(script.sections[1].steps[1].replies[1], "_\\r\\n");
        assert_eq!(script.sections[2].steps[0].bytes(), b"*1\r\n");
        assert_eq!(split("a x*3 \"\""), [&b"a"[..], b"xxx", b""]);
    }
}
