//! The `mesh-soak` command: many right and wrong calls while everything around them changes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use mesh_tests::soak::{self, Cli};

fn main() -> ExitCode {
    match soak::run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}
