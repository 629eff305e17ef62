//! What people can ask of the agent, one module for each command.

pub mod check;
