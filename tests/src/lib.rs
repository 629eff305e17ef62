//! The mesh on a real kernel: what tests, demo and benchmarks share.
//!
//! A [`Sandbox`] is a host of its own as far as the mesh can tell: a cgroup subtree, a BPF file
//! system, directories, and (by [`netns::enter_new`]) a network namespace. Everything is taken
//! down when it is dropped, also after a panic.

pub mod agent;
pub mod authority;
pub mod bench;
pub mod browser;
pub mod cgroup;
pub mod demo;
pub mod durations;
pub mod guest;
pub mod h2;
pub mod host;
pub mod hosts;
pub mod interrupt;
pub mod kernel;
mod leftovers;
pub mod manager;
pub mod mesh;
pub mod names;
pub mod netns;
pub mod nodes;
pub mod observe;
pub mod package;
pub mod patience;
pub mod peer;
pub mod prometheus;
pub mod sandbox;
pub mod shop;
pub mod soak;
pub mod systemd;
pub mod town;
pub mod web;

pub use agent::AgentProcess;
pub use cgroup::Cgroup;
pub use mesh::Mesh;
pub use peer::Peer;
pub use sandbox::Sandbox;
pub use shop::Shop;
