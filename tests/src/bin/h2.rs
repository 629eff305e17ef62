//! A server and a client of HTTP/2 for tests.

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    mesh_tests::h2::run(&arguments)
}
