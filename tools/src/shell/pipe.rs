//! Bulk load: requests in the protocol's own form from a file or pipe to the server, as fast as
//! both can; the replies are counted.
//!
//! One thread sends while another receives, so neither side can fill a socket that nobody
//! empties. Behind the last byte goes an ECHO of a random word: its reply is the last. Who sends and
//! cannot go on ends the connection, so that who receives does not wait for that word.

use crate::cli::print_note;
use anyhow::{Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rd_wire::client::{Client, Error, Receiver, Reply, Sender};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Bytes read and sent at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Error replies that are printed; the rest is only counted.
const ERRORS_SHOWN_MAX: u64 = 100;
/// Replies between two looks at the progress bar.
const REPLIES_PER_LOOK: u64 = 1024;

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Error replies.
    pub errors: u64,
    /// All replies, errors included.
    pub replies: u64,
}

/// What the sending thread tells.
#[derive(Default)]
struct Sent {
    bytes: AtomicU64,
    all: AtomicBool,
}

/// Sends all of `input`. `input_bytes` is its length if that is known, for the progress bar.
/// `timeout` is how long a reply may keep away once all is sent; none: for ever.
///
/// # Errors
/// When the input cannot be read, the connection breaks, or the last reply does not come.
pub fn run(
    mut client: Client,
    input: impl Read + Send + 'static,
    input_bytes: Option<u64>,
    timeout: Option<Duration>,
) -> Result<Counts> {
    // A server that takes its time with what was sent is no reason to stop sending.
    client.set_read_timeout(timeout)?;
    let (mut sender, receiver) = client.split();
    let sent = Arc::new(Sent::default());
    let last_word = format!("{:016x}", rd_sys::random::u64());
    let (outcome, finished) = mpsc::channel();
    let of_thread = (Arc::clone(&sent), last_word.clone());
    // Not joined: while it waits for input nothing else can end it than the end of the process.
    std::thread::spawn(move || {
        let (sent, last_word) = of_thread;
        // The receiver may have given up; then nobody wants to know.
        let done = send(&mut sender, input, &sent, &last_word);
        let has_failed = done.is_err();
        let _ = outcome.send(done);
        if has_failed {
            sender.shut_down();
        }
    });
    let bar = progress_bar(input_bytes);
    let mut load = Load {
        receiver,
        sent,
        counts: Counts::default(),
        bar,
    };
    let received = load.receive(last_word.as_bytes());
    load.bar.finish_and_clear();
    let counts = load.counts;
    match (finished.try_recv(), received) {
        (Ok(Err(error)), _) => Err(error.context(so_far(counts))),
        (_, Err(error)) => Err(error.context(so_far(counts))),
        _ => Ok(counts),
    }
}

fn so_far(counts: Counts) -> String {
    format!(
        "bulk load broke off after {} replies, {} errors",
        counts.replies, counts.errors
    )
}

fn send(sender: &mut Sender, mut input: impl Read, sent: &Sent, last_word: &str) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(anyhow!("could not read the input: {error}")),
        };
        sender.send_raw(chunk.get(..count).unwrap_or(&[]));
        sender.flush()?;
        sent.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    // Before the echo, so that its reply finds it set.
    sent.all.store(true, Ordering::Release);
    sender.send(&["ECHO", last_word]);
    Ok(sender.flush()?)
}

struct Load {
    receiver: Receiver,
    sent: Arc<Sent>,
    counts: Counts,
    bar: ProgressBar,
}

impl Load {
    /// Until the reply to the last word, which is not counted.
    fn receive(&mut self, last_word: &[u8]) -> Result<()> {
        loop {
            let reply = match self.receiver.receive() {
                Ok(reply) => reply,
                // The input may take its time.
                Err(Error::Timeout) if !self.sent.all.load(Ordering::Acquire) => continue,
                Err(Error::Timeout) => bail!(
                    "no reply within the time limit although all is sent\n\
                     HINT: Does the input end within a request?"
                ),
                Err(error) => return Err(error.into()),
            };
            match reply {
                Reply::Push(_) => continue,
                Reply::Bulk(word) if word == last_word && self.sent.all.load(Ordering::Acquire) => {
                    return Ok(());
                }
                Reply::Error(text) => self.error(&text),
                _ => {}
            }
            self.counts.replies += 1;
            if self.counts.replies.is_multiple_of(REPLIES_PER_LOOK) {
                self.show();
            }
        }
    }

    fn error(&mut self, text: &str) {
        self.counts.errors += 1;
        let shown = self.counts.errors;
        if shown <= ERRORS_SHOWN_MAX {
            self.bar.suspend(|| print_note(text));
        }
        if shown == ERRORS_SHOWN_MAX {
            self.bar
                .suspend(|| print_note("(further errors are only counted)"));
        }
    }

    fn show(&self) {
        self.bar
            .set_position(self.sent.bytes.load(Ordering::Relaxed));
        let Counts { errors, replies } = self.counts;
        self.bar
            .set_message(format!("{replies} replies, {errors} errors"));
    }
}

/// On standard error, and only if that is a terminal.
fn progress_bar(input_bytes: Option<u64>) -> ProgressBar {
    let style = |template: &str| {
        ProgressStyle::with_template(template)
            .expect("the template is ours")
            .progress_chars("=> ")
    };
    match input_bytes {
        Some(bytes) => ProgressBar::new(bytes).with_style(style(
            "[{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left, {msg}",
        )),
        None => ProgressBar::new_spinner().with_style(style(
            "{spinner} {bytes} {binary_bytes_per_sec}, {elapsed}, {msg}",
        )),
    }
}
