//! What a replica that no longer leads can't do any more: write.
//!
//! A Lease that is renewed holds for its length from the moment that the renewal was sent, and others begin to count later than that. So
//! the fence is open until four fifths of that time are over; the rest is for writes that are on their way, and for clocks that don't run
//! alike. Every request of the leader, its effects and its records, passes the fence: before it is sent, and each time that its task goes
//! on. So do the connections that carry them, which are tasks of their own: a process that was stopped between the moment that a request was
//! given to its connection and the moment that the connection wrote it finds the fence closed before it writes. A request that waits for its
//! answer when the fence closes is given up, and its connection with it.
//!
//! The clock goes on while the process is stopped and while the machine sleeps.
//!
//! What is left is a write that the kernel or a proxy has already taken, and delivers late, and a process that is stopped in the few
//! instructions between the look at the fence and the kernel. No client can take that back. Quell's effects are
//! made for it: they have fixed names, test what they change, and repeated by the next leader they are the same.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response};
use hyper::rt::Executor;
use kube::client::Body;
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tower::{BoxError, Layer, Service};

/// Refused, for another replica may lead by now.
#[derive(Clone, Copy, Debug, Error)]
#[error("not sent: this replica's Lease is over, and another may lead by now")]
pub struct Closed;

/// The time that goes on whatever becomes of the process, since the machine's start.
#[must_use]
pub fn now() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Open while this replica surely leads.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    /// Nanoseconds of [`now`]; 0 while it is closed for good.
    until: Arc<AtomicU64>,
}

impl Fence {
    /// A Lease of that length was renewed by a request sent at `sent`.
    pub fn open_until(&self, sent: Duration, length: Duration) {
        let until = sent + length * 4 / 5;
        self.until.store(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Nothing passes any more, unless it is opened again.
    pub fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// How long it stays open if the Lease isn't renewed; zero where it is closed.
    #[must_use]
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.until.load(Ordering::Acquire)).saturating_sub(now())
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.left().is_zero()
    }
}

/// Runs the connections of a client while the fence is open. One that is polled when it is closed ends there, with whatever it was given to
/// write.
#[derive(Clone, Debug)]
pub struct FencedConnections(pub Fence);

impl<F> Executor<F> for FencedConnections
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, connection: F) {
        let fence = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closed(&fence) => {}
                () = connection => {}
            }
        });
    }
}

/// A layer for a client whose requests pass the fence.
#[derive(Clone, Debug)]
pub struct FenceLayer(pub Fence);

impl<S> Layer<S> for FenceLayer {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Fenced { inner, fence: self.0.clone() }
    }
}

/// What [`FenceLayer`] makes.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, B> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send + 'static>,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.fence.is_closed() {
            return Box::pin(std::future::ready(Err(Closed.into())));
        }
        let (answer, fence) = (self.inner.call(request), self.fence.clone());
        Box::pin(async move {
            tokio::select! {
                biased;
                () = closed(&fence) => Err(Closed.into()),
                answer = answer => answer.map_err(Into::into),
            }
        })
    }
}

/// Returns when the fence is closed. The clock is read at each poll, not only when the timer ends: a process that was stopped may wake up to
/// something else first.
async fn closed(fence: &Fence) {
    let mut timer = Box::pin(tokio::time::sleep(fence.left()));
    std::future::poll_fn(|context| {
        loop {
            let left = fence.left();
            if left.is_zero() {
                return Poll::Ready(());
            }
            match timer.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                // It was renewed meanwhile.
                Poll::Ready(()) => timer.set(tokio::time::sleep(left)),
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt as _;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(5);

    fn request() -> Request<Body> {
        Request::new(Body::empty())
    }

    #[test]
    fn a_fence_is_open_for_four_fifths_of_the_lease_from_the_moment_that_its_renewal_was_sent() {
        let fence = Fence::default();
        assert!(fence.is_closed(), "nothing was won yet");
        fence.open_until(now(), LENGTH);
        assert!(!fence.is_closed() && fence.left() <= LENGTH * 4 / 5);
        fence.open_until(now().saturating_sub(LENGTH * 4 / 5), LENGTH);
        assert!(fence.is_closed(), "the answer came late");
    }

    #[tokio::test]
    async fn nothing_is_sent_through_a_closed_fence() {
        let fence = Fence::default();
        let service = tower::service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(())) });
        let fenced = FenceLayer(fence.clone()).layer(service);
        let refused = fenced.clone().oneshot(request()).await.expect_err("closed");
        assert!(refused.is::<Closed>(), "{refused}");
        fence.open_until(now(), LENGTH);
        fenced.oneshot(request()).await.expect("open");
    }

    /// A connection's task is woken by what it is given, and may be run only after the process was stopped for a while.
    #[tokio::test]
    async fn a_connection_that_goes_on_when_the_fence_is_closed_does_not_write_what_it_was_given_before() {
        let fence = Fence::default();
        fence.open_until(now(), LENGTH);
        let (give, mut given) = tokio::sync::mpsc::unbounded_channel();
        let (write, mut written) = tokio::sync::mpsc::unbounded_channel();
        FencedConnections(fence.clone()).execute(async move {
            while let Some(request) = given.recv().await {
                let _ = write.send(request);
            }
        });
        give.send("while it is open").expect("a connection");
        assert_eq!(written.recv().await, Some("while it is open"));
        give.send("just before it is closed").expect("a connection");
        fence.close();
        assert_eq!(written.recv().await, None, "the connection has ended");
    }

    #[tokio::test]
    async fn a_write_that_waits_for_its_answer_is_given_up_when_the_fence_closes() {
        let fence = Fence::default();
        let service = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<()>, Infallible>>());
        fence.open_until(now(), Duration::from_millis(50));
        let answer = FenceLayer(fence).layer(service).oneshot(request()).await;
        assert!(answer.expect_err("given up").is::<Closed>());
    }
}
