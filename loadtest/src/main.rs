//! `nullrun-loadtest`: the harness on the command line. Exit code 0 when everything held, 1 on any violation, 2 when
//! the scenario could not be carried out.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let (text, code) = match cli.run() {
        Ok(outcome) if outcome.ok => (outcome.text, ExitCode::SUCCESS),
        Ok(outcome) => (outcome.text, ExitCode::FAILURE),
        Err(error) => (format!("error: {error}\n"), ExitCode::from(2)),
    };
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => code,
        Err(_) => ExitCode::from(2),
    }
}
