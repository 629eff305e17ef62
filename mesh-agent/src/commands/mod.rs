//! What people call: one module for each command.

pub mod ca;
pub mod check;
pub mod doctor;
pub mod explain;
pub mod flows;
pub mod output;
pub mod status;
pub mod suggest;
pub mod support;
pub mod top;
pub mod unload;
