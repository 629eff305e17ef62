//! Observation: what the kernel counted comes in, what people and Prometheus read goes out.
//!
//! The data plane fills a [`Snapshot`](snapshot::Snapshot) and a [`Status`](status::Status) when
//! asked; nothing here reads a map or keeps a name of its own.

pub mod declared;
pub mod denials;
pub mod exposition;
mod flags;
pub mod flows;
pub mod graph;
pub mod observed;
pub mod observer;
mod process;
mod quantile;
pub mod registry;
mod render;
mod series;
pub mod services;
pub mod shares;
pub mod snapshot;
pub mod status;
mod text;
pub mod time;
mod traffic;
pub mod tunnel;
mod window;

pub use flags::ResponseFlags;
