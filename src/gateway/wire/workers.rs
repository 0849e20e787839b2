//! The threads that serve connections. A connection belongs to one of them for as long as it is open,
//! and so does what is sent to upstreams for it: one thread works on a request from its first byte to
//! its last, and wakes no other. A runtime whose threads steal each other's tasks woke one for nearly
//! every request, which on small machines costs more than the request's own work
//! (benches/results/gateway.md).
//!
//! A new connection goes to the thread that has the fewest.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

/// The most there may be.
pub const WORKERS_MAX: usize = 64;
/// Blocking work at a time of one worker's requests, over which more waits.
const BLOCKING_THREADS_MAX: usize = 16;
/// How long blocking work may go on when its worker has ended.
const BLOCKING_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// One of something for each worker, made when it first asks.
pub struct PerWorker<T> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    made: [OnceLock<T>; WORKERS_MAX],
}

impl<T> PerWorker<T> {
    /// Made so.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: [const { OnceLock::new() }; WORKERS_MAX] }
    }

    /// This thread's; threads that are no workers share the first worker's.
    pub fn get(&self) -> &T {
        self.made[INDEX.get()].get_or_init(&self.make)
    }
}

/// Serves a connection to its end, on the worker's thread.
type Serve = Box<dyn FnOnce(TcpStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Threads, each with a runtime of its own. Dropped, they end at once, and their connections with them.
pub struct Workers {
    workers: Vec<Worker>,
    end: watch::Sender<()>,
}

struct Worker {
    connections: mpsc::Sender<(std::net::TcpStream, Serve, Open)>,
    /// Its connections.
    open: Arc<AtomicUsize>,
    /// Told when its thread has dropped everything.
    ended: oneshot::Receiver<()>,
}

/// Counts a worker's connection for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts so many: at least one, and [`WORKERS_MAX`] at the most. No more than `connections_max`
    /// connections may wait for one of them.
    pub fn start(count: usize, connections_max: usize) -> io::Result<Self> {
        let end = watch::Sender::new(());
        let start = |index| Worker::start(index, connections_max, end.subscribe());
        let workers = (0..count.clamp(1, WORKERS_MAX)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, end })
    }

    /// Gives a connection to one of them, to be served so.
    ///
    /// # Errors
    /// The connection is of no use, or the thread has ended.
    pub async fn give<F: Future<Output = ()> + Send + 'static>(
        &self,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()> {
        let stream = stream.into_std()?;
        let open = |worker: &&Worker| worker.open.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(open).ok_or_else(|| io::Error::other("no thread"))?;
        worker.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(worker.open.clone());
        let given = worker.connections.send((stream, Box::new(|stream| Box::pin(serve(stream))), open)).await;
        given.map_err(|_| io::Error::other("its thread has ended"))
    }

    /// Ends them with what they still do, and waits until all of it is dropped.
    pub async fn end(self) {
        let Self { workers, end } = self;
        drop(end);
        for worker in workers {
            let _ = worker.ended.await;
        }
    }
}

impl Worker {
    fn start(index: usize, connections_max: usize, mut end: watch::Receiver<()>) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build()?;
        let (connections, mut given) = mpsc::channel::<(_, Serve, Open)>(connections_max);
        let (tell_ended, ended) = oneshot::channel();
        let serve = async move {
            while let Some((stream, serve, open)) = given.recv().await {
                match TcpStream::from_std(stream) {
                    Ok(stream) => drop(tokio::spawn(async move {
                        let _open = open;
                        serve(stream).await;
                    })),
                    Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
                }
            }
        };
        thread::Builder::new().name(format!("gateway-{index}")).spawn(move || {
            INDEX.set(index);
            runtime.block_on(async {
                tokio::select! {
                    // Its sender is dropped.
                    _ = end.changed() => {}
                    () = serve => {}
                }
            });
            runtime.shutdown_timeout(BLOCKING_TIMEOUT);
            let _ = tell_ended.send(());
        })?;
        Ok(Self { connections, open: Arc::default(), ended })
    }
}
