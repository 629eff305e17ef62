//! The entries against the reference evaluator, on random policies.

mod established;
mod kernel;
mod policies;
mod shape;
mod tables;
mod verdicts;

use super::*;
