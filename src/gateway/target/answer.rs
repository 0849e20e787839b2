//! What a target answers: the same stream of events, whoever it is.

use super::failure::Failure;
use super::local::{self, LocalAnswer};
use super::remote::RemoteAnswer;
use crate::gateway::chat::{ChatEvent, DecodeError, Dialect, EncodeOptions, Frame, decode_whole};
use crate::gateway::wire::bounds::RequestBounds;
use std::collections::VecDeque;

/// An answer that has begun.
pub enum Answer {
    /// Of one of our engines.
    Local(Box<LocalAnswer>),
    /// An upstream's.
    Remote(Box<RemoteAnswer>),
}

/// A piece of a stream.
#[derive(Debug)]
pub struct Piece {
    /// As it came from an upstream.
    pub frame: Option<Frame>,
    /// Its meaning; none for a comment-like frame.
    pub events: Vec<ChatEvent>,
}

impl Piece {
    /// Whether it has a part of the answer itself.
    pub fn says_something(&self) -> bool {
        self.events.iter().any(|event| !matches!(event, ChatEvent::Start { .. } | ChatEvent::Usage(_)))
    }
}

/// A whole answer.
pub struct Whole {
    /// As it came from an upstream.
    pub json: Option<String>,
    /// Its meaning.
    pub events: Vec<ChatEvent>,
}

impl Answer {
    /// The dialect of its frames; None: there are only events.
    pub fn dialect(&self) -> Option<Dialect> {
        match self {
            Self::Local(_) => None,
            Self::Remote(answer) => Some(answer.dialect()),
        }
    }

    /// Whether its stream's end was told as a frame.
    pub fn said_end(&self) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Remote(answer) => answer.said_end(),
        }
    }

    /// Gives its place among requests up: nothing comes of it any more.
    pub fn free_place(&mut self) {
        if let Self::Remote(answer) = self {
            answer.free_place();
        }
    }

    /// Adds how it is told, as far as that is its target's to say.
    pub fn options(&self, options: EncodeOptions) -> EncodeOptions {
        match self {
            Self::Local(answer) => answer.options(options),
            Self::Remote(_) => options,
        }
    }

    /// The next piece; None after the stream's proper end. Loses nothing when dropped before it is ready.
    pub async fn next(&mut self, bounds: &mut RequestBounds) -> Result<Option<Piece>, Failure> {
        match self {
            Self::Local(answer) => {
                let events = answer.next().await.map_err(Failure::report)?;
                Ok(events.map(|events| Piece { frame: None, events }))
            }
            Self::Remote(answer) => answer.next(bounds).await,
        }
    }

    /// Its pieces up to the first that says something, so that nothing of it has been told when another
    /// target takes over.
    pub async fn beginning(&mut self, bounds: &mut RequestBounds) -> Result<VecDeque<Piece>, Failure> {
        match self {
            Self::Local(answer) => {
                let events = answer.beginning().await?;
                Ok(events.into_iter().map(|events| Piece { frame: None, events }).collect())
            }
            Self::Remote(answer) => answer.beginning(bounds).await,
        }
    }

    /// All of it, of a request that does not stream.
    pub async fn whole(&mut self, bounds: &mut RequestBounds) -> Result<Whole, Failure> {
        match self {
            Self::Local(answer) => {
                let mut events = Vec::new();
                while let Some(next) = answer.next().await.map_err(local::failure)? {
                    events.extend(next);
                }
                Ok(Whole { json: None, events })
            }
            Self::Remote(answer) => {
                let body = answer.whole(bounds).await?;
                let events = decode_whole(answer.dialect(), &body);
                let mut events = events.map_err(|error| answer.unread(error))?;
                answer.names().restore_events(&mut events);
                let json = String::from_utf8(body)
                    .map_err(|error| answer.unread(DecodeError::shape(error.to_string(), "")))?;
                Ok(Whole { json: Some(json), events })
            }
        }
    }
}
