//! The `mesh-agent` command.
fn main() {}
