//! Connections between nodes, driven: who calls, what for, whether it may.

mod listeners;
mod view;
