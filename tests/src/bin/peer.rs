//! Remote hands for tests: a process in a cgroup that connects and serves as it is told.

fn main() -> anyhow::Result<()> {
    mesh_tests::peer::run()
}
