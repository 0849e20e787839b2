//! A request's body as JSON: its type and encoding, its size, its text.
//!
//! What is said to be too large is refused before it comes, and so is an encoding that is not taken. The
//! limit holds for what is unpacked too.

use super::app::App;
use super::bounds::Limits;
use super::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;

/// JSON of more bytes than this is parsed off the async threads.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;
/// How long a refused body is still taken, so that its sender comes to read why.
const LINGER: Duration = Duration::from_secs(2);

impl App {
    /// The body as JSON.
    pub async fn read_json(&self, limits: &mut Limits, request: Request) -> Result<Value, ApiError> {
        let headers = request.headers();
        let bytes_max = self.config.body_bytes_max;
        let refused = match check_type(headers).and_then(|()| is_gzip(headers)) {
            Ok(_) if announced(headers).is_none_or(|bytes| bytes <= bytes_max as u64) => None,
            Ok(_) => Some(ApiError::body_too_large(bytes_max)),
            Err(error) => Some(error),
        };
        if let Some(error) = refused {
            // Who asks first whether to send it does not, when told this.
            if !headers.contains_key(header::EXPECT) {
                tokio::spawn(linger(request.into_body()));
            }
            return Err(error);
        }
        let gzip = is_gzip(headers)?;
        let bytes = limits.bound(Bytes::from_request(request, &())).await?.map_err(|rejection| {
            match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(bytes_max),
                _ => ApiError::unreadable_body(&rejection.body_text()),
            }
        })?;
        if !gzip && bytes.len() <= PARSE_INLINE_BYTES_MAX {
            return serde_json::from_slice(&bytes).map_err(|error| ApiError::malformed_json(&error));
        }
        let read = move || match gzip {
            false => Ok(serde_json::from_slice(&bytes).map_err(|error| ApiError::malformed_json(&error))),
            true => Ok(unpacked(&bytes, bytes_max).and_then(|json| {
                serde_json::from_slice(&json).map_err(|error| ApiError::malformed_json(&error))
            })),
        };
        self.text.run(limits, read).await?
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = String::from_utf8_lossy(kind.as_bytes());
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Other types would let a web page of any origin send requests without a preflight.
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::wrong_content_type(&kind))
}

/// Whether the body is packed, in the one way that is taken.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut gzip = false;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        for encoding in value.split(',').map(|encoding| encoding.trim().to_ascii_lowercase()) {
            match encoding.as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if !gzip => gzip = true,
                _ => return Err(ApiError::wrong_content_encoding(&value)),
            }
        }
    }
    Ok(gzip)
}

/// The body's size, where the head says it.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn unpacked(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, ApiError> {
    let mut json = Vec::new();
    let read = MultiGzDecoder::new(bytes).take(bytes_max as u64 + 1).read_to_end(&mut json);
    read.map_err(|error| ApiError::unreadable_body(&format!("the body is not whole gzip: {error}")))?;
    if json.len() > bytes_max { Err(ApiError::body_too_large(bytes_max)) } else { Ok(json) }
}

/// Takes what is sent and drops it, for a while: a connection that is closed before has its answer
/// lost on the way.
async fn linger(mut body: Body) {
    let all = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    let _ = tokio::time::timeout(LINGER, all).await;
}
