//! A request's body as JSON: its type and encoding, its size, its text.
//!
//! What is said to be too large is refused before it comes, and so is an encoding that is not taken. The
//! limit holds for what is unpacked too. What bodies take, as they come and as they are parsed, is held of the
//! memory for all requests ([`crate::gateway::wire::request_memory`]) until their JSON is dropped.

use super::app::{App, RequestContext};
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::json::mend_surrogates;
use crate::gateway::wire::request_memory::{Share, parsed_bytes};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use serde_json::Value;
use std::io::Read;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio::runtime::Handle;

/// JSON of more bytes than this is parsed off the async threads.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;
/// JSON that takes more memory is dropped off them too: millions of values take a while.
const DROP_INLINE_BYTES_MAX: usize = 8 << 20;
/// How long nothing may come of a body: until then it holds memory.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Of what is unpacked, how much at a time.
const UNPACK_BYTES: usize = 64 << 10;
/// How long a refused body is still taken, so that its sender comes to read why.
const LINGER: Duration = Duration::from_secs(2);

/// A body's JSON, and the memory that it takes.
#[derive(Debug)]
pub struct ParsedBody {
    value: Value,
    /// Until it is dropped.
    share: Option<Share>,
}

impl Drop for ParsedBody {
    fn drop(&mut self) {
        let is_large = self.share.as_ref().is_some_and(|share| share.bytes() > DROP_INLINE_BYTES_MAX);
        if let Some(runtime) = Handle::try_current().ok().filter(|_| is_large) {
            let whole = (self.value.take(), self.share.take());
            runtime.spawn_blocking(move || drop(whole));
        }
    }
}

impl ParsedBody {
    /// Holds memory for so many bytes that are made of it, or of what it refers to.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn hold_more(&mut self, bytes: usize) -> Result<(), ApiError> {
        match &mut self.share {
            Some(share) => Ok(share.hold(share.bytes() + bytes)?),
            None => Ok(()),
        }
    }

    /// Bytes that are held for it.
    pub fn held_bytes(&self) -> usize {
        self.share.as_ref().map_or(0, Share::bytes)
    }
}

impl Deref for ParsedBody {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl DerefMut for ParsedBody {
    fn deref_mut(&mut self) -> &mut Value {
        &mut self.value
    }
}

impl App {
    /// The body as JSON.
    pub async fn read_json(
        &self,
        context: &RequestContext,
        bounds: &mut RequestBounds,
        request: Request,
    ) -> Result<ParsedBody, ApiError> {
        let headers = request.headers();
        let bytes_max = self.config.body_bytes_max;
        let refused = match is_gzip(headers) {
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
        let (gzip, announced) = (is_gzip(headers)?, announced(headers));
        let mut share = self.memory.share();
        let bytes = read(bounds, request.into_body(), announced, bytes_max, &mut share).await?;
        let is_short = !gzip && bytes.len() <= PARSE_INLINE_BYTES_MAX;
        let parse = move || {
            let bytes = if gzip { unpacked(&bytes, bytes_max, &mut share)? } else { bytes };
            let parsed = parsed_bytes(&bytes);
            share.hold(parsed)?;
            let mut value = serde_json::from_slice(&bytes);
            if value.as_ref().is_err_and(|error| error.to_string().contains("hex escape")) {
                // Text is there twice meanwhile.
                share.hold(parsed + bytes.len())?;
                let mut mended = bytes.to_vec();
                mend_surrogates(&mut mended);
                value = serde_json::from_slice(&mended);
                share.hold(parsed)?;
            }
            let value = value.map_err(|error| ApiError::malformed_json(&error))?;
            Ok(ParsedBody { value, share: Some(share) })
        };
        match is_short {
            true => parse(),
            false => self.text.run(&context.tenant.name, bounds, || Ok(parse())).await?,
        }
    }
}

/// All of a body, whose memory `share` holds.
async fn read(
    bounds: &mut RequestBounds,
    mut body: Body,
    announced: Option<u64>,
    bytes_max: usize,
    share: &mut Share,
) -> Result<Vec<u8>, ApiError> {
    // Pages are taken as they are written.
    let mut all = Vec::with_capacity(announced.unwrap_or(0).min(bytes_max as u64) as usize);
    loop {
        let next = bounds.bound(tokio::time::timeout(SILENCE_MAX, body.frame())).await?;
        let frame = match next.map_err(|_| ApiError::slow_body(SILENCE_MAX))? {
            None => return Ok(all),
            Some(Err(error)) => return Err(ApiError::unreadable_body(&error.to_string())),
            Some(Ok(frame)) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = all.len() + data.len();
        // What grows is there twice for a moment, and has room for as much again.
        let taken = if announced.is_some() { length } else { length * 3 };
        let held = match length > bytes_max {
            true => Err(ApiError::body_too_large(bytes_max)),
            false => share.hold(taken).map_err(ApiError::from),
        };
        if let Err(error) = held {
            tokio::spawn(linger(body));
            return Err(error);
        }
        all.extend_from_slice(&data);
    }
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

/// What was packed; `share` holds both.
fn unpacked(bytes: &[u8], bytes_max: usize, share: &mut Share) -> Result<Vec<u8>, ApiError> {
    let mut json = Vec::new();
    let mut packed = MultiGzDecoder::new(bytes);
    loop {
        let read = packed.by_ref().take(UNPACK_BYTES as u64).read_to_end(&mut json);
        let read =
            read.map_err(|error| ApiError::unreadable_body(&format!("the body is not whole gzip: {error}")))?;
        if json.len() > bytes_max {
            return Err(ApiError::body_too_large(bytes_max));
        }
        if read == 0 {
            return Ok(json);
        }
        share.hold(bytes.len() + json.len() * 3)?;
    }
}

/// Takes what is sent and drops it, for a while: a connection that is closed before has its answer
/// lost on the way.
pub(in crate::gateway) async fn linger(mut body: Body) {
    let all = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    let _ = tokio::time::timeout(LINGER, all).await;
}
