//! Server-sent events: a run of text events becomes a response body. While nothing happens a
//! comment is sent every so often, so that neither clients nor proxies give up during a long
//! prefill. Dropping the body drops the source and so cancels the request; a slow reader is not
//! polled for, so it costs what the engine's bounded channel holds and no more.
//!
//! Events that have come by the time that one is sent are sent with it: a write to a socket costs more
//! than the event.

use super::connection::half_closed;
use super::error::ApiError;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::future::poll_immediate;
use futures_util::stream;
use serde::Serialize;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// What is said while nothing happens.
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";
/// Frames of more than this go out as they come.
const TOGETHER_BYTES_MAX: usize = 16 << 10;
/// How long a frame may be held back for those that follow at once.
const TOGETHER: Duration = Duration::from_millis(1);

/// Frames that go out together.
#[derive(Debug, Default)]
pub struct Frames(String);

impl Frames {
    /// One event whose data is this value as JSON.
    pub fn json(&mut self, data: &impl Serialize) {
        let json = serde_json::to_string(data).expect("wire types have string keys only");
        self.data(&json);
    }

    /// One event with this data, which has no line breaks.
    pub fn data(&mut self, data: &str) {
        debug_assert!(!data.contains('\n'));
        self.0.push_str("data: ");
        self.0.push_str(data);
        self.0.push_str("\n\n");
    }

    /// Whole events as they are.
    pub fn text(&mut self) -> &mut String {
        &mut self.0
    }

    /// The text so far, leaving none.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

/// What a body is made of: something that fills frames until it ends.
pub trait FrameSource: Send + 'static {
    /// Adds the next frames; false when these were the last. Must lose nothing when its future
    /// is dropped before it is ready: that is how keep-alive comments get their turn.
    fn next(&mut self, frames: &mut Frames) -> impl Future<Output = Result<bool, ApiError>> + Send;
    /// Adds the event that tells of a failure, the last one. OpenAI's shape unless said otherwise.
    fn failed(&mut self, error: &ApiError, frames: &mut Frames) {
        frames.data(&error.to_json());
    }
}

/// Of a stream's response: why it broke off, once it has. For the log.
#[derive(Clone, Debug, Default)]
pub struct BrokeOff(pub Arc<OnceLock<String>>);

/// The response: status 200, whatever comes later. An error becomes an `error` event, the last.
pub fn response<S: FrameSource>(source: S, keep_alive: Duration) -> Response {
    let silence = Box::pin(tokio::time::sleep(keep_alive));
    let broke_off = BrokeOff::default();
    let told = broke_off.clone();
    let pieces = Pieces { source: Some(source), silence, keep_alive, is_first: true, broke_off: told };
    let body = Body::from_stream(stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.next().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    }));
    let mut response = Response::new(body);
    response.extensions_mut().insert(broke_off);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A body's pieces, each of whole frames.
struct Pieces<S> {
    /// None after the last.
    source: Option<S>,
    /// Ends a wait. One timer for all of them: setting it anew costs little.
    silence: Pin<Box<Sleep>>,
    keep_alive: Duration,
    is_first: bool,
    broke_off: BrokeOff,
}

impl<S: FrameSource> Pieces<S> {
    async fn next(&mut self) -> Option<String> {
        let mut source = self.source.take()?;
        self.silence.as_mut().reset(tokio::time::Instant::now() + self.keep_alive);
        let (mut frames, mut more) = (Frames::default(), true);
        // An event that makes no frame (a token held back) is not sent as nothing.
        while more && frames.0.is_empty() {
            let next = tokio::select! {
                biased;
                next = source.next(&mut frames) => next,
                () = self.silence.as_mut() => {
                    self.source = Some(source);
                    return Some(KEEP_ALIVE.to_owned());
                }
                () = half_closed() => {
                    self.source = Some(source);
                    return Some(KEEP_ALIVE.to_owned());
                }
            };
            more = told(&mut source, next, &mut frames, &self.broke_off);
        }
        // The first goes with the head; later, what has come goes together.
        let (begun, is_first) = (Instant::now(), std::mem::take(&mut self.is_first));
        while more && !is_first && frames.0.len() < TOGETHER_BYTES_MAX && begun.elapsed() < TOGETHER {
            let Some(next) = there_now(source.next(&mut frames)).await else { break };
            more = told(&mut source, next, &mut frames, &self.broke_off);
        }
        self.source = more.then_some(source);
        Some(frames.take())
    }
}

/// Whether more comes; a failure is told and is the end.
fn told<S: FrameSource>(
    source: &mut S,
    next: Result<bool, ApiError>,
    frames: &mut Frames,
    broke_off: &BrokeOff,
) -> bool {
    next.unwrap_or_else(|error| {
        let _ = broke_off.0.set(error.message.clone());
        source.failed(&error, frames);
        false
    })
}

/// The output, if it is there once everybody else has had a turn.
async fn there_now<T>(future: impl Future<Output = T>) -> Option<T> {
    // Hyper polls a body twice in a turn of its own.
    let mut polls = 2;
    poll_fn(|context| match polls {
        0 => Poll::Ready(()),
        _ => {
            polls -= 1;
            // Tokio's own yield would look at the network first.
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
    poll_immediate(future).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::bounds::Overdue;
    use axum::body::to_bytes;
    use http_body_util::BodyExt;

    /// Waits before each step, then says it; ends with an error or well.
    struct Steps {
        waits_ms: Vec<u64>,
        fail: bool,
    }

    impl FrameSource for Steps {
        async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
            let Some(wait) = self.waits_ms.last().copied() else {
                return if self.fail { Err(Overdue::Timeout { seconds: 1 }.into()) } else { Ok(false) };
            };
            if wait > 0 {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            self.waits_ms.pop();
            frames.json(&wait);
            Ok(true)
        }
    }

    async fn text(source: Steps) -> String {
        let body = response(source, Duration::from_millis(150)).into_body();
        String::from_utf8(to_bytes(body, 1 << 16).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn silence_is_filled_and_the_end_is_the_end() {
        assert_eq!(text(Steps { waits_ms: vec![0, 10], fail: false }).await, "data: 10\n\ndata: 0\n\n");
        let failed = text(Steps { waits_ms: vec![0], fail: true }).await;
        assert!(failed.starts_with("data: 0\n\ndata: {\"error\":{"), "{failed}");
        assert!(failed.contains(r#""code":"timeout""#) && failed.ends_with("}}\n\n"), "{failed}");
    }

    #[tokio::test]
    async fn what_has_come_goes_together() {
        let steps = Steps { waits_ms: vec![0, 0, 100, 0, 0, 0], fail: true };
        let mut body = response(steps, Duration::from_secs(10)).into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap());
        }
        // The first is not held back.
        assert_eq!(pieces[..2], ["data: 0\n\n", "data: 0\n\ndata: 0\n\n"], "{pieces:?}");
        assert!(pieces[2].starts_with("data: 100\n\ndata: 0\n\ndata: 0\n\ndata: {\"error\":"), "{pieces:?}");
        assert_eq!(pieces.len(), 3);
    }

    #[tokio::test]
    async fn keep_alive_comments() {
        struct Late(tokio::time::Instant);
        impl FrameSource for Late {
            async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
                tokio::time::sleep_until(self.0).await;
                frames.data("[DONE]");
                Ok(false)
            }
        }
        let at = tokio::time::Instant::now() + Duration::from_millis(250);
        let body = response(Late(at), Duration::from_millis(100)).into_body();
        let text = String::from_utf8(to_bytes(body, 1 << 16).await.unwrap().to_vec()).unwrap();
        assert!(text.starts_with(": keep-alive\n\n"), "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    }
}
