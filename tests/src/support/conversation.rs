//! Conversations: who asks what over which connection, and what must come back, line by line.

use super::cluster::Cluster;
use rd_wire::{Client, Reply};

/// A request of words parted by spaces, and its reply as one line.
///
/// # Panics
/// When the connection breaks.
pub fn ask(client: &mut Client, request: &str) -> String {
    let words: Vec<&str> = request.split(' ').collect();
    show(&client.call(&words).expect("a reply"))
}

/// A reply in a line: errors behind `-`, `nil`, arrays in brackets.
pub fn show(reply: &Reply) -> String {
    match reply {
        Reply::Simple(text) => text.clone(),
        Reply::Error(text) => format!("-{text}"),
        Reply::Int(number) => number.to_string(),
        Reply::Null => "nil".to_owned(),
        Reply::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(" "))
        }
        other => String::from_utf8_lossy(other.as_bytes().unwrap_or(b"?")).into_owned(),
    }
}

/// Runs lines `who request -> reply`; connections are made as they are named. A reply that ends in
/// `*` is the beginning of one; what is between two `~` is somewhere in it.
///
/// # Panics
/// When another reply comes.
pub fn play(cluster: &Cluster, script: &str) {
    let mut clients: Vec<(String, Client)> = Vec::new();
    let lines = script.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty()) {
        let (left, expected) = line.split_once(" -> ").expect("a reply");
        let (who, request) = left.split_once(' ').expect("a request");
        if !clients.iter().any(|(name, _)| name == who) {
            clients.push((who.to_owned(), cluster.client()));
        }
        let client = clients.iter_mut().find(|(name, _)| name == who);
        let found = ask(&mut client.expect("it was made").1, request);
        let is_right = match (expected.strip_suffix('*'), expected.split('~').nth(1)) {
            (Some(start), _) => found.starts_with(start),
            (_, Some(part)) => found.contains(part),
            _ => found == expected,
        };
        assert!(is_right, "{line}\n  found {found}");
    }
}
