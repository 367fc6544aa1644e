//! The peer that every probe must be able to reach: without it "no answer" could mean that the probe has no network.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;

use crate::ProbeError;

/// Connections that are answered at once; probes need a few.
const MOST: usize = 64;
/// A connection that says nothing is closed after this time.
const QUIET: Duration = Duration::from_mins(1);

/// Answers whoever connects with what it says.
#[derive(Args, Clone, Debug)]
pub struct Listen {
    /// Port that is listened on, at every address
    #[arg(long)]
    pub port: u16,
    /// Seconds after which it ends
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lasts: u64,
}

pub(crate) fn run(listen: &Listen) -> Result<(), ProbeError> {
    let listener = bind(listen.port).map_err(|source| ProbeError::Listen { port: listen.port, source })?;
    std::thread::spawn(move || serve(&listener));
    std::thread::sleep(Duration::from_secs(listen.lasts));
    Ok(())
}

/// IPv6 takes IPv4 in, too, where the kernel has it at all.
fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
}

fn serve(listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming().flatten() {
        if open.fetch_add(1, Ordering::SeqCst) >= MOST {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let open = open.clone();
        std::thread::spawn(move || {
            // The other end has gone, or says nothing any more.
            let _ = echo(connection);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

pub(crate) fn echo(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(QUIET))?;
    connection.set_write_timeout(Some(QUIET))?;
    connection.set_nodelay(true)?;
    let mut buffer = [0; 512];
    loop {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            read => connection.write_all(&buffer[..read])?,
        }
    }
}
