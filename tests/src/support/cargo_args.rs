//! The command line of a test program that runs by itself what `cargo test` asks of it, and more when
//! it is told to.

use clap::Args;

/// What `cargo test` may say to it.
#[derive(Args, Debug)]
pub struct CargoArgs {
    /// Names of tests to be run.
    #[arg(hide = true)]
    names: Vec<String>,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    test_threads: Option<u64>,
}

impl CargoArgs {
    /// Whether the program's one test, which is called `name`, is to be run; lists it if that is what is
    /// asked for.
    pub fn is_to_run(&self, name: &str) -> bool {
        if self.list {
            println!("{name}: test");
            return false;
        }
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}
