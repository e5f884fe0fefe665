//! `rd_waldump`: the write-ahead log in readable lines, as `pg_waldump` prints it.

use rd_tools::cli;
use rd_tools::waldump::dump::{Arguments, NAME, run};
use std::io::{self, BufWriter};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, |arguments: Arguments| {
        let out = BufWriter::new(io::stdout().lock());
        let mut say = |text: &str| cli::print_warning(NAME, text);
        if let Some(end) = run(arguments, out, &mut say)? {
            cli::print_note(&format!(
                "{NAME}: the log ends at {}: {}",
                end.lsn, end.reason
            ));
        }
        Ok(ExitCode::SUCCESS)
    })
}
