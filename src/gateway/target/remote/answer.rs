//! What an upstream answers, as it comes.
//!
//! A stream is one by its content type. A whole answer that comes in its place is told as a stream;
//! anything else is an error at once, before its body.
//!
//! What an upstream makes us keep is bounded: a whole answer, a frame, and what comes of a stream before it
//! says anything, in bytes (unpacked ones, where it packs what it sends), frames and time. What is large is held of
//! the memory of all requests.
//!
//! Invariant: no secret that we know is in what is told of it, unless it came in pieces of several frames.

use crate::config::ThinkTags;
use crate::connect::{chain, data};
use crate::gateway::chat::openai::think::ThinkSplitter;
use crate::gateway::chat::tool_names::ToolNames;
use crate::gateway::chat::{
    AnswerHead, ChatEvent, DecodeError, Dialect, EncodeOptions, Frame, FrameError, FrameReader, Progress,
    StreamDecoder, StreamEncoder, decode_whole,
};
use crate::gateway::target::adaptive::Permit;
use crate::gateway::target::answer::Piece;
use crate::gateway::target::failure::{Failure, Then};
use crate::gateway::target::http_client::AnswerBody;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::json::mend_surrogates;
use crate::gateway::wire::request_memory::{Share, Shortage, parsed_bytes};
use crate::secrets;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use hyper::Response;
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

/// Longest whole answer. A model's longest output is well under a megabyte of text; logprobs make it more.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest frame of a stream.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// What is not larger is not worth counting.
const UNCOUNTED_BYTES_MAX: usize = 64 << 10;
/// The end of a stream of OpenAI's format.
const END: &str = "[DONE]";
/// Of a stream, until it says something: frames, which are kept as another target may still take over.
const SILENT_FRAMES_MAX: usize = 1024;
/// Their bytes.
const SILENT_BYTES_MAX: usize = 1 << 20;

/// An answer whose head has come.
pub struct RemoteAnswer {
    response: Response<AnswerBody>,
    /// Ends a wait for news.
    idle: Pin<Box<Sleep>>,
    is_waiting: bool,
    frames: FrameReader,
    decoder: StreamDecoder,
    waiting: VecDeque<Piece>,
    dialect: Dialect,
    upstream: Place,
    state: State,
    /// The upstream said that this was the end.
    said_end: bool,
    /// Answers that were asked for.
    choices: u64,
    /// Tools that have other names there.
    names: ToolNames,
    /// What finds reasoning in its text.
    think: ThinkSplitter,
    /// What it takes of the requests' memory.
    share: Share,
}

/// What an answer's content type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Json,
    Stream,
    Either,
}

/// How far a stream has come.
enum State {
    /// Nothing has been read.
    New,
    Open,
    Ended,
    Broken(Unread),
}

/// Why what came is not read.
#[derive(Clone)]
enum Unread {
    Wrong(DecodeError),
    TooLarge(Shortage),
}

impl From<DecodeError> for Unread {
    fn from(error: DecodeError) -> Self {
        Self::Wrong(error)
    }
}

impl From<FrameError> for Unread {
    fn from(error: FrameError) -> Self {
        Self::Wrong(error.into())
    }
}

impl From<Shortage> for Unread {
    fn from(shortage: Shortage) -> Self {
        Self::TooLarge(shortage)
    }
}

/// A place among a model's and a provider's requests.
pub(super) struct Place {
    /// The provider.
    pub name: String,
    /// How long it may be silent.
    pub timeout: Duration,
    /// What it holds.
    pub held: Option<(Permit, OwnedSemaphorePermit)>,
}

/// A whole answer as the stream that it should have been; fields that events do not carry are lost.
fn retold(dialect: Dialect, body: &[u8]) -> Result<String, DecodeError> {
    let events = decode_whole(dialect, body)?;
    let mut head = AnswerHead { id: String::new(), model: String::new(), created_unix_s: 0 };
    for event in &events {
        if let ChatEvent::Start { id, model } = event {
            (head.id, head.model) = (id.clone().unwrap_or_default(), model.clone().unwrap_or_default());
        }
    }
    if let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) {
        head.created_unix_s = body["created"].as_u64().unwrap_or(0);
    }
    let options = EncodeOptions { include_usage: true, ..EncodeOptions::default() };
    let (mut encoder, mut told) = (StreamEncoder::new(dialect, head, options), String::new());
    for event in &events {
        encoder.event(event, &mut told).map_err(|error| DecodeError::shape(error.to_string(), ""))?;
    }
    encoder.finish(&mut told);
    Ok(told)
}

impl RemoteAnswer {
    pub(super) fn new(
        response: Response<AnswerBody>,
        dialect: Dialect,
        upstream: Place,
        share: Share,
    ) -> Self {
        Self {
            response,
            idle: Box::pin(tokio::time::sleep(upstream.timeout)),
            is_waiting: false,
            frames: FrameReader::new(FRAME_BYTES_MAX),
            decoder: StreamDecoder::new(dialect),
            waiting: VecDeque::new(),
            dialect,
            upstream,
            state: State::New,
            said_end: false,
            choices: 1,
            names: ToolNames::default(),
            think: ThinkSplitter::default(),
            share,
        }
    }

    /// So many answers were asked for.
    pub fn expects(&mut self, choices: u64) {
        self.choices = choices;
    }

    /// Tools have these names there, and the caller's in what is told of it.
    pub fn renames(&mut self, names: ToolNames) {
        self.names = names;
    }

    /// Reasoning that it has in its text is told as such.
    pub fn splits(&mut self, tags: ThinkTags) {
        if self.dialect == Dialect::OpenAi {
            self.think = ThinkSplitter::new(tags, self.choices);
        }
    }

    /// Which tools have other names there.
    pub fn names(&self) -> &ToolNames {
        &self.names
    }

    /// Whether the upstream said that its stream was over. Some close it after the last `finish_reason`, or
    /// break off there: the answer is whole all the same, and its caller is to be told of its end.
    pub fn said_end(&self) -> bool {
        self.said_end
    }

    /// The dialect that it is in.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Gives its place among requests up: nothing comes of it any more.
    pub fn free_place(&mut self) {
        self.upstream.held = None;
    }

    /// The next frame; None after the stream's proper end. Frames that came before a failure are
    /// told before it. Loses nothing when dropped before it is ready.
    pub async fn next(&mut self, bounds: &mut RequestBounds) -> Result<Option<Piece>, Failure> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Ok(Some(piece));
            }
            match &self.state {
                State::New => {
                    self.state = self.begin(bounds).await?;
                    continue;
                }
                State::Open => {}
                State::Ended => return Ok(None),
                State::Broken(Unread::Wrong(error)) => return Err(self.unread(error.clone())),
                State::Broken(Unread::TooLarge(shortage)) => return Err(self.too_large(*shortage)),
            }
            let bytes = match self.chunk(bounds).await {
                Ok(bytes) => bytes,
                // Nothing is missing but the word for the end.
                Err(failure) if failure.then != Then::Report && self.decoder.has_finished(self.choices) => {
                    self.state = State::Ended;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let at_end = bytes.is_none();
            self.state = match self.read(bytes) {
                Ok(Progress::More) if !at_end => State::Open,
                Ok(_) => State::Ended,
                // What is cut off there is no part of an answer.
                Err(_) if at_end && self.decoder.has_finished(self.choices) => State::Ended,
                Err(error) => State::Broken(error),
            };
        }
    }

    /// Its frames up to the first that says something, so that nothing of it has been told when another
    /// target takes over.
    pub async fn beginning(&mut self, bounds: &mut RequestBounds) -> Result<VecDeque<Piece>, Failure> {
        let timeout = self.upstream.timeout;
        // Comments keep a connection from being silent, and say nothing.
        let told = tokio::time::timeout(timeout, self.until_it_says(bounds)).await;
        told.unwrap_or_else(|_| {
            let message = format!("its answer said nothing within {} seconds", timeout.as_secs());
            let error = ApiError::upstream(&self.upstream.name, StatusCode::GATEWAY_TIMEOUT, &message);
            Err(Failure::next(error))
        })
    }

    async fn until_it_says(&mut self, bounds: &mut RequestBounds) -> Result<VecDeque<Piece>, Failure> {
        let (mut pieces, mut bytes) = (VecDeque::new(), 0);
        while let Some(piece) = self.next(bounds).await? {
            let begins = piece.says_something();
            bytes += piece.frame.as_ref().map_or(0, |frame| frame.data.len());
            pieces.push_back(piece);
            if begins {
                break;
            }
            if pieces.len() > SILENT_FRAMES_MAX || bytes > SILENT_BYTES_MAX {
                let came = format!("{} frames of {bytes} bytes came, which say nothing", pieces.len());
                return Err(Failure::next(self.garbled(&came)));
            }
        }
        Ok(pieces)
    }

    /// Whether what comes is JSON, a stream, or may be either; an error at once where it is neither.
    fn content(&self) -> Result<Content, Failure> {
        // What could be unpacked has no such header any more.
        if let Some(packed) = self.response.headers().get(header::CONTENT_ENCODING)
            && packed != "identity"
        {
            let packed: String = String::from_utf8_lossy(packed.as_bytes()).chars().take(80).collect();
            let message =
                format!("its answer is packed as `{}`, which was not asked for", secrets::hide(&packed));
            return Err(Failure::next(self.garbled(&message)));
        }
        let kind = self.response.headers().get(header::CONTENT_TYPE);
        let kind = secrets::hide(kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default());
        let kind = kind.to_ascii_lowercase();
        match kind.split(';').next().unwrap_or_default().trim() {
            "text/event-stream" => Ok(Content::Stream),
            json if json == "application/json" || json.ends_with("+json") => Ok(Content::Json),
            // Servers that name no type, or the most general ones, are given the benefit of the doubt.
            "" | "text/plain" | "application/octet-stream" => Ok(Content::Either),
            other => Err(self.wrong_kind(other)),
        }
    }

    fn wrong_kind(&self, kind: &str) -> Failure {
        let kind: String = kind.chars().take(80).collect();
        Failure::retry(
            self.garbled(&format!("it answered with `{kind}`, which is no answer to this request")),
        )
    }

    /// Looks whether a stream comes, and tells a whole answer as one.
    async fn begin(&mut self, bounds: &mut RequestBounds) -> Result<State, Failure> {
        if self.content()? != Content::Json {
            return Ok(State::Open);
        }
        let body = self.whole(bounds).await?;
        let told = retold(self.dialect, &body).map_err(|error| self.unread(error))?;
        Ok(match self.read(Some(told.into())) {
            Ok(_) => State::Ended,
            Err(error) => State::Broken(error),
        })
    }

    /// Reads what came; None is the end of the connection.
    fn read(&mut self, bytes: Option<Bytes>) -> Result<Progress, Unread> {
        let at_end = bytes.is_none();
        // What is whole before something that is broken counts.
        let read = match bytes {
            Some(bytes) => self.frames.push(&bytes),
            None => self.frames.finish(),
        };
        let mut kept = counted(self.frames.kept_bytes());
        self.share.hold(kept)?;
        while let Some(mut frame) = self.frames.next() {
            // Here, before anybody reads it: what an upstream repeats of its key goes no further.
            secrets::hide_in(&mut frame.data);
            frame.event.iter_mut().for_each(secrets::hide_in);
            if frame.data.len() > UNCOUNTED_BYTES_MAX {
                kept += parsed_bytes(frame.data.as_bytes());
                self.share.hold(kept)?;
            }
            if !self.names.is_empty()
                && let Ok(mut data) = serde_json::from_str(&frame.data)
            {
                self.names.restore(&mut data, self.dialect);
                frame.data = data.to_string();
            }
            self.think.frame(&mut frame);
            if frame.data == END
                && let Some(held) = self.think.end()
            {
                self.decode(held)?;
            }
            let progress = self.decode(frame)?;
            if progress == Progress::Done {
                self.said_end = true;
                return Ok(progress);
            }
        }
        read?;
        if at_end {
            if let Some(held) = self.think.end() {
                self.decode(held)?;
            }
            self.decoder.end()?;
        }
        Ok(Progress::More)
    }

    /// Adds a frame to what is to be told.
    fn decode(&mut self, frame: Frame) -> Result<Progress, DecodeError> {
        let mut events = Vec::new();
        let progress = self.decoder.frame(&frame, &mut events)?;
        self.names.restore_events(&mut events);
        self.waiting.push_back(Piece { frame: Some(frame), events });
        Ok(progress)
    }

    /// What a body or a piece of one that cannot be read means.
    pub fn unread(&self, error: DecodeError) -> Failure {
        match error {
            DecodeError::Upstream(told) => Failure::of_upstream(&self.upstream.name, told),
            error => Failure::retry(self.garbled(&error.to_string())),
        }
    }

    /// The whole body, which is to be parsed.
    pub async fn whole(&mut self, bounds: &mut RequestBounds) -> Result<Vec<u8>, Failure> {
        let body = self.unparsed(ANSWER_BYTES_MAX, bounds).await?;
        self.share.hold(counted(parsed_bytes(&body))).map_err(|shortage| self.too_large(shortage))?;
        Ok(body)
    }

    /// The whole body of JSON, of which not much is read.
    pub(super) async fn unparsed(
        &mut self,
        bytes_max: usize,
        bounds: &mut RequestBounds,
    ) -> Result<Vec<u8>, Failure> {
        if self.content()? == Content::Stream {
            return Err(self.wrong_kind("text/event-stream"));
        }
        self.bytes(bytes_max, bounds).await
    }

    pub(super) async fn bytes(
        &mut self,
        bytes_max: usize,
        bounds: &mut RequestBounds,
    ) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk(bounds).await? {
            if all.len() + bytes.len() > bytes_max {
                return Err(Failure::next(
                    self.garbled(&format!("its answer is longer than {bytes_max} bytes")),
                ));
            }
            // What grows is there twice for a moment, and has room for as much again.
            let taken = counted((all.len() + bytes.len()) * 3);
            self.share.hold(taken).map_err(|shortage| self.too_large(shortage))?;
            all.extend_from_slice(&bytes);
        }
        secrets::hide_in_bytes(&mut all);
        mend_surrogates(&mut all);
        self.think.whole(&mut all);
        if !self.names.is_empty()
            && let Ok(mut answer) = serde_json::from_slice(&all)
        {
            self.names.restore(&mut answer, self.dialect);
            all = answer.to_string().into_bytes();
        }
        Ok(all)
    }

    async fn chunk(&mut self, bounds: &mut RequestBounds) -> Result<Option<Bytes>, Failure> {
        let Self { response, idle, is_waiting, upstream, .. } = self;
        // One timer for all pieces, set when there is something to wait for. A wait that was given up goes on.
        let silence = async {
            if !std::mem::replace(is_waiting, true) {
                idle.as_mut().reset(tokio::time::Instant::now() + upstream.timeout);
            }
            idle.as_mut().await;
        };
        let next = async {
            tokio::select! {
                biased;
                next = data(response.body_mut()) => Some(next),
                () = silence => None,
            }
        };
        let next = bounds.bound(next).await.map_err(Failure::report)?;
        // Whatever came is a sign of life: a comment and a ping too.
        if matches!(next, Some(Some(Ok(_)))) {
            bounds.heard();
        }
        *is_waiting = false;
        match next {
            Some(Some(Ok(bytes))) => Ok(Some(bytes)),
            Some(None) => Ok(None),
            Some(Some(Err(error))) => {
                tracing::warn!(provider = upstream.name, error = %chain(&*error), "an answer broke off");
                Err(Failure::retry(self.garbled("its answer broke off")))
            }
            None => {
                let message = format!("nothing came for {} seconds", upstream.timeout.as_secs());
                let error = ApiError::upstream(&upstream.name, StatusCode::GATEWAY_TIMEOUT, &message);
                Err(Failure::next(error))
            }
        }
    }

    /// There is no memory for what came: at all, or now, which is nobody's fault.
    fn too_large(&self, shortage: Shortage) -> Failure {
        match shortage {
            Shortage::Ever { .. } => {
                Failure::next(self.garbled(&format!("its answer is too large: {shortage}")))
            }
            Shortage::Now { .. } => Failure::report(shortage),
        }
    }

    fn garbled(&self, message: &str) -> ApiError {
        ApiError::upstream(&self.upstream.name, StatusCode::BAD_GATEWAY, message)
    }
}

/// What is held for so many bytes.
fn counted(bytes: usize) -> usize {
    if bytes > UNCOUNTED_BYTES_MAX { bytes } else { 0 }
}
