//! The binary `kubectl-quell`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use quell_cli::Io;

#[tokio::main]
async fn main() -> ExitCode {
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let mut io = Io {
        out: Box::new(std::io::stdout()),
        err: Box::new(std::io::stderr()),
        input: Box::new(std::io::stdin()),
        colours: std::io::stdout().is_terminal() && unset("NO_COLOR") && !dumb,
        terminal: std::io::stdout().is_terminal(),
    };
    quell_cli::run(std::env::args_os(), &mut io).await.into()
}
