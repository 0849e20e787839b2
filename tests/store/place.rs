//! Where tests keep their stores.

use novastack::config;
use novastack::store::Store;
use postgres::{Client, NoTls};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use tempfile::TempDir;

/// The server's URL; without it nothing is tested on PostgreSQL.
const SERVER: &str = "NOVASTACK_TEST_POSTGRES";

/// A store of a test's own, which is not there yet.
pub struct Place {
    /// For files beside it.
    pub folder: TempDir,
    /// As `server.store` and `--store` have it.
    pub url: String,
    /// In PostgreSQL: a schema, dropped with the place. Its connections call themselves like it.
    pub schema: Option<Schema>,
}

/// A schema in the server's database.
pub struct Schema {
    pub name: String,
    /// The server's URL.
    pub server: String,
}

impl Place {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}", folder.path().join("nova.db").display());
        Self { folder, url, schema: None }
    }

    /// None, after saying so, where there is no server.
    pub fn postgres() -> Option<Self> {
        static SKIPPED: Once = Once::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Ok(server) = std::env::var(SERVER) else {
            // Not through a macro: those are silent in tests that pass.
            let text =
                format!("SKIPPED: tests on PostgreSQL: {SERVER} is not set; see scripts/test_postgres.sh\n");
            SKIPPED.call_once(|| drop(std::io::stderr().write_all(text.as_bytes())));
            return None;
        };
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let url = format!("{server}?options=-csearch_path%3D{name}&application_name={name}");
        let schema = Schema { name, server };
        apart(|| schema.client().batch_execute(&format!("CREATE SCHEMA {}", schema.name)).expect("a schema"));
        Some(Self { folder: tempfile::tempdir().expect("a folder"), url, schema: Some(schema) })
    }

    pub fn open(&self) -> Arc<Store> {
        open(&self.url)
    }

    /// Runs SQL, as another program.
    pub fn execute(&self, sql: &str) {
        match &self.schema {
            None => self.file().execute_batch(sql).expect("SQL"),
            Some(schema) => schema.client().batch_execute(sql).expect("SQL"),
        }
    }

    /// Keeps others from writing until what is returned is called.
    pub fn lock(&self) -> Box<dyn FnOnce()> {
        match &self.schema {
            None => {
                let file = self.file();
                file.execute_batch("BEGIN IMMEDIATE").expect("a lock");
                Box::new(move || file.execute_batch("COMMIT").expect("unlocked"))
            }
            Some(schema) => {
                let mut client = schema.client();
                client.batch_execute("BEGIN; LOCK TABLE usage").expect("a lock");
                Box::new(move || client.batch_execute("COMMIT").expect("unlocked"))
            }
        }
    }

    /// All that is kept, as far as keys are concerned.
    pub fn contents(&self) -> Vec<u8> {
        match &self.schema {
            None => {
                let files = std::fs::read_dir(self.folder.path()).expect("a folder");
                files
                    .flat_map(|file| std::fs::read(file.expect("an entry").path()).expect("a file"))
                    .collect()
            }
            Some(schema) => {
                let rows = schema.client().query("SELECT keys::text FROM keys", &[]).expect("rows");
                rows.iter().flat_map(|row| row.get::<_, String>(0).into_bytes()).collect()
            }
        }
    }

    /// Waits until whoever was killed has nothing under way any more.
    pub fn settle(&self) {
        let Some(schema) = &self.schema else { return };
        let mut client = schema.client();
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        super::wait_until("the end of connections", || {
            client.query_one(count, &[&schema.name]).expect("a count").get::<_, i64>(0) == 0
        });
    }

    fn file(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("nova.db")).expect("a database")
    }
}

impl Schema {
    /// Connects, as another program.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(&self.server, NoTls).expect("the server");
        client.batch_execute(&format!("SET search_path = {}", self.name)).expect("the schema");
        client
    }

    /// Ends all connections of the test's stores; how many.
    pub fn disconnect(&self, client: &mut Client) -> usize {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        client.query(end, &[&self.name]).expect("ended").len()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        apart(|| {
            let mut client = Client::connect(&self.server, NoTls).ok()?;
            client.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name)).ok()
        });
    }
}

/// On another thread: a client must not be used on those of an async test.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).expect("no panic")
}

pub fn parse(url: &str) -> config::Store {
    config::Store::parse(url, std::path::Path::new("")).expect("a store's URL")
}

pub fn open(url: &str) -> Arc<Store> {
    Store::open(&parse(url)).unwrap_or_else(|error| panic!("{error}"))
}
