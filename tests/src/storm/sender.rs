//! A sender of alerts over connections that are kept alive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::operator::TOKEN;

/// Where alerts go.
#[derive(Clone, Debug)]
pub struct Address {
    /// The operator's intake.
    pub intake: SocketAddr,
    /// The Source.
    pub source: String,
}

/// Posts `number` bodies, each as `body` makes it of its number, over so many connections. Every answer must be a success.
pub async fn post(
    address: &Address,
    number: usize,
    connections: usize,
    body: impl Fn(usize) -> Bytes + Send + Sync,
) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let body = &body;
    let senders = (0..connections).map(|_| {
        let next = next.clone();
        async move {
            let mut connection = connect(address).await?;
            loop {
                let this = next.fetch_add(1, Ordering::Relaxed);
                if this >= number {
                    return anyhow::Ok(());
                }
                send(&mut connection, address, body(this)).await?;
            }
        }
    });
    try_join_all(senders).await.map(drop)
}

/// Opens a connection.
pub async fn connect(address: &Address) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address.intake).await.context("no connection to the intake")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Posts one body, and waits for the answer.
pub async fn send(connection: &mut SendRequest<Full<Bytes>>, address: &Address, body: Bytes) -> Result<()> {
    connection.ready().await?;
    let request = Request::post(format!("/v1/sources/{}", address.source))
        .header(header::HOST, address.intake.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .body(Full::new(body))?;
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    let text = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "an alert was answered {status}: {}", String::from_utf8_lossy(&text));
    Ok(())
}
