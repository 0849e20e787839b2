//! A caller's connection: [`Connection`] is what is known of it, [`Socket`] its bytes, and [`Answering`]
//! what HTTP reads and writes, with TLS between the two where there is some.
//!
//! **Half-closed.** Whoever shuts down the sending side after a request still gets the answer. A closed
//! half looks the same as a caller who has gone away, for whom nobody should work. What tells
//! them apart is a byte sent: who has gone answers it with a reset. A stream that has begun sends a comment
//! ([`half_closed`]); before an answer has begun an interim `100 Continue` is sent, which every HTTP/1.1
//! client has to take (RFC 9110, section 15.2). HTTP/1.0 has no interim answers, and over TLS one would
//! have to go through the layer that is busy with the answer: whoever closes its half there before an
//! answer has begun is taken to have gone.
//!
//! **Unread.** A body that nobody takes is not asked for more, so that deadlines which its source keeps to
//! are not looked at. Three here hold all the same: a write of which nothing is taken for so long fails, and
//! with it the connection; so does one whose caller takes a little now and then, where that makes no room for
//! the next part of the answer within the time that silence may last; and a request that is not answered to its
//! end in its whole time ends with its connection ([`Connection::is_overdue`]).

use super::places::Place;
use hyper::body::{Body, Frame, SizeHint};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// Asks for nothing and promises nothing.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How often a connection is looked at that has something to read, which is for its reader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

tokio::task_local! {
    /// The connection that a task serves.
    static SERVED: Connection;
}

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    stream: TcpStream,
    is_plain: bool,
    stage: AtomicU8,
    /// The request that is being worked on.
    asked: Mutex<Option<Asked>>,
    /// Its answer is whole, but perhaps not sent yet.
    body_ended: AtomicBool,
    /// Told once, when the caller's half is closed.
    half_closed: Notify,
}

/// When a request was asked, and when there was room for a part of its answer last.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    /// None: the answer has not begun.
    moved: Option<Instant>,
}

/// Ends, once, when the caller of the connection that this task serves has closed its half. To send
/// something then shows whether the caller is still there.
pub async fn half_closed() {
    match SERVED.try_with(Clone::clone) {
        Ok(connection) => connection.0.half_closed.notified().await,
        Err(_) => std::future::pending().await,
    }
}

/// Nothing is owed to the caller.
const IDLE: u8 = 0;
/// A request is being worked on.
const ASKED: u8 = 1;
/// The answer has begun.
const ANSWERING: u8 = 2;
/// A request is being worked on whose caller would not understand an interim answer.
const ASKED_PLAINLY: u8 = 3;

impl Connection {
    /// Around a stream, on which HTTP is spoken as it is or within TLS.
    pub fn new(stream: TcpStream, is_plain: bool) -> Self {
        let stage = AtomicU8::new(IDLE);
        Self(Arc::new(Inner {
            stream,
            is_plain,
            stage,
            asked: Mutex::default(),
            body_ended: AtomicBool::new(false),
            half_closed: Notify::new(),
        }))
    }

    /// Its bytes. A write of which nothing is taken for `write_timeout` fails.
    pub fn socket(&self, write_timeout: Duration) -> Socket {
        Socket { connection: self.clone(), write_timeout, stalled: None }
    }

    /// Serves the connection by this future.
    pub async fn serve<F: Future>(self, serve: F) -> F::Output {
        SERVED.scope(self, serve).await
    }

    /// A request has come, of HTTP/1.1 or before.
    pub fn asked(&self, is_http_11: bool) {
        let stage = if is_http_11 && self.0.is_plain { ASKED } else { ASKED_PLAINLY };
        self.0.stage.store(stage, Ordering::Relaxed);
        self.0.body_ended.store(false, Ordering::Relaxed);
        *self.request() = Some(Asked { at: Instant::now(), moved: None });
    }

    /// An answer's body, whose parts and end are noted.
    pub fn answers<B>(&self, body: B) -> Noted<B> {
        self.moved();
        Noted { body, connection: self.clone() }
    }

    /// There was room for a part of the answer.
    fn moved(&self) {
        if let Some(asked) = &mut *self.request() {
            asked.moved = Some(Instant::now());
        }
    }

    fn request(&self) -> MutexGuard<'_, Option<Asked>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when an answer that has begun has not moved on within `silence`, or has not come to its end within
    /// `total` of its request.
    pub async fn is_overdue(&self, silence: Duration, total: Duration) {
        loop {
            let (asked, now) = (*self.request(), Instant::now());
            // What begins meanwhile ends later than this.
            let mut next = now + silence.min(total);
            if let Some(Asked { at, moved }) = asked {
                // Before it has begun, whoever works on it keeps to its deadlines.
                let end = moved.map_or(at + total, |moved| (moved + silence).min(at + total));
                if end <= now {
                    return;
                }
                next = next.min(end);
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Ends when the caller has gone away in the middle of a request.
    pub async fn is_abandoned(&self) {
        let Inner { stream, stage, half_closed, .. } = &*self.0;
        loop {
            match stream.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => break,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(_) => return,
            }
        }
        // Where its reader takes the end for the connection's, nothing of this is reached.
        tokio::time::sleep(LOOK_AGAIN).await;
        half_closed.notify_one();
        match stage.load(Ordering::Relaxed) {
            ASKED if !matches!(stream.try_write(INTERIM), Ok(sent) if sent == INTERIM.len()) => return,
            ASKED_PLAINLY => return,
            _ => {}
        }
        let _ = stream.ready(Interest::ERROR).await;
    }
}

/// A connection's bytes.
pub struct Socket {
    connection: Connection,
    write_timeout: Duration,
    /// Ends a write of which nothing is taken.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &self.connection.0.stream;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let stream = &self.connection.0.stream;
        while let Poll::Ready(ready) = stream.poll_write_ready(cx) {
            ready?;
            match send(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    self.stalled = None;
                    return Poll::Ready(sent);
                }
            }
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        let message = format!("the caller has read nothing for {} seconds", timeout.as_secs_f64());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = socket2::SockRef::from(&self.connection.0.stream);
        Poll::Ready(socket.shutdown(std::net::Shutdown::Write))
    }
}

/// What HTTP reads and writes: notes when an answer begins, and when the last of it is sent.
pub struct Answering<S> {
    io: S,
    connection: Connection,
    place: Arc<Place>,
}

impl<S> Answering<S> {
    /// Over the connection's own socket, or TLS on top of it.
    pub fn new(io: S, connection: Connection, place: Arc<Place>) -> Self {
        Self { io, connection, place }
    }

    fn notes(&self, begin: &[u8]) {
        // hyper's own answer to `Expect: 100-continue` is interim too.
        if !begin.starts_with(b"HTTP/1.1 100 ") {
            self.connection.0.stage.store(ANSWERING, Ordering::Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Answering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Answering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.notes(bytes);
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.notes(slices.first().map_or(&[][..], |slice| slice));
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.connection.0.body_ended.swap(false, Ordering::Relaxed) {
            *self.connection.request() = None;
            self.place.end();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An answer's body: each part that is asked for is noted, and the end, when it is dropped.
pub struct Noted<B> {
    body: B,
    connection: Connection,
}

impl<B> Drop for Noted<B> {
    fn drop(&mut self) {
        self.connection.0.body_ended.store(true, Ordering::Relaxed);
    }
}

impl<B: Body + Unpin> Body for Noted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.connection.moved();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
