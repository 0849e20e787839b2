//! Redis goes away and comes back: servers of the tests' own.

use super::*;
use std::process::{Child, Command, Stdio};

/// A Redis of the test's own; killed when dropped.
struct Server {
    child: Child,
    url: String,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        let child = Self::spawn(port, &folder);
        let end = Instant::now() + LONG;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, url: format!("redis://127.0.0.1:{port}"), port, folder }
    }

    fn spawn(port: u16, folder: &tempfile::TempDir) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/test_redis.sh installs")
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again, with nothing in it.
    fn restart(&mut self) {
        self.child = Self::spawn(self.port, &self.folder);
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Redis is killed and comes back with nothing: requests go on, and what was spent is known again.
#[tokio::test]
async fn an_outage_is_bridged() {
    if url().is_none() {
        return;
    }
    let mut server = Server::start();
    let options = || Options { timeout: LONG, ..Options::default() };
    let (redis, other) = (connected(&server.url, options()).await, connected(&server.url, options()).await);
    let own = Limits { requests_per_minute: Some(10), dollars_per_day: Some(100.0), ..Limits::default() };
    let pay = async |redis: &Redis, dollars: f64| {
        let place = redis
            .reserve(&[key(&own)], costs(dollars), Now::read())
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
        place.settle(1, dollars, Instant::now());
    };
    pay(&redis, 60.0).await;
    pay(&other, 10.0).await;
    // Told that 70 are spent.
    pay(&redis, 1.0).await;
    redis.flush().await.expect("delivered");
    other.flush().await.expect("delivered");
    let before = redis.reserve(&[key(&own)], costs(2.0), Now::read()).await.unwrap();
    server.kill();
    // Not one request fails, and the dollars that are known hold.
    for redis in [&redis, &other] {
        pay(redis, 3.0).await;
        assert_eq!((redis.counters().outages.get(), redis.counters().up.get()), (1, 0));
    }
    pay(&redis, 4.0).await;
    let refusal = refused(redis.reserve(&[key(&own)], costs(25.0), Now::read()).await);
    assert_eq!(refusal.kind.name(), "dollars_per_day", "{refusal:?}");
    before.settle(1, 1.0, Instant::now());
    assert_eq!((redis.counters().alone.get(), other.counters().alone.get()), (3, 1));
    server.restart();
    for redis in [&redis, &other] {
        wait_for(redis, Link::Up).await;
        redis.flush().await.expect("delivered");
        assert_eq!((redis.counters().outages.get(), redis.counters().up.get()), (1, 1));
    }
    // 71 before, 1 of the request that ended in between, 7 and 3 during the outage.
    assert_eq!(spent(&redis, Id::Key("ci"), Now::read()).await.total, 82.0);
    pay(&redis, 1.0).await;
    pay(&other, 1.0).await;
    assert_eq!((redis.counters().alone.get(), other.counters().alone.get()), (3, 1));
    assert_eq!((redis.counters().lost.get(), other.counters().lost.get()), (0, 0));
    other.flush().await.expect("delivered");
    assert_eq!(spent(&redis, Id::Key("ci"), Now::read()).await.total, 84.0);
}

/// Redis that takes connections and does not answer: nobody waits long, and only those who ask first.
#[tokio::test]
async fn a_redis_that_hangs_stops_nobody() {
    if url().is_none() {
        return;
    }
    let server = Server::start();
    let redis = connected(&server.url, Options::default()).await;
    let own = Limits { concurrency: Some(1), ..Limits::default() };
    server.signal("-STOP");
    let place = redis.reserve(&[key(&own)], costs(1.0), Now::read()).await.expect("this process' own limit");
    assert_eq!(*redis.inner.link.borrow(), Link::Down);
    // Counted alone, and right so.
    assert!(redis.reserve(&[key(&own)], costs(1.0), Now::read()).await.is_err());
    place.settle(1, 0.5, Instant::now());
    server.signal("-CONT");
    wait_for(&redis, Link::Up).await;
    // What Redis gave after all is given back: the place, and all but the real half dollar.
    let end = Instant::now() + LONG;
    while spent(&redis, Id::Key("ci"), Now::read()).await.total != 0.5 {
        assert!(Instant::now() < end, "the late answer was not given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(redis.reserve(&[key(&own)], costs(1.0), Now::read()).await.is_ok());
    assert_eq!(redis.counters().outages.get(), 1);
}

/// One that is not there at the start is found later.
#[tokio::test]
async fn it_may_start_later() {
    if url().is_none() {
        return;
    }
    let mut server = Server::start();
    server.kill();
    let redis = Redis::with(&server.url, Options { timeout: LONG, ..Options::default() }).unwrap();
    redis.connect().await;
    let own = Limits { requests_per_minute: Some(1), ..Limits::default() };
    let place = redis.reserve(&[key(&own)], tokens(1), Now::read()).await.unwrap();
    assert!(redis.reserve(&[key(&own)], tokens(1), Now::read()).await.is_err());
    drop(place);
    server.restart();
    wait_for(&redis, Link::Up).await;
    drop(redis.reserve(&[key(&own)], tokens(1), Now::read()).await.unwrap());
    assert!(redis.reserve(&[key(&own)], tokens(1), Now::read()).await.is_err());
    assert_eq!(redis.counters().alone.get(), 2);
}
