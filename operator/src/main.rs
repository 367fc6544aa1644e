//! The binary `quell`.

fn main() -> std::process::ExitCode {
    quell_operator::start()
}
