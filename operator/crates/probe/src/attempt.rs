//! One attempt to connect.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What came of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It was answered: packets get through, both ways.
    Connected,
    /// It was refused: by a network that rejects, or by the other end, where nothing listens. From here that can't be told apart.
    Refused,
    /// The network said that there is no way.
    Unreachable,
    /// No answer.
    Silent,
}

/// Connects, and closes again.
#[must_use]
pub fn connect(to: SocketAddr, timeout: Duration) -> Outcome {
    match TcpStream::connect_timeout(&to, timeout) {
        Ok(_) => Outcome::Connected,
        Err(error) => outcome(error.kind()),
    }
}

fn outcome(kind: ErrorKind) -> Outcome {
    match kind {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Outcome::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Silent,
        _ => Outcome::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_is_connected_to_and_what_does_not_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(connect(address, Duration::from_secs(1)), Outcome::Connected);
        drop(listener);
        assert_eq!(connect(address, Duration::from_secs(1)), Outcome::Refused);
    }

    #[test]
    fn a_time_that_is_over_is_no_refusal() {
        assert_eq!(outcome(ErrorKind::TimedOut), Outcome::Silent);
        assert_eq!(outcome(ErrorKind::HostUnreachable), Outcome::Unreachable);
    }
}
