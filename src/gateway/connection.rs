//! A caller's connection, of which the caller may have closed its half: whoever shuts down the sending side
//! after a request still gets the answer.
//!
//! A closed half looks the same as a caller who has gone away, for whom nobody should work. What tells
//! them apart is a byte sent: who has gone answers it with a reset. An answer that has begun sends
//! bytes; before that an interim `100 Continue` is sent, which every HTTP/1.1 client has to take
//! (RFC 9110, section 15.2).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Asks for nothing and promises nothing.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How often a connection is looked at that has something to read, which is for its reader.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Connection {
    stream: Arc<TcpStream>,
    stage: Arc<AtomicU8>,
}

/// Nothing is owed to the caller, or an interim answer would not be understood.
const IDLE: u8 = 0;
/// A request is being worked on.
const ASKED: u8 = 1;
/// The answer has begun.
const ANSWERING: u8 = 2;

impl Connection {
    /// Around a stream.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), stage: Arc::new(AtomicU8::new(IDLE)) }
    }

    /// A request has come, which takes an interim answer or does not.
    pub fn asked(&self, takes_interim: bool) {
        self.stage.store(if takes_interim { ASKED } else { IDLE }, Ordering::Relaxed);
    }

    /// Ends when the caller has gone away in the middle of a request whose answer has not begun.
    pub async fn is_abandoned(&self) {
        loop {
            match self.stream.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => break,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(_) => return,
            }
        }
        // Where its reader takes the end for the connection's, this is not reached.
        tokio::time::sleep(LOOK_AGAIN).await;
        while self.stage.load(Ordering::Relaxed) != ASKED {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if !matches!(self.stream.try_write(INTERIM), Ok(sent) if sent == INTERIM.len()) {
            return;
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
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.stage.store(ANSWERING, Ordering::Relaxed);
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
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(slices))
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
