//! What a new user reads when the server is ready: where it is, how to talk to it, how to stop it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// The text, without a line end; `is_terminal`: for somebody who sits in front of it.
pub fn text(data_dir: &Path, tcp: &[SocketAddr], unix: Option<&Path>, is_terminal: bool) -> String {
    let mut text = format!(
        "\nRedoubt {} is ready; its data is in {}\n\n",
        rd_base::VERSION,
        data_dir.display()
    );
    for address in tcp {
        // An address that means all of them is reached at this machine's own.
        let client = match (address.ip().is_unspecified(), address.ip().is_loopback()) {
            (true, _) => format!("redis-cli -p {}", address.port()),
            (false, true) if address.is_ipv4() => format!("redis-cli -p {}", address.port()),
            _ => format!("redis-cli -h {} -p {}", address.ip(), address.port()),
        };
        push(&mut text, &address.to_string(), &client);
    }
    if let Some(path) = unix {
        let path = path.display().to_string();
        push(&mut text, "unix socket", &format!("redis-cli -s {path}"));
    }
    let here = if is_terminal { "Ctrl-C here, or " } else { "" };
    write!(
        text,
        "\n  to stop: {here}rd_ctl stop -D {}\n",
        data_dir.display()
    )
    .expect("a string takes all");
    text
}

fn push(text: &mut String, place: &str, client: &str) {
    writeln!(text, "  {place:<22} {client}").expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_way_in() {
        let tcp = ["127.0.0.1:7432", "0.0.0.0:7433", "[fd00::1]:7432"]
            .map(|address| address.parse().expect("an address"));
        let unix = Path::new("/srv/data/.s.REDOUBT.7432");
        let [text, to_file] = [true, false]
            .map(|is_terminal| text(Path::new("/srv/data"), &tcp, Some(unix), is_terminal));
        assert!(text.contains("Ctrl-C") && !to_file.contains("Ctrl-C"));
        for line in [
            "redis-cli -p 7432",
            "redis-cli -p 7433",
            "redis-cli -h fd00::1 -p 7432",
            "redis-cli -s /srv/data/.s.REDOUBT.7432",
            "rd_ctl stop -D /srv/data",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
