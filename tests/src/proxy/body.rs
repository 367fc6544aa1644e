//! Watches that are passed on in another way than they come.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tower::BoxError;

use super::Body;

/// How a watch is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Each piece is held back for this time.
    Slow(Duration),
    /// The connection is cut after this many pieces, in the middle of the next.
    Cut(usize),
    /// After this many pieces the API server says that it has forgotten the version that the watch began at.
    Gone(usize),
}

const GONE: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":410,"#,
    r#""reason":"Expired","message":"too old resource version (by the proxy of the test bed)"}}"#,
    "\n"
);

/// The stream of a watch, passed on as `how` says.
pub(super) fn streamed<B>(body: B, how: Stream) -> Body
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let frames = body.into_data_stream().map(|piece| piece.map_err(Into::into));
    match how {
        Stream::Slow(time) => {
            let slow = frames.then(move |piece| async move {
                tokio::time::sleep(time).await;
                piece.map(Frame::data)
            });
            StreamBody::new(slow).boxed_unsync()
        }
        Stream::Cut(pieces) => {
            let cut = frames.enumerate().map(move |(index, piece)| {
                if index < pieces { piece.map(Frame::data) } else { Err(BoxError::from("cut by the proxy")) }
            });
            StreamBody::new(cut).boxed_unsync()
        }
        Stream::Gone(pieces) => {
            let gone = futures::stream::once(async { Ok(Frame::data(Bytes::from_static(GONE.as_bytes()))) });
            StreamBody::new(frames.take(pieces).map(|piece| piece.map(Frame::data)).chain(gone)).boxed_unsync()
        }
    }
}
