//! A receiver of traces over OTLP/HTTP: it takes what comes to `/v1/traces` and decodes it.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than the exporter waits, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span that came. Ids are in hexadecimal digits.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// As in the protocol: 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// 2: an error.
    pub status: i32,
    pub attributes: Value,
    pub begin_ns: u64,
    pub end_ns: u64,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    resources: Vec<Value>,
    headers: Vec<HeaderMap>,
    raw: Vec<u8>,
}

/// A running receiver; it stops with the test's runtime.
#[derive(Clone)]
pub struct Receiver {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let received = Arc::new(Mutex::new(Received::default()));
        let router =
            axum::Router::new().route("/v1/traces", axum::routing::post(take)).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, received }
    }

    /// All spans, once there are so many.
    pub async fn spans(&self, count: usize) -> Vec<Span> {
        let come = async {
            loop {
                let spans = self.so_far();
                if spans.len() >= count {
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, come)
            .await
            .unwrap_or_else(|_| panic!("{count} spans are expected; there are {:#?}", self.so_far()))
    }

    /// The spans that have come.
    pub fn so_far(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }

    /// What the batches said of their sender.
    pub fn resources(&self) -> Vec<Value> {
        self.received.lock().unwrap().resources.clone()
    }

    /// The batches' headers.
    pub fn headers(&self) -> Vec<HeaderMap> {
        self.received.lock().unwrap().headers.clone()
    }

    /// All that came, to the byte.
    pub fn raw(&self) -> Vec<u8> {
        self.received.lock().unwrap().raw.clone()
    }
}

async fn take(State(received): State<Arc<Mutex<Received>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(&body[..]).expect("the protocol's bytes");
    let mut received = received.lock().unwrap();
    received.headers.push(headers);
    received.raw.extend_from_slice(&body);
    for resource in request.resource_spans {
        received.resources.extend(resource.resource.map(|resource| attributes(&resource.attributes)));
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        received.spans.extend(spans.map(|span| Span {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind,
            status: span.status.map_or(0, |status| status.code),
            attributes: attributes(&span.attributes),
            begin_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            name: span.name,
        }));
    }
    StatusCode::OK
}

fn attributes(pairs: &[KeyValue]) -> Value {
    let pair = |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map_or(Value::Null, value));
    Value::Object(pairs.iter().map(pair).collect::<Map<_, _>>())
}

fn value(given: &AnyValue) -> Value {
    match given.value.as_ref().expect("a value") {
        any_value::Value::StringValue(text) => text.as_str().into(),
        any_value::Value::BoolValue(truth) => (*truth).into(),
        any_value::Value::IntValue(number) => (*number).into(),
        any_value::Value::DoubleValue(number) => (*number).into(),
        any_value::Value::ArrayValue(items) => items.values.iter().map(value).collect(),
        other => panic!("no attribute is a {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
