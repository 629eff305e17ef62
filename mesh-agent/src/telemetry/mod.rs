//! Observation: what the kernel counted comes in, what people and Prometheus read goes out.
//!
//! The data plane fills a [`Snapshot`](snapshot::Snapshot) when
//! asked; nothing here reads a map or keeps a name of its own.

pub mod exposition;
mod flags;
mod process;
pub mod registry;
mod render;
mod series;
pub mod snapshot;
mod text;
pub mod time;

pub use flags::ResponseFlags;
