//! The mesh agent: one process per host.
//!
//! The flows of data go one way, and the modules stand in their order:
//!
//! 1. Policy: [`policy`] (files -> model -> entries) -> [`dataplane`] (entries -> kernel).
//! 2. [`agent`] drives the first flow whenever the files change, and owns the kernel side.
//! 3. Observation: [`dataplane`] (kernel counters and records) -> [`telemetry`] -> [`admin`].
//! 4. People: [`commands`], one module for each of them.
//!
//! No module imports from a later stage of its flow.
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod budget;
pub mod cli;
pub mod commands;
pub mod config;
pub mod dataplane;
pub mod http;
pub mod identity;
pub mod policy;
pub mod sandbox;
pub mod telemetry;
pub mod tunnel;
