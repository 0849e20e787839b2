//! Server-sent events: a run of text events becomes a response body. While nothing happens a
//! comment is sent every so often, so that neither clients nor proxies give up during a long
//! prefill. Dropping the body drops the source and so cancels the request; a slow reader is not
//! polled for, so it costs what the engine's bounded channel holds and no more.

use super::error::ApiError;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::stream;
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

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

/// The response: status 200, whatever comes later. An error becomes an `error` event, the last.
pub fn response<S: FrameSource>(source: S, keep_alive: Duration) -> Response {
    let body = Body::from_stream(stream::unfold(Some(source), move |source| async move {
        let mut source = source?;
        let mut frames = Frames::default();
        loop {
            match tokio::time::timeout(keep_alive, source.next(&mut frames)).await {
                Err(_) => return Some((ok(": keep-alive\n\n".to_owned()), Some(source))),
                Ok(Ok(true)) => {
                    let text = frames.take();
                    // An event that made no frame (a token held back) is not sent as nothing.
                    if !text.is_empty() {
                        return Some((ok(text), Some(source)));
                    }
                }
                Ok(Ok(false)) => return Some((ok(frames.take()), None)),
                Ok(Err(error)) => {
                    source.failed(&error, &mut frames);
                    return Some((ok(frames.take()), None));
                }
            }
        }
    }));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn ok(text: String) -> Result<String, Infallible> {
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::local::LocalError;
    use axum::body::to_bytes;

    /// Waits before each step, then says it; ends with an error or well.
    struct Steps {
        waits_ms: Vec<u64>,
        fail: bool,
    }

    impl FrameSource for Steps {
        async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
            let Some(wait) = self.waits_ms.last().copied() else {
                return if self.fail { Err(LocalError::Timeout { seconds: 1 }.into()) } else { Ok(false) };
            };
            tokio::time::sleep(Duration::from_millis(wait)).await;
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
