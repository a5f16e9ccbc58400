//! Parse, run, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    byoa_gateway::cli::main()
}
