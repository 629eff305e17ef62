//! The first process of a guest that `cargo xtask vm` boots.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    mesh_tests::guest::run()
}
