//! `rd_bench`: reads the command line and runs a load.

use rd_bench::plan::{Arguments, NAME};
use rd_bench::run;
use rd_tools::cli;
use std::process::ExitCode;

const BAD_ARGUMENTS: u8 = 1;

fn main() -> ExitCode {
    cli::main(NAME, BAD_ARGUMENTS, |arguments: Arguments| {
        run::run(&arguments)?;
        Ok(ExitCode::SUCCESS)
    })
}
