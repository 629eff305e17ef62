//! The `mesh-demo` command: the mesh at work on this host, in a few seconds.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use mesh_tests::demo::{self, Cli};

fn main() -> ExitCode {
    match demo::run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
