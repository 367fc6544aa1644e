//! Connections: how many there may be, and who is at the other end.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tower::Layer as _;

/// Most connections at a time. Each has buffers of its own, whoever is at its other end.
const MOST: usize = 4096;
/// Of these, one address may hold so many.
const MOST_OF_ONE: usize = MOST / 2;

/// The certificates that the sender has shown and proven to hold the key of; nobody has looked yet who signed them.
#[derive(Clone, Debug, Default)]
pub struct Shown(pub Arc<[CertificateDer<'static>]>);

/// Turns connections away when there are too many.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Held as long as the connection is.
#[derive(Clone, Debug)]
pub struct Seat(#[expect(dead_code, reason = "it is given up when it is dropped")] Arc<Held>);

#[derive(Debug)]
struct Held {
    of: Counted,
    address: IpAddr,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Ok(mut open) = self.of.open.lock() else { return };
        if let Some(held) = open.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                open.remove(&self.address);
            }
        }
    }
}

impl Counted {
    fn seat(&self, address: IpAddr) -> io::Result<Seat> {
        let full = || io::Error::other("too many connections");
        let mut open = self.open.lock().map_err(|_| full())?;
        let all: usize = open.values().sum();
        let own = open.entry(address).or_default();
        if all >= MOST || *own >= MOST_OF_ONE {
            if *own == 0 {
                open.remove(&address);
            }
            return Err(full());
        }
        *own += 1;
        Ok(Seat(Arc::new(Held { of: self.clone(), address })))
    }
}

impl<S> Accept<TcpStream, S> for Counted {
    type Stream = TcpStream;
    type Service = AddExtension<S, Seat>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let seat = stream.peer_addr().and_then(|peer| self.seat(peer.ip()));
        ready(seat.map(|seat| (stream, Extension(seat).layer(service))))
    }
}

/// The same with TLS.
#[derive(Clone, Debug)]
pub struct Secured(RustlsAcceptor<Counted>);

impl Secured {
    /// With the certificate of `config`, which may change at any time.
    #[must_use]
    pub fn new(config: RustlsConfig) -> Self {
        Self(RustlsAcceptor::new(config).acceptor(Counted::default()))
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Secured {
    type Stream = TlsStream<TcpStream>;
    type Service = AddExtension<AddExtension<S, Seat>, Shown>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepted = self.0.accept(stream, service);
        async move {
            let (stream, service) = accepted.await?;
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
            Ok((stream, Extension(Shown(shown.into())).layer(service)))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_address_cannot_take_all_seats_and_gives_them_back() {
        let counted = Counted::default();
        let (hostile, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from(Ipv4Addr::LOCALHOST));
        let taken: Vec<Seat> = std::iter::from_fn(|| counted.seat(hostile).ok()).collect();
        assert_eq!(taken.len(), MOST_OF_ONE);
        let _seat = counted.seat(other).expect("another address finds room");
        drop(taken);
        assert!(counted.seat(hostile).is_ok());
    }
}
