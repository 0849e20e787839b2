//! A caller's connection, of which the caller may have closed its half: whoever shuts down the sending side
//! after a request still gets the answer.
//!
//! A closed half looks the same as a caller who has gone away, for whom nobody should work. What tells
//! them apart is a byte sent: who has gone answers it with a reset. A stream that has begun sends a comment
//! ([`half_closed`]); before an answer has begun an interim `100 Continue` is sent, which every HTTP/1.1
//! client has to take (RFC 9110, section 15.2). HTTP/1.0 has no interim answers: whoever closes its half
//! there before an answer has begun is taken to have gone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

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
pub struct Connection {
    stream: Arc<TcpStream>,
    stage: Arc<AtomicU8>,
    /// Told once, when the caller's half is closed.
    half_closed: Arc<Notify>,
}

/// Ends, once, when the caller of the connection that this task serves has closed its half. To send
/// something then shows whether the caller is still there.
pub async fn half_closed() {
    match SERVED.try_with(|connection| connection.half_closed.clone()) {
        Ok(half_closed) => half_closed.notified().await,
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
    /// Around a stream.
    pub fn new(stream: TcpStream) -> Self {
        let stage = Arc::new(AtomicU8::new(IDLE));
        Self { stream: Arc::new(stream), stage, half_closed: Arc::default() }
    }

    /// Serves the connection by this future.
    pub async fn serve<F: Future>(self, serve: F) -> F::Output {
        SERVED.scope(self, serve).await
    }

    /// A request has come, which takes an interim answer or does not.
    pub fn asked(&self, takes_interim: bool) {
        self.stage.store(if takes_interim { ASKED } else { ASKED_PLAINLY }, Ordering::Relaxed);
    }

    /// Ends when the caller has gone away in the middle of a request.
    pub async fn is_abandoned(&self) {
        loop {
            match self.stream.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => break,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(_) => return,
            }
        }
        // Where its reader takes the end for the connection's, nothing of this is reached.
        tokio::time::sleep(LOOK_AGAIN).await;
        self.half_closed.notify_one();
        match self.stage.load(Ordering::Relaxed) {
            ASKED if !matches!(self.stream.try_write(INTERIM), Ok(sent) if sent == INTERIM.len()) => return,
            ASKED_PLAINLY => return,
            _ => {}
        }
        let _ = self.stream.ready(Interest::ERROR).await;
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
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

impl Connection {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        begin: &[u8],
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // hyper's own answer to `Expect: 100-continue` is interim too.
        if !begin.starts_with(b"HTTP/1.1 100 ") {
            self.stage.store(ANSWERING, Ordering::Relaxed);
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let begin = slices.first().map_or(&[][..], |slice| slice);
        self.poll_send(cx, begin, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write))
    }
}
