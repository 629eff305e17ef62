//! What people type: one module for each command, which takes what it needs and returns the exit
//! code.

pub mod doctor;
pub mod output;
pub mod status;
