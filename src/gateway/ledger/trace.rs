//! Traces: spans for OpenTelemetry, sent over OTLP/HTTP in protobuf.
//!
//! A request is one server span; each attempt at a target is a child of it, a client span (internal for
//! our own engines). Names and attributes follow OpenTelemetry's semantic conventions 1.41, for HTTP and
//! for generative AI (`gen_ai.*`, in development there; kept in a repository of their own since); what
//! they have no name for is `novastack.*`. W3C Trace Context: a caller's `traceparent` is continued, and
//! its sampling decision with it; each attempt's upstream gets one of its own. `tracestate` and `baggage`
//! go no further.
//!
//! Spans wait in a bounded queue for a thread of the SDK's, which sends them in batches. A receiver that
//! is away costs a request nothing: spans are lost, which is counted, and logged once a minute.
//!
//! Invariants: no prompt, no answer, no key, no query string is in a span; every text is bounded.
//!
//! Deliberately absent: prompts and answers on demand (`gen_ai.input.messages`), OTLP over gRPC,
//! OpenTelemetry's metrics and logs.

use super::counterparty::Counterparty;
use super::observe::{Finished, bounded};
use crate::blocking_http::BlockingClient;
use crate::config::Telemetry;
use crate::secrets;
use crate::store::{Outcome, UsageRecord};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use url::Url;

pub use opentelemetry_sdk::trace::Span;

/// Spans that may wait: at about 2 KB each, 8 MB.
const QUEUE_MAX: usize = 4096;
/// Spans that go together.
const BATCH_MAX: usize = 512;
/// The longest that a span waits while the receiver keeps up.
const DELAY: Duration = Duration::from_secs(1);
/// Of one batch, its repetitions included.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Until a connection to the receiver stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a receiver may say about a batch.
const RECEIPT_BYTES_MAX: usize = 4 << 20;
/// How long [`Tracing::stop`] waits for the last batches.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Losses are logged no more often.
const QUIET: Duration = Duration::from_secs(60);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Makes spans and sends them.
pub struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    counts: Arc<Counts>,
}

/// Spans since the start.
#[derive(Debug, Default)]
struct Counts {
    ended: AtomicU64,
    sent: AtomicU64,
}

impl Tracing {
    /// Begins to send, where the configuration or the `environment` names a receiver. Not to be called
    /// from async code.
    ///
    /// # Errors
    /// What is wrong with the settings; secrets are not repeated.
    pub fn start(
        telemetry: &Telemetry,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<Arc<Self>>, String> {
        let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
        let given = telemetry.otlp_endpoint.clone();
        let Some(endpoint) = given.or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")) else { return Ok(None) };
        check_endpoint(&endpoint)?;
        let mut headers: HashMap<String, String> = telemetry.headers.clone().into_iter().collect();
        if let Some(name) = &telemetry.headers_env
            && let Some(text) = set(name)
        {
            headers.extend(header_list(&text).ok_or_else(|| {
                format!("the environment variable {name} must hold headers: name=value,name=value")
            })?);
        }
        let sample = match (telemetry.sample, set("OTEL_TRACES_SAMPLER_ARG")) {
            (Some(share), _) => share,
            (None, None) => 1.0,
            (None, Some(text)) => match text.trim().parse() {
                Ok(share) if (0.0..=1.0).contains(&share) => share,
                _ => return Err("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1".into()),
            },
        };
        let name = telemetry.service_name.clone().or_else(|| set("OTEL_SERVICE_NAME"));
        let counts = Arc::new(Counts::default());
        let exporter =
            Exporter { inner: exporter(&endpoint, headers)?, counts: counts.clone(), told: Mutex::default() };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(DELAY)
            .build();
        let resource = Resource::builder()
            .with_service_name(name.unwrap_or_else(|| "novastack".into()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("novastack");
        Ok(Some(Arc::new(Self { provider, tracer, counts })))
    }

    /// Sends what waits, as far as that takes no more than a few seconds. Spans that end later are lost.
    pub fn stop(&self) {
        // An error says no more than the counts.
        let _ = self.provider.shutdown_with_timeout(STOP_TIMEOUT);
        let (ended, sent) = self.counts();
        if ended > sent {
            tracing::warn!(lost = ended - sent, of = ended, "spans were not sent");
        }
    }

    /// Spans that ended, and those of them that were sent.
    pub fn counts(&self) -> (u64, u64) {
        let sent = self.counts.sent.load(Ordering::Relaxed);
        (self.counts.ended.load(Ordering::Relaxed).max(sent), sent)
    }

    /// A request's span. Its parent is the caller's, where these headers name one.
    pub fn request(&self, headers: &HeaderMap, arrived: SystemTime) -> Span {
        let parent = parent(headers)
            .map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server).with_start_time(arrived);
        self.tracer.build_with_context(builder, &parent)
    }

    /// A child of a request's span, for one attempt at a target.
    pub fn attempt(&self, request: &SpanContext, target: &Counterparty) -> Span {
        let parent = Context::new().with_remote_span_context(request.clone());
        let kind = if target.provider.is_some() { SpanKind::Client } else { SpanKind::Internal };
        self.tracer.build_with_context(SpanBuilder::from_name("attempt").with_kind(kind), &parent)
    }

    /// The request is over.
    pub fn end_request(&self, mut span: Span, request: &Finished) {
        if !span.is_recording() {
            return;
        }
        let http_route = request.http_route.as_deref();
        let method = known_method(&request.method);
        span.update_name(match (request.operation, request.model.as_str(), http_route) {
            (Some(operation), model, _) if !model.is_empty() => format!("{operation} {model}"),
            (_, _, Some(route)) => format!("{method} {route}"),
            (_, _, None) => method.to_owned(),
        });
        let mut set = |name, value| span.set_attribute(attribute(name, value));
        set("http.request.method", method.into());
        set("http.response.status_code", i64::from(request.status).into());
        set("url.scheme", "http".into());
        set("url.path", request.path.clone().into());
        if let Some(route) = http_route {
            set("http.route", route.to_owned().into());
        }
        if let Some(client) = request.client {
            set("client.address", client.ip().to_canonical().to_string().into());
            set("client.port", i64::from(client.port()).into());
        }
        if let Some(agent) = &request.user_agent {
            set("user_agent.original", agent.clone().into());
        }
        if let Some(operation) = request.operation {
            set("gen_ai.operation.name", operation.into());
            request.parameters.tell(&mut set);
            if !request.parameters.model.is_empty() {
                set("gen_ai.request.model", request.parameters.model.clone().into());
            }
            set("novastack.attempts", i64::from(request.attempts).into());
        }
        set("novastack.request_id", request.id.clone().into());
        set("novastack.outcome", request.outcome.as_str().into());
        for (name, text) in [
            ("novastack.key", &request.key),
            ("novastack.model", &request.model),
            ("novastack.route", &request.route),
        ] {
            if !text.is_empty() {
                set(name, text.clone().into());
            }
        }
        // A caller's own mistakes are no errors of a server's.
        if request.outcome == Outcome::Failed && (request.status >= 500 || request.status < 400) {
            set("error.type", error_type(request.status).into());
            span.set_status(Status::error(""));
        }
        self.end(span);
    }

    /// An attempt is over.
    pub fn end_attempt(&self, mut span: Span, asked: &AskedTarget, record: &UsageRecord) {
        if !span.is_recording() {
            return;
        }
        span.update_name(format!("{} {}", asked.operation, asked.model));
        let mut set = |name, value| span.set_attribute(attribute(name, value));
        set("gen_ai.operation.name", asked.operation.into());
        set("gen_ai.provider.name", asked.provider.clone().into());
        set("gen_ai.request.model", asked.model.clone().into());
        asked.parameters.tell(&mut set);
        if let Some((host, port)) = &asked.server {
            set("server.address", host.clone().into());
            set("server.port", i64::from(*port).into());
        }
        if let Some(id) = &asked.answer_id {
            set("gen_ai.response.id", id.clone().into());
        }
        if let Some(model) = &asked.answer_model {
            set("gen_ai.response.model", model.clone().into());
        }
        if !asked.finish_reasons.is_empty() {
            let reasons =
                asked.finish_reasons.iter().map(|reason| StringValue::from(reason.clone())).collect();
            set("gen_ai.response.finish_reasons", Value::Array(Array::String(reasons)));
        }
        if let Some(time) = asked.first.filter(|_| asked.parameters.stream) {
            set("gen_ai.response.time_to_first_chunk", time.as_secs_f64().into());
        }
        if record.input_tokens + record.output_tokens > 0 {
            set("gen_ai.usage.input_tokens", integer(record.input_tokens));
            set("gen_ai.usage.cache_read.input_tokens", integer(record.cached_tokens));
            set("gen_ai.usage.output_tokens", integer(record.output_tokens));
            set("novastack.usage.estimated", record.estimated.into());
        }
        set("novastack.request_id", record.request_id.clone().into());
        set("novastack.attempt", i64::from(record.attempt).into());
        set("novastack.route", record.route.clone().into());
        set("novastack.model", record.model.clone().into());
        set("novastack.cost", record.cost.into());
        set("novastack.outcome", record.outcome.as_str().into());
        if let Some(provider) = &record.provider {
            set("novastack.provider", provider.clone().into());
        }
        if !record.key.is_empty() {
            set("novastack.key", record.key.clone().into());
        }
        if record.outcome == Outcome::Failed {
            set("error.type", error_type(record.status).into());
            span.set_status(Status::error(""));
        }
        self.end(span);
    }

    fn end(&self, mut span: Span) {
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        span.end();
    }
}

/// Without secrets.
fn attribute(name: &'static str, value: Value) -> KeyValue {
    let value = match value {
        Value::String(text) => Value::String(secrets::hide(text.as_str()).into_owned().into()),
        other => other,
    };
    KeyValue::new(name, value)
}

/// What a request asks for besides its prompt.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// As the caller named it.
    pub model: String,
    /// The answer is to be streamed.
    pub stream: bool,
    /// Bound of the answer.
    pub max_tokens: Option<u64>,
    /// Of sampling.
    pub temperature: Option<f64>,
    /// Of sampling.
    pub top_p: Option<f64>,
}

impl Parameters {
    /// Sets what is the same for a request and its attempts.
    fn tell(&self, set: &mut dyn FnMut(&'static str, Value)) {
        set("gen_ai.request.stream", self.stream.into());
        if let Some(tokens) = self.max_tokens {
            set("gen_ai.request.max_tokens", integer(tokens));
        }
        if let Some(temperature) = self.temperature {
            set("gen_ai.request.temperature", temperature.into());
        }
        if let Some(top_p) = self.top_p {
            set("gen_ai.request.top_p", top_p.into());
        }
    }
}

/// What an attempt's span tells beside its usage record.
#[derive(Debug)]
pub struct AskedTarget {
    operation: &'static str,
    provider: String,
    /// As the target calls it.
    model: String,
    server: Option<(String, u16)>,
    parameters: Parameters,
    /// The answer's id.
    pub answer_id: Option<String>,
    /// The model that the answer names.
    pub answer_model: Option<String>,
    /// Of its choices.
    pub finish_reasons: Vec<String>,
    /// From the attempt's begin to the first text.
    pub first: Option<Duration>,
}

impl AskedTarget {
    /// Before it has said anything.
    pub fn new(operation: &'static str, target: &Counterparty, parameters: Parameters) -> Self {
        let (provider, model, server) = match &target.provider {
            None => ("novastack".to_owned(), &target.model.name, None),
            Some(provider) => {
                let url = Url::parse(&provider.base_url).ok();
                let server = url.as_ref().and_then(|url| {
                    Some((url.host_str()?.to_owned(), url.port_or_known_default().unwrap_or_default()))
                });
                let known = server.as_ref().and_then(|(host, _)| known_provider(host));
                (known.unwrap_or(&provider.name).to_owned(), &provider.model, server)
            }
        };
        Self {
            operation,
            provider,
            model: model.clone(),
            server,
            parameters,
            answer_id: None,
            answer_model: None,
            finish_reasons: Vec::new(),
            first: None,
        }
    }
}

/// The conventions' own names of providers; others go by the configuration's.
fn known_provider(host: &str) -> Option<&'static str> {
    let known =
        [("api.openai.com", "openai"), ("api.anthropic.com", "anthropic"), ("api.deepseek.com", "deepseek")];
    known.iter().find(|(name, _)| *name == host).map(|(_, name)| *name)
}

/// Method names are few, whatever callers send.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.iter().find(|known| **known == method.as_str()).unwrap_or(&"_OTHER")
}

/// The status that stands for the failure; a stream that broke off has one of success.
fn error_type(status: u16) -> String {
    if status < 400 { "stream".into() } else { status.to_string() }
}

fn integer(number: u64) -> Value {
    Value::I64(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The `traceparent` of what is asked under this span.
pub fn traceparent(span: &SpanContext) -> (HeaderName, HeaderValue) {
    let sampled = u8::from(span.is_sampled());
    let text = format!("00-{}-{}-{sampled:02x}", span.trace_id(), span.span_id());
    (TRACEPARENT, HeaderValue::try_from(text).expect("digits and dashes"))
}

/// The caller's span, as its only `traceparent` names it. What is not valid counts as none.
fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let text = value.to_str().ok()?.trim();
    let (known, more) = text.split_at_checked("00-".len() + 32 + 1 + 16 + 1 + 2)?;
    let parts: Vec<&str> = known.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { return None };
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths = [version, trace, span, flags].map(str::len);
    // Later versions may say more behind a dash.
    let ends = more.is_empty() || (version != "00" && more.starts_with('-'));
    if lengths != [2, 32, 16, 2] || version == "ff" || !ends || !parts.iter().all(|part| is_hex(part)) {
        return None;
    }
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let parent = SpanContext::new(trace, span, flags, true, TraceState::default());
    parent.is_valid().then_some(parent)
}

/// `name=value,name=value`.
fn header_list(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let header = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let valid = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
        valid.then(|| (name.to_owned(), value.to_owned()))
    };
    parts.map(header).collect()
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let valid = Url::parse(endpoint).is_ok_and(|url| {
        ["http", "https"].contains(&url.scheme())
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match valid {
        true => Ok(()),
        // It may hold a password.
        false => {
            Err("OTEL_EXPORTER_OTLP_ENDPOINT must be http://HOST:PORT or https://HOST, with a path where \
                      there is one, without user, password, query and fragment"
                .into())
        }
    }
}

fn exporter(
    endpoint: &str,
    headers: HashMap<String, String>,
) -> Result<opentelemetry_otlp::SpanExporter, String> {
    let client = BlockingClient::new(CONNECT_TIMEOUT).map_err(|error| format!("telemetry: {error}"))?;
    opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Delivery(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim().trim_end_matches('/')))
        .with_timeout(EXPORT_TIMEOUT)
        .with_headers(headers)
        .build()
        .map_err(|error| format!("telemetry: {error}"))
}

/// How the SDK's exporter sends. It waits: the SDK exports on a thread of its own, which is in no async
/// runtime. No redirect is followed: it would carry the headers to who knows where.
#[derive(Debug)]
struct Delivery(BlockingClient);

impl HttpClient for Delivery {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sent<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.0.send(request, EXPORT_TIMEOUT).and_then(|mut answer| {
            let body = answer.bytes(RECEIPT_BYTES_MAX, EXPORT_TIMEOUT)?;
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            Ok(response)
        });
        Box::pin(std::future::ready(sent.map_err(HttpError::from)))
    }
}

/// What [`HttpClient`] asks for.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

/// Sends, counts, and tells of losses now and then.
#[derive(Debug)]
struct Exporter {
    inner: opentelemetry_otlp::SpanExporter,
    counts: Arc<Counts>,
    /// When a loss was logged.
    told: Mutex<Option<Instant>>,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                self.counts.sent.fetch_add(spans as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.is_none_or(|told| told.elapsed() >= QUIET) {
                    *told = Some(Instant::now());
                    let error = bounded(&error.to_string(), 200);
                    tracing::warn!(error, spans, "traces are lost: their receiver does not take them");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent_of(values: &[&str]) -> Option<String> {
        let header = |value: &&str| (TRACEPARENT, HeaderValue::try_from(*value).unwrap());
        let headers = HeaderMap::from_iter(values.iter().map(header));
        parent(&headers).map(|parent| traceparent(&parent).1.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_callers_span_is_read_strictly() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{span}-01");
        assert_eq!(parent_of(&[&good]), Some(good.clone()));
        assert_eq!(parent_of(&[&format!("00-{trace}-{span}-00")]), Some(format!("00-{trace}-{span}-00")));
        // Flags that nobody knows are not passed on; a later version may say more.
        assert_eq!(parent_of(&[&format!("00-{trace}-{span}-ff")]), Some(good.clone()));
        assert_eq!(parent_of(&[&format!("cc-{trace}-{span}-01-what-comes")]), Some(good.clone()));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("ff-{trace}-{span}-01"),
            &format!("00-{trace}-{span}-01-more"),
            &format!("cc-{trace}-{span}-01more"),
            &format!("00-{}-{span}-01", "0".repeat(32)),
            &format!("00-{trace}-{}-01", "0".repeat(16)),
            &format!("00-{trace}{span}--01"),
            &format!("00-{trace}-{span}-0g"),
            &format!("0-{trace}-{span}-001"),
        ] {
            assert_eq!(parent_of(&[bad]), None, "{bad}");
        }
        assert_eq!(parent_of(&[&good, &good]), None, "two are none");
    }

    #[test]
    fn settings_come_from_the_configuration_then_from_the_environment() {
        let start = |telemetry: Telemetry, environment: &[(&str, &str)]| {
            let environment: HashMap<String, String> =
                environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let started = Tracing::start(&telemetry, &|name| environment.get(name).cloned());
            started.map(|tracing| tracing.inspect(|tracing| tracing.stop()).is_some())
        };
        let at = |endpoint: &str| Telemetry { otlp_endpoint: Some(endpoint.into()), ..Telemetry::default() };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        assert_eq!(start(Telemetry::default(), &[]), Ok(false));
        assert_eq!(start(Telemetry::default(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(false));
        assert_eq!(start(Telemetry::default(), &[endpoint]), Ok(true));
        assert_eq!(start(at("http://127.0.0.1:9"), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "nothing")]), Ok(true));
        let secret = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:S3CRET@127.0.0.1:9")];
        let told = start(Telemetry::default(), &secret).unwrap_err();
        assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !told.contains("S3CRET"), "{told}");
        for share in ["2", "-1", "NaN", "half"] {
            assert!(start(Telemetry::default(), &[endpoint, ("OTEL_TRACES_SAMPLER_ARG", share)]).is_err());
        }
        let keyed = Telemetry { headers_env: Some("KEYS".into()), ..at("http://127.0.0.1:9") };
        assert_eq!(start(keyed.clone(), &[("KEYS", "x-api-key=S3CRET, a=b=c,")]), Ok(true));
        let told = start(keyed, &[("KEYS", "S3CRET")]).unwrap_err();
        assert!(told.contains("KEYS") && !told.contains("S3CRET"), "{told}");
        assert_eq!(
            header_list("x-api-key=S3CRET, a = b=c,"),
            Some(vec![("x-api-key".into(), "S3CRET".into()), ("a".into(), "b=c".into())])
        );
    }
}
