//! The binary `quell`, for tests and the demo, which can only start binaries of their own package.

fn main() -> std::process::ExitCode {
    quell_operator::start()
}
