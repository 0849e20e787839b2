//! A stream on its way to a caller: [`AnswerStream`] once somebody has begun to answer, before that [`WaitingStream`].
//! An upstream's that breaks off goes on elsewhere where its provider allows it ([`ResumeState`]).

use super::{Chat, ChatAnswer, OpenStream, untellable};
use crate::gateway::api::app::InFlight;
use crate::gateway::api::responses::OfResponses;
use crate::gateway::chat::{ChatEvent, Dialect, Frame, StreamEncoder, UpstreamError, pass};
use crate::gateway::ledger::observe::quoted;
use crate::gateway::route::fallback::Answered;
use crate::gateway::route::{Plan, Target};
use crate::gateway::target::answer::Piece;
use crate::gateway::target::failure::{Failure, Then};
use crate::gateway::target::resume::ResumeState;
use crate::gateway::wire::bounds::RequestBounds;
use crate::gateway::wire::error::ApiError;
use crate::gateway::wire::sse::{FrameSource, Frames, KEEP_ALIVE};
use serde_json::Value;
use std::borrow::Borrow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Choices of an answer that can go on.
const CHOICES_MAX: u64 = 128;

/// The stream.
pub struct AnswerStream {
    open: Box<OpenStream>,
    out: Out,
    dialect: Dialect,
    bounds: RequestBounds,
    id: String,
    resume: Option<Box<Resume>>,
    responses: Option<Arc<OfResponses>>,
    _in_flight: InFlight,
}

/// How pieces reach the caller.
enum Out {
    /// As they are but for the model's name.
    Same {
        name: String,
        /// The caller did not ask for the chunk that has only the usage.
        hides_usage: bool,
    },
    /// In the caller's dialect.
    Anew(Box<StreamEncoder>),
}

/// What it takes to go on.
struct Resume {
    chat: Arc<Chat>,
    plan: Arc<Plan>,
    /// Who answers.
    target: Arc<Target>,
    state: ResumeState,
    /// The caller did not ask for token ids.
    hides_ids: bool,
    /// Somebody is being asked for the rest.
    under_way: Option<Pin<Box<dyn Future<Output = Rest> + Send>>>,
}

type Rest = Result<(Box<OpenStream>, Arc<Target>), ApiError>;

impl Resume {
    /// None: this target does not go on.
    fn of(chat: &Arc<Chat>, plan: &Arc<Plan>, target: &Arc<Target>) -> Option<Box<Self>> {
        let manner = target.upstream.as_ref()?.upstream.continues()?;
        let choices = chat.body.get("n").and_then(Value::as_u64).unwrap_or(1);
        if !(1..=CHOICES_MAX).contains(&choices) {
            return None;
        }
        let asked = |name: &str| chat.body.get(name).and_then(Value::as_bool).unwrap_or(false);
        Some(Box::new(Self {
            state: ResumeState::new(manner, choices as usize, &chat.body),
            hides_ids: !asked("return_token_ids") && !asked("resumable"),
            chat: chat.clone(),
            plan: plan.clone(),
            target: target.clone(),
            under_way: None,
        }))
    }

    /// A frame's JSON, where it has to be read: spliced, without what the caller did not ask for.
    fn read(&self, frame: &Frame, dialect: Dialect) -> Option<(Value, bool)> {
        if !self.state.reads_frames(&frame.data) {
            return None;
        }
        let mut data: Value = serde_json::from_str(&frame.data).ok().filter(Value::is_object)?;
        let stays = self.state.splice_frame(dialect, &mut data);
        Some((data, stays))
    }
}

impl AnswerStream {
    /// The answer that `target` has begun.
    pub fn new(
        open: Box<OpenStream>,
        chat: &Arc<Chat>,
        plan: &Arc<Plan>,
        target: &Arc<Target>,
        bounds: RequestBounds,
    ) -> Self {
        let name = &target.model.name;
        let passes = chat.responses.is_none() && open.answer.dialect() == Some(chat.dialect);
        let out = match passes {
            true => Out::Same {
                name: name.clone(),
                hides_usage: chat.dialect == Dialect::OpenAi && !chat.wants_usage(),
            },
            false => {
                let options = open.answer.options(chat.options(target));
                let head = chat.head(name);
                Out::Anew(Box::new(match &chat.responses {
                    Some(responses) => StreamEncoder::for_responses(head, responses.asked.clone()),
                    None => StreamEncoder::new(chat.dialect, head, options),
                }))
            }
        };
        Self {
            open,
            out,
            dialect: chat.dialect,
            bounds,
            id: chat.context.id.clone(),
            resume: Resume::of(chat, plan, target),
            responses: chat.responses.clone(),
            _in_flight: chat.context.in_flight.clone(),
        }
    }

    /// Whether the rest is being asked for.
    fn goes_on(&mut self, failure: &Failure) -> bool {
        let Some(resume) = &mut self.resume else { return false };
        if failure.then == Then::Report || !resume.state.broke() {
            return false;
        }
        if let Some(attempt) = self.open.attempt.take() {
            attempt.failed(failure.error.status.as_u16());
        }
        // The rest needs one perhaps.
        self.open.answer.free_place();
        resume.target.upstream.iter().for_each(|hosted| hosted.breaker.failed(Instant::now()));
        tracing::warn!(
            model = resume.target.model.name,
            reason = quoted(&failure.error.message),
            "a stream broke off"
        );
        let rest = resume.chat.clone().rest(
            resume.plan.clone(),
            resume.target.clone(),
            resume.state.clone(),
            self.bounds.clone(),
            failure.error.clone(),
        );
        resume.under_way = Some(Box::pin(rest));
        true
    }

    /// The next piece; None after the last.
    async fn piece(&mut self) -> Result<Option<Piece>, ApiError> {
        loop {
            if let Some(resume) = &mut self.resume
                && let Some(rest) = &mut resume.under_way
            {
                // Dropped before it is ready, it is asked again: it stays where it is.
                let rest = rest.await;
                resume.under_way = None;
                (self.open, resume.target) = rest?;
            }
            if let Some(piece) = self.open.first.pop_front() {
                return Ok(Some(piece));
            }
            match self.open.answer.next(&mut self.bounds).await {
                Ok(piece) => return Ok(piece),
                Err(failure) if self.goes_on(&failure) => {}
                Err(failure) => return Err(failure.error),
            }
        }
    }
}

impl FrameSource for AnswerStream {
    async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
        let Some(Piece { frame, events }) = self.piece().await? else {
            match &mut self.out {
                Out::Anew(encoder) => {
                    encoder.finish(frames.text());
                    if let (Some(responses), Some(response)) = (&self.responses, encoder.response_told()) {
                        responses.keep(response);
                    }
                }
                Out::Same { .. } if self.open.answer.said_end() => {}
                // The answer is whole, and its caller waits for the word.
                Out::Same { .. } => frames.text().push_str(pass::end(self.dialect)),
            }
            if let Some(attempt) = self.open.attempt.take() {
                attempt.completed();
            }
            return Ok(false);
        };
        if let Some(attempt) = &mut self.open.attempt {
            attempt.events(&events);
        }
        let resuming = self.resume.as_ref().zip(frame.as_ref()).zip(self.open.answer.dialect());
        let read = resuming.and_then(|((resume, frame), dialect)| resume.read(frame, dialect));
        match (&mut self.out, &self.resume) {
            (Out::Anew(encoder), None) => tell(encoder, events.iter(), frames)?,
            (Out::Anew(encoder), Some(resume)) => {
                let events = events.iter().cloned().filter_map(|event| resume.state.splice(event));
                tell(encoder, events, frames)?;
            }
            (Out::Same { name, hides_usage }, _) if read.is_none() => {
                frame.iter().for_each(|frame| pass_on(frame, name, *hides_usage, frames));
            }
            (Out::Same { .. }, _) => {}
        }
        if let Some(resume) = &mut self.resume {
            resume.state.note(read.as_ref().map(|(data, _)| data), &events);
            if let (Out::Same { name, hides_usage }, Some((data, true)), Some(frame)) =
                (&self.out, read, frame)
            {
                pass_read(frame.event, data, name, *hides_usage, resume.hides_ids, frames);
            }
        }
        Ok(true)
    }

    fn failed(&mut self, error: &ApiError, frames: &mut Frames) {
        if let Some(attempt) = self.open.attempt.take() {
            attempt.failed(error.status.as_u16());
        }
        match &mut self.out {
            Out::Anew(encoder) if self.responses.is_some() => fail_response(encoder, error, frames),
            _ => fail(self.dialect, error, &self.id, frames),
        }
    }
}

/// Somebody who answers, awaited.
type Answering = Pin<Box<dyn Future<Output = Result<Answered<ChatAnswer>, ApiError>> + Send>>;

/// A stream whose answer nobody has begun, though its head is sent: a comment at once, then comments in silence, and
/// the answer, or the error of who would have given it.
pub struct WaitingStream {
    state: Waiting,
    chat: Arc<Chat>,
    plan: Arc<Plan>,
    bounds: RequestBounds,
}

enum Waiting {
    /// Nothing has been sent but the head.
    Head(Answering),
    Comments(Answering),
    /// None: nobody has begun.
    Over(Option<Box<AnswerStream>>),
}

impl WaitingStream {
    /// Waits for who answers.
    pub fn new(answering: Answering, chat: &Arc<Chat>, plan: &Arc<Plan>, bounds: RequestBounds) -> Self {
        Self { state: Waiting::Head(answering), chat: chat.clone(), plan: plan.clone(), bounds }
    }
}

impl FrameSource for WaitingStream {
    async fn next(&mut self, frames: &mut Frames) -> Result<bool, ApiError> {
        let answered = match &mut self.state {
            Waiting::Over(stream) => {
                let Some(stream) = stream else { return Ok(false) };
                return stream.next(frames).await;
            }
            Waiting::Comments(answering) => answering.await,
            head @ Waiting::Head(_) => {
                frames.text().push_str(KEEP_ALIVE);
                if let Waiting::Head(answering) = std::mem::replace(head, Waiting::Over(None)) {
                    *head = Waiting::Comments(answering);
                }
                return Ok(true);
            }
        };
        self.state = Waiting::Over(None);
        let Answered { answer, target, .. } = answered?;
        if let ChatAnswer::Stream(open) = answer {
            let stream = AnswerStream::new(open, &self.chat, &self.plan, &target, self.bounds.clone());
            self.state = Waiting::Over(Some(Box::new(stream)));
        }
        Ok(true)
    }

    fn failed(&mut self, error: &ApiError, frames: &mut Frames) {
        match (&mut self.state, &self.chat.responses) {
            (Waiting::Over(Some(stream)), _) => stream.failed(error, frames),
            (_, Some(responses)) => {
                let name = self.plan.targets.first().map_or("", |target| &target.model.name);
                let mut encoder = StreamEncoder::for_responses(self.chat.head(name), responses.asked.clone());
                fail_response(&mut encoder, error, frames);
            }
            (_, None) => fail(self.chat.dialect, error, &self.chat.context.id, frames),
        }
    }
}

impl Chat {
    /// Asks for the rest of an answer that broke off: the same model, whoever serves it.
    async fn rest(
        self: Arc<Self>,
        plan: Arc<Plan>,
        broken: Arc<Target>,
        state: ResumeState,
        mut bounds: RequestBounds,
        error: ApiError,
    ) -> Rest {
        let Some(first) = &broken.upstream else { return Err(error) };
        let same = |target: &&Arc<Target>| {
            target.upstream.as_ref().is_some_and(|hosted| {
                hosted.name == first.name
                    && hosted.upstream.dialect() == first.upstream.dialect()
                    && hosted.upstream.continues() == first.upstream.continues()
            })
        };
        let mut targets: Vec<&Arc<Target>> = plan.targets.iter().filter(same).collect();
        // A node that broke off is probably gone; a provider's other answers go on.
        targets.sort_by_key(|target| Arc::ptr_eq(target, &broken) == state.by_tokens());
        for target in targets {
            let Some(hosted) = &target.upstream else { continue };
            if !hosted.breaker.admit(Instant::now()) {
                continue;
            }
            let number = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            let Ok(attempt) = self.account.attempt(&target.books, target.price(), number).await else {
                continue;
            };
            let mut attempt = Some(attempt.of_rest());
            match self.begin(target, &mut bounds, &mut attempt, Some(&state)).await {
                Ok(ChatAnswer::Stream(mut open)) => {
                    hosted.breaker.succeeded();
                    if open.first.iter().all(|piece| state.is_same(&piece.events)) {
                        return Ok((open, target.clone()));
                    }
                    tracing::warn!(model = target.model.name, "another model answered: it does not go on");
                    open.attempt.take().into_iter().for_each(|attempt| attempt.failed(502));
                }
                Ok(_) => {}
                Err(failure) => {
                    if let Some(attempt) = attempt {
                        attempt.failed(failure.error.status.as_u16());
                    }
                    if failure.error.status.is_server_error() {
                        hosted.breaker.failed(Instant::now());
                    }
                    if failure.then == Then::Report {
                        break;
                    }
                }
            }
        }
        Err(error)
    }
}

/// Adds what events say.
fn tell(
    encoder: &mut StreamEncoder,
    mut events: impl Iterator<Item: Borrow<ChatEvent>>,
    frames: &mut Frames,
) -> Result<(), ApiError> {
    events
        .try_for_each(|event| encoder.event(event.borrow(), frames.text()))
        .map_err(|error| untellable(&error))
}

/// The end of a response that failed.
fn fail_response(encoder: &mut StreamEncoder, error: &ApiError, frames: &mut Frames) {
    let code = error.code.map(str::to_owned);
    let error = UpstreamError::new(error.status.as_u16(), &error.message);
    encoder.error(&UpstreamError { code, ..error }, frames.text());
}

/// An error event of the dialect.
fn fail(dialect: Dialect, error: &ApiError, id: &str, frames: &mut Frames) {
    if dialect == Dialect::Anthropic {
        frames.text().push_str("event: error\n");
    }
    frames.data(&error.in_dialect(dialect, id));
}

/// A frame as it came, under our name for the model.
fn pass_on(frame: &Frame, name: &str, hides_usage: bool, frames: &mut Frames) {
    if !(hides_usage && pass::is_usage_only(&frame.data)) {
        pass::write(frame, name, frames.text());
    }
}

/// The same for one whose JSON was read.
fn pass_read(
    event: Option<String>,
    mut data: Value,
    name: &str,
    hides_usage: bool,
    hides_ids: bool,
    frames: &mut Frames,
) {
    let choices = data.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten();
    for choice in choices.filter_map(Value::as_object_mut).filter(|_| hides_ids) {
        choice.shift_remove("token_ids");
    }
    pass_on(&Frame { event, data: data.to_string() }, name, hides_usage, frames);
}
