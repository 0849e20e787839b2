//! A PostgreSQL database (version 13 or newer), which several gateways may share.
//!
//! Every connection has a thread of its own, with a runtime that drives it while there is work: whoever wants
//! something hands it a job and waits for the answer, for a bounded time, whatever has become of the server.
//! (The client has no timeout of its own, and callers wait on threads of no runtime.)
//!
//! A batch of records is one statement. Its number is kept with what it adds, so that one whose answer
//! got lost with the connection can be sent again and counts once.
//!
//! The password is in the configuration only: errors are made of the server's words, and of host,
//! port and database.

use super::database::{
    Connection, Dialect, Row, SCANNED_COLUMNS_MAX, Visit, charges, tags_text, tell_of_migration,
};
use super::error::StoreError;
use super::record::{Flag, UsageRecord};
use super::spending::charges_by_period;
use super::under_way::Notes;
use futures_util::{FutureExt, TryStreamExt};
use rusqlite::types::{Value, ValueRef};
use rustls_platform_verifier::BuilderVerifierExt;
use std::error::Error;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, IsolationLevel, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Connections for everything but the writer.
const LENT_MAX: usize = 4;
/// Threads of connections: those lent, the writer's, and what still hangs of earlier ones where a server
/// takes connections and says nothing.
const THREADS_MAX: usize = 16;
/// How long one may wait for another to give its connection back.
const LEND_TIMEOUT: Duration = Duration::from_secs(10);
/// To one address, until TCP stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the login is done, in all.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Of a statement of the writer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of any other one: sums over all records take a while.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The server ends a statement at its timeout; this much later it is taken for lost.
const GRACE: Duration = Duration::from_secs(5);
/// Of a connection that was idle: whether it still stands.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// After which a peer that does not acknowledge anything is taken for dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Older ones lack `pg_current_snapshot`.
const SERVER_VERSION_MIN: i32 = 13;
/// Of the lock under which schemas are brought up to date: "NovaStac".
const SCHEMA_LOCK: i64 = 0x4e6f_7661_5374_6163;
/// Each brings the schema from the version that is its index to the next. Never changed, only added to.
const MIGRATIONS: [&str; 5] = [
    include_str!("postgres.sql"),
    include_str!("postgres_2.sql"),
    include_str!("postgres_3.sql"),
    include_str!("postgres_4.sql"),
    include_str!("postgres_5.sql"),
];

const DIALECT: Dialect = Dialect {
    // Whatever the server's default is: a transaction that waited for a lock sees what it waited for.
    begin: "BEGIN ISOLATION LEVEL READ COMMITTED",
    for_update: "FOR UPDATE",
    day: "to_char(to_timestamp(unix_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD') COLLATE \"C\"",
    tag: |parameter| format!("(usage.tags::json ->> ${parameter}) COLLATE \"C\""),
};

/// Writes nothing where the batch has been written. Keys are in order, so that two gateways which add to
/// the same keys do not wait for each other in a circle.
const ADD_USAGE: &str = include_str!("postgres_add_usage.sql");

const NOTE: &str = include_str!("postgres_note.sql");

/// A database whose schema is the current one. Clones are cheap.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Names this process in `batches`.
    writer: Arc<str>,
    /// Every connection's thread has one of these.
    threads: Arc<()>,
    pool: Mutex<Pool>,
    given_back: Condvar,
}

/// Idle and lent ones together are never more than [`LENT_MAX`].
#[derive(Default)]
struct Pool {
    idle: Vec<Session>,
    lent: usize,
}

impl Server {
    /// Connects, and brings the schema to the current version. What is not ours, or newer than this
    /// program, is left as it is.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let unusable = |place: &str, reason| StoreError::Unusable { place: place.to_owned(), reason };
        let config = parse(url).map_err(|reason| unusable("in PostgreSQL", reason))?;
        let place = place(&config);
        let tls = tls(&config).map_err(|reason| unusable(&place, reason))?;
        let writer = uuid::Uuid::new_v4().to_string().into();
        let (pool, given_back) = (Mutex::default(), Condvar::new());
        let server = Self(Arc::new(Inner { config, tls, writer, threads: Arc::default(), pool, given_back }));
        let prepared = match server.lend() {
            Ok(mut lent) => lent.session().run(prepare),
            Err(reason) => return Err(unusable(&place, format!("cannot be reached: {reason}"))),
        };
        match prepared {
            Ok(Ok(())) => Ok(server),
            Ok(Err(reason)) => Err(unusable(&place, reason)),
            Err(reason) => Err(unusable(&place, format!("cannot be prepared: {reason}"))),
        }
    }

    /// The writer's connection.
    pub fn connect(&self) -> Result<Session, String> {
        Session::open(&self.0, WRITE_TIMEOUT)
    }

    /// One of a few connections, once one is free.
    pub fn lend(&self) -> Result<Lent<'_>, String> {
        let is_busy = |pool: &mut Pool| pool.lent == LENT_MAX;
        let wait = self.0.given_back.wait_timeout_while(self.pool(), LEND_TIMEOUT, is_busy);
        let (mut pool, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(format!("all {LENT_MAX} connections were busy for {} s", LEND_TIMEOUT.as_secs()));
        }
        pool.lent += 1;
        let idle = pool.idle.pop();
        drop(pool);
        let mut lent = Lent { server: self, session: idle };
        // The server may have been away in the meantime.
        let stands = async |client: &mut Client| {
            let check = tokio::time::timeout(CHECK_TIMEOUT, client.simple_query(""));
            check.await.map_or(Ok(false), |answer| answer.map(|_| true))
        };
        if !lent.session.as_mut().is_some_and(|session| session.run(stands).is_ok_and(|stands| stands)) {
            lent.session = Some(Session::open(&self.0, READ_TIMEOUT)?);
        }
        Ok(lent)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that goes back when it is dropped.
pub struct Lent<'a> {
    server: &'a Server,
    session: Option<Session>,
}

impl Lent<'_> {
    pub fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("there is one from the beginning")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.server.pool();
        pool.lent -= 1;
        // After a panic nobody knows whether a transaction is open.
        let is_usable = |session: &Session| !session.is_broken && !thread::panicking();
        pool.idle.extend(self.session.take().filter(is_usable));
        self.server.0.given_back.notify_one();
    }
}

/// What a connection's thread is to do.
type Job = Box<dyn FnOnce(&Runtime, &mut Client) + Send>;

/// A connection. Dropped, its thread closes it.
pub struct Session {
    jobs: mpsc::Sender<Job>,
    timeout: Duration,
    is_broken: bool,
    writer: Arc<str>,
}

impl Session {
    fn open(server: &Inner, timeout: Duration) -> Result<Self, String> {
        let (config, tls, counted) = (server.config.clone(), server.tls.clone(), server.threads.clone());
        if Arc::strong_count(&counted) > THREADS_MAX + 1 {
            return Err(format!("{THREADS_MAX} connections hang already"));
        }
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (opened, answer) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("postgres".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error.to_string()))),
            };
            match runtime.block_on(connect(&config, tls, timeout)) {
                Ok((mut client, connection)) => {
                    if opened.send(Ok(())).is_ok() {
                        inbox.into_iter().for_each(|job| job(&runtime, &mut client));
                    }
                    // It takes its leave of the server.
                    drop(client);
                    let _ = runtime.block_on(async { tokio::time::timeout(GRACE, connection).await });
                }
                Err(error) => drop(opened.send(Err(words(&error)))),
            }
            drop(counted);
        });
        thread.map_err(|error| format!("a thread could not be started: {error}"))?;
        match answer.recv_timeout(OPEN_TIMEOUT) {
            Ok(opened) => opened?,
            Err(_) => return Err(format!("no connection within {} s", OPEN_TIMEOUT.as_secs())),
        }
        Ok(Self { jobs, timeout, is_broken: false, writer: server.writer.clone() })
    }

    /// Has something done by the connection's thread.
    fn run<T: Send + 'static>(
        &mut self,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, tokio_postgres::Error> + Send + 'static,
    ) -> Result<T, String> {
        if self.is_broken {
            return Err("the connection is lost".into());
        }
        let (done, answer) = mpsc::sync_channel(1);
        let job = move |runtime: &Runtime, client: &mut Client| {
            drop(done.send(runtime.block_on(work(client))));
        };
        // Without its thread there is no answer either.
        let _ = self.jobs.send(Box::new(job));
        match answer.recv_timeout(self.timeout + GRACE) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let severity = error.as_db_error().map(|error| error.parsed_severity());
                // A mere error leaves the connection as it was.
                self.is_broken = !matches!(severity, Some(Some(Severity::Error)));
                Err(words(&error))
            }
            Err(_) => {
                self.is_broken = true;
                Err(format!("no answer within {} s", (self.timeout + GRACE).as_secs()))
            }
        }
    }
}

impl Connection for Session {
    fn dialect(&self) -> &'static Dialect {
        &DIALECT
    }

    fn read(&mut self, sql: &str, parameters: &[Value]) -> Result<Vec<Row>, String> {
        let (sql, parameters) = (sql.to_owned(), parameters.iter().map(parameter).collect::<Vec<_>>());
        self.run(async move |client| {
            let rows = client.query_typed(&sql, &borrowed(&parameters)).await?;
            let cells =
                |row: &tokio_postgres::Row| (0..row.len()).map(|at| cell(row, at)).collect::<Result<_, _>>();
            rows.iter().map(|row| cells(row).map(Row)).collect()
        })
    }

    fn scan(&mut self, sql: &str, parameters: &[Value], mut visit: Visit) -> Result<(), String> {
        let (sql, parameters) = (sql.to_owned(), parameters.iter().map(parameter).collect::<Vec<_>>());
        self.run(async move |client| {
            let mut rows = pin!(client.query_typed_raw(&sql, borrowed(&parameters)).await?);
            while let Some(row) = rows.try_next().await? {
                let mut cells = [ValueRef::Null; SCANNED_COLUMNS_MAX];
                for (at, cell) in cells.iter_mut().enumerate().take(row.len()) {
                    *cell = scanned(&row, at)?;
                }
                if let Err(reason) = visit(&cells[..row.len()]) {
                    return Ok(Err(reason));
                }
            }
            Ok(Ok(()))
        })?
    }

    fn change(&mut self, sql: &str, parameters: &[Value]) -> Result<u64, String> {
        let (sql, parameters) = (sql.to_owned(), parameters.iter().map(parameter).collect::<Vec<_>>());
        self.run(async move |client| client.execute_typed(&sql, &borrowed(&parameters)).await)
    }

    fn add_usage(&mut self, batch: u64, records: &[UsageRecord], notes: &Notes) -> Result<(), String> {
        let (keys, dollars): (Vec<String>, Vec<f64>) =
            charges(records).into_iter().map(|(key, dollars)| (storable(key), dollars)).unzip();
        let mut lines: [Vec<String>; 3] = Default::default();
        let mut dollars_of_lines = Vec::new();
        for ((period, kind, name), dollars) in charges_by_period(records) {
            let texts = [period, kind.to_owned(), storable(name)];
            lines.iter_mut().zip(texts).for_each(|(column, text)| column.push(text));
            dollars_of_lines.push(dollars);
        }
        let [of_periods, of_kinds, of_names] = lines;
        let mut parameters: Vec<Parameter> =
            vec![(Box::new(self.writer.to_string()), Type::TEXT), (Box::new(batch as i64), Type::INT8)];
        parameters.extend(columns(records));
        let rest: [Parameter; 8] = [
            (Box::new(keys), Type::TEXT_ARRAY),
            (Box::new(dollars), Type::FLOAT8_ARRAY),
            (Box::new(of_periods), Type::TEXT_ARRAY),
            (Box::new(of_kinds), Type::TEXT_ARRAY),
            (Box::new(of_names), Type::TEXT_ARRAY),
            (Box::new(dollars_of_lines), Type::FLOAT8_ARRAY),
            (Box::new(notes.writer.to_string()), Type::TEXT),
            (Box::new(notes.numbers.clone()), Type::INT8_ARRAY),
        ];
        parameters.extend(rest);
        self.run(async move |client| client.execute_typed(ADD_USAGE, &borrowed(&parameters)).await).map(drop)
    }

    fn note(&mut self, writer: &str, attempts: &[(u64, UsageRecord)]) -> Result<(), String> {
        let numbers: Vec<i64> = attempts.iter().map(|(number, _)| *number as i64).collect();
        let records: Vec<UsageRecord> = attempts.iter().map(|(_, record)| record.clone()).collect();
        let mut parameters: Vec<Parameter> =
            vec![(Box::new(writer.to_owned()), Type::TEXT), (Box::new(numbers), Type::INT8_ARRAY)];
        parameters.extend(columns(&records));
        self.run(async move |client| client.execute_typed(NOTE, &borrowed(&parameters)).await).map(drop)
    }

    /// Which transactions are done: another as soon as one more is.
    fn version(&mut self) -> Result<String, String> {
        self.read("SELECT pg_current_snapshot()::text", &[]).and_then(|rows| rows[0].get(0))
    }

    fn is_broken(&self) -> bool {
        self.is_broken
    }
}

/// A statement's parameter on its way to the connection's thread.
type Parameter = (Box<dyn ToSql + Send + Sync>, Type);

/// Records' columns, from `unix_ms` to `flag`.
fn columns(records: &[UsageRecord]) -> [Parameter; 20] {
    let texts = |text: fn(&UsageRecord) -> &str| -> Parameter {
        let column: Vec<String> = records.iter().map(|record| storable(text(record))).collect();
        (Box::new(column), Type::TEXT_ARRAY)
    };
    let numbers = |number: fn(&UsageRecord) -> u64| -> Parameter {
        let column: Vec<i64> = records.iter().map(|record| number(record) as i64).collect();
        (Box::new(column), Type::INT8_ARRAY)
    };
    let options = |text: fn(&UsageRecord) -> Option<&str>| -> Parameter {
        let column: Vec<Option<String>> = records.iter().map(|it| text(it).map(storable)).collect();
        (Box::new(column), Type::TEXT_ARRAY)
    };
    let estimated: Vec<bool> = records.iter().map(|record| record.estimated).collect();
    let costs: Vec<f64> = records.iter().map(|record| record.cost).collect();
    let ttfts: Vec<Option<i64>> = records.iter().map(|it| it.ttft_ms.map(|ms| ms as i64)).collect();
    let tags: Vec<String> = records.iter().map(|record| tags_text(record, storable)).collect();
    [
        numbers(|it| it.unix_ms),
        texts(|it| &it.request_id),
        numbers(|it| it.attempt.into()),
        texts(|it| &it.key),
        texts(|it| &it.route),
        texts(|it| &it.model),
        options(|it| it.provider.as_deref()),
        texts(|it| &it.task),
        numbers(|it| it.input_tokens),
        numbers(|it| it.cached_tokens),
        numbers(|it| it.output_tokens),
        (Box::new(estimated), Type::BOOL_ARRAY),
        (Box::new(costs), Type::FLOAT8_ARRAY),
        numbers(|it| it.latency_ms),
        (Box::new(ttfts), Type::INT8_ARRAY),
        texts(|it| it.outcome.as_str()),
        numbers(|it| it.status.into()),
        (Box::new(tags), Type::TEXT_ARRAY),
        options(|it| it.arm.as_deref()),
        options(|it| it.flag.map(Flag::as_str)),
    ]
}

fn parameter(value: &Value) -> Parameter {
    match value {
        // The statement says which type.
        Value::Null => (Box::new(None::<String>), Type::UNKNOWN),
        Value::Integer(number) => (Box::new(*number), Type::INT8),
        Value::Real(number) => (Box::new(*number), Type::FLOAT8),
        Value::Text(text) => (Box::new(storable(text)), Type::TEXT),
        Value::Blob(bytes) => (Box::new(bytes.clone()), Type::BYTEA),
    }
}

fn borrowed(parameters: &[Parameter]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    parameters.iter().map(|(value, kind)| (value.as_ref() as _, kind.clone())).collect()
}

fn cell(row: &tokio_postgres::Row, at: usize) -> Result<Value, tokio_postgres::Error> {
    Ok(match *row.columns()[at].type_() {
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.into(),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(at)?.into(),
        Type::BOOL => row.try_get::<_, Option<bool>>(at)?.into(),
        Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(at)?.into(),
        _ => row.try_get::<_, Option<String>>(at)?.into(),
    })
}

/// The same without a copy.
fn scanned(row: &tokio_postgres::Row, at: usize) -> Result<ValueRef<'_>, tokio_postgres::Error> {
    Ok(match *row.columns()[at].type_() {
        Type::INT8 => row.try_get::<_, Option<i64>>(at)?.map_or(ValueRef::Null, ValueRef::Integer),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(at)?.map_or(ValueRef::Null, ValueRef::Real),
        Type::BOOL => {
            row.try_get::<_, Option<bool>>(at)?.map_or(ValueRef::Null, |flag| ValueRef::Integer(flag.into()))
        }
        _ => {
            let text = row.try_get::<_, Option<&str>>(at)?;
            text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes()))
        }
    })
}

/// PostgreSQL's texts have every character but U+0000, escaped in JSON or not.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn parse(url: &str) -> Result<Config, String> {
    // Not the parser's own words: they may have a piece of the password.
    let wrong = || {
        String::from(
            "its URL must be postgres://USER:PASSWORD@HOST:PORT/DATABASE, with % escapes for `@` and other \
             signs in the password, and perhaps ?sslmode=disable, prefer or require",
        )
    };
    let mut config: Config = url.parse().map_err(|_| wrong())?;
    if url.matches('@').count() > 1 {
        return Err(wrong());
    }
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_application_name().is_none() {
        config.application_name("novastack");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    config
        .tcp_user_timeout(SILENCE)
        .keepalives_idle(SILENCE)
        .keepalives_interval(SILENCE / 2)
        .keepalives_retries(2);
    Ok(config)
}

/// As errors name it: without user and password.
fn place(config: &Config) -> String {
    let host = |(at, host): (usize, &Host)| {
        let port = config.get_ports().get(at).or(config.get_ports().first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{}/{database}", hosts.join(","))
}

/// How to encrypt: None where the URL or the machine needs no encryption. Certificates are checked
/// against the roots of the platform.
fn tls(config: &Config) -> Result<Option<MakeRustlsConnect>, String> {
    let is_here = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    };
    let is_local = config.get_hostaddrs().is_empty() && config.get_hosts().iter().all(is_here);
    match config.get_ssl_mode() {
        SslMode::Disable => return Ok(None),
        SslMode::Prefer if is_local => return Ok(None),
        _ => {}
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| format!("encryption cannot be set up ({error}): see `sslmode`"))?;
    Ok(Some(MakeRustlsConnect::new(client.with_no_client_auth())))
}

/// A client, and what drives its connection on the runtime that this is called on.
async fn connect(
    config: &Config,
    tls: Option<MakeRustlsConnect>,
    timeout: Duration,
) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = match tls {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            (client, tokio::spawn(connection.map(drop)))
        }
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            (client, tokio::spawn(connection.map(drop)))
        }
    };
    let ms = timeout.as_millis();
    let bounds = format!("SET statement_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}");
    client.batch_execute(&bounds).await?;
    Ok((client, connection))
}

/// Recognises the schema and brings it up to date. The inner error is ours.
async fn prepare(client: &mut Client) -> Result<Result<(), String>, tokio_postgres::Error> {
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
    // One process at a time; the next one sees what this one did.
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK]).await?;
    let about = "SELECT current_setting('server_version_num')::integer / 10000, current_schema()::text";
    let about = transaction.query_one(about, &[]).await?;
    let server: i32 = about.get(0);
    if server < SERVER_VERSION_MIN {
        return Ok(Err(format!("is on PostgreSQL {server}; {SERVER_VERSION_MIN} or newer is needed")));
    }
    let Some(schema) = about.get::<_, Option<String>>(1) else {
        return Ok(Err("its search_path names no schema that exists: create one, or name another".into()));
    };
    let tables = "SELECT tablename::text FROM pg_catalog.pg_tables WHERE schemaname = $1";
    let tables: Vec<String> =
        transaction.query(tables, &[&schema]).await?.iter().map(|row| row.get(0)).collect();
    let known = MIGRATIONS.len() as i64;
    let version: i64 = match tables.iter().any(|table| table == "novastack_schema") {
        true => transaction.query_one("SELECT max(version) FROM novastack_schema", &[]).await?.get(0),
        false if tables.is_empty() => 0,
        false => {
            return Ok(Err(format!(
                "its schema `{schema}` has tables of another program; it was left as it is: name another \
                 database, or another schema with ?options=-csearch_path%3DNAME"
            )));
        }
    };
    if version > known {
        return Ok(Err(format!(
            "was written by a newer NovaStack: its schema is version {version}, this program knows up to \
             {known}; it was left as it is: use the newer program"
        )));
    }
    for migration in &MIGRATIONS[version.max(0) as usize..] {
        transaction.batch_execute(migration).await?;
    }
    if version < known {
        tell_of_migration(&format!("PostgreSQL, schema {schema}"), version, known);
        transaction.execute("DELETE FROM novastack_schema", &[]).await?;
        transaction.execute("INSERT INTO novastack_schema VALUES ($1)", &[&known]).await?;
    }
    transaction.commit().await.map(Ok)
}

/// An error on one line. Details of the server's are left out: they may repeat data.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let hint = match *said.code() {
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION => " (see `sslmode`)",
            _ => "",
        };
        return format!("{}{hint}", said.message());
    }
    let Some(cause) = error.source() else { return error.to_string() };
    let text = format!("{error}: {cause}");
    match text.contains("certificate") {
        true => format!("{text} (the variable SSL_CERT_FILE may name a file with its authority's)"),
        false => text,
    }
}
