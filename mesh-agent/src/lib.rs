//! The mesh agent: one process per host.
//!
//! Three flows of data, each one way, and the modules in the order of the flows:
//!
//! 1. Policy: [`policy`] (files -> model -> entries) -> [`dataplane`] (entries -> kernel).
//! 2. Observation: [`dataplane`] (kernel counters and records) -> [`telemetry`] -> [`admin`].
//! 3. People: [`commands`], one module for each of them.
//!
//! No module imports from a later stage of its flow.
#![forbid(unsafe_code)]

pub mod admin;
pub mod commands;
pub mod config;
pub mod dataplane;
pub mod policy;
pub mod telemetry;
