//! The `mesh-bench` command: what the mesh costs on this host.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use mesh_tests::bench::{self, Cli};

fn main() -> ExitCode {
    match bench::run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
