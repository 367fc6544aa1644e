use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that hands out no more than one line at a time.
///
/// lettre keeps what it has read before STARTTLS and goes on with it after. Whoever sits on the way could send, behind the
/// server's `220`, plain answers to everything that comes later, and so make a mail look delivered that never was (RFC 3207
/// section 6, CVE-2011-0411 the other way round). Line by line, nothing is kept: what was sent too early goes to TLS, which
/// ends the connection.
#[derive(Debug)]
pub(crate) struct ByLine {
    stream: TcpStream,
    read: Box<[u8]>,
    /// What was read and not handed out yet.
    waiting: std::ops::Range<usize>,
}

impl ByLine {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, read: vec![0; 4096].into_boxed_slice(), waiting: 0..0 }
    }
}

impl AsyncTokioStream for ByLine {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for ByLine {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_empty() {
            let mut fresh = ReadBuf::new(&mut this.read);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut fresh))?;
            this.waiting = 0..fresh.filled().len();
        }
        let waiting = &this.read[this.waiting.clone()];
        let line = waiting.iter().position(|byte| *byte == b'\n').map_or(waiting.len(), |at| at + 1);
        let taken = line.min(out.remaining());
        out.put_slice(&waiting[..taken]);
        this.waiting.start += taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByLine {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
