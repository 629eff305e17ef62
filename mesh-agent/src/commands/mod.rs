//! What people call: one module for each command.

pub mod check;
pub mod doctor;
pub mod output;
pub mod status;
