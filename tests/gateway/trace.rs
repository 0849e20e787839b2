//! Traces as a receiver sees them, from the real program.

use super::{CONFIG, Gateway, begun_stream, chat, fill, message, start, start_with};
use crate::support::otlp::{Receiver, Span};
use crate::support::upstream::{Act, TEXT, USAGE, Upstream, answer, stream_head};
use serde_json::{Value, json};
use std::time::Duration;

const CALLER: (&str, &str) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");

fn config(receiver: &str, openai: &Upstream, anthropic: &Upstream) -> String {
    let telemetry = format!(
        "server:\n  telemetry: {{ otlp_endpoint: {receiver}, headers: {{ x-team: search }}, headers_env: TEST_OTLP_KEYS, \
         service_name: gate }}\n"
    );
    telemetry
        + &fill(CONFIG, openai, anthropic)
        + "named_routes: { safe: [deepseek-v4-pro, claude-opus-4.7] }\n"
}

/// The span of a kind with this request id.
fn of<'a>(spans: &'a [Span], kind: i32, id: &str) -> Vec<&'a Span> {
    let mut found: Vec<&Span> = spans
        .iter()
        .filter(|span| span.kind == kind && span.attributes["novastack.request_id"] == id)
        .collect();
    found.sort_by_key(|span| span.attributes["novastack.attempt"].as_u64());
    found
}

const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

async fn ask(gateway: &Gateway, id: &str, path: &str, body: &Value) -> u16 {
    let parent = format!("00-{}-{}-01", CALLER.0, CALLER.1);
    let headers = [
        ("x-request-id", id),
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=S3CRET-STATE"),
        ("authorization", "Bearer S3CRET-CALLER-KEY"),
        ("user-agent", "tester/1"),
    ];
    gateway.post(path, &headers, body).await.status
}

#[tokio::test]
async fn a_request_and_its_attempts_are_spans() {
    let (openai, anthropic, receiver) =
        (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("novastack.yaml"), config(&receiver.url, &openai, &anthropic)).unwrap();
    let keys = [("TEST_OTLP_KEYS", "x-receiver-key=S3CRET-RECEIVER"), ("OTEL_SERVICE_NAME", "not-this")];
    let gateway = start_with(folder, &["--api-key", "S3CRET-CALLER-KEY"], &keys);

    let mut body = chat("gpt-4o", true);
    (body["max_tokens"], body["temperature"]) = (64.into(), 0.5.into());
    assert_eq!(ask(&gateway, "streamed", "/v1/chat/completions?key=S3CRET-QUERY", &body).await, 200);
    assert_eq!(ask(&gateway, "whole", "/anthropic/v1/messages", &message("claude", false)).await, 200);
    let mut body = chat("qwen3-235b", false);
    (body["max_tokens"], body["ignore_eos"]) = (3.into(), true.into());
    assert_eq!(ask(&gateway, "ours", "/v1/chat/completions", &body).await, 200);
    // Nothing is known of whoever is refused.
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 401);
    assert_eq!(ask(&gateway, "unknown", "/v1/chat/completions", &chat("S3CRET-MODEL", false)).await, 404);
    let spans = receiver.spans(8).await;
    assert_eq!(spans.len(), 8, "{spans:#?}");

    // The caller's trace goes on, and on to the upstreams.
    for (id, kind, model, mock) in [
        ("streamed", CLIENT, "deepseek-upstream", Some(&openai)),
        ("whole", CLIENT, "claude-upstream", Some(&anthropic)),
        ("ours", INTERNAL, "qwen3-235b", None),
    ] {
        let (request, attempts) = (of(&spans, SERVER, id), of(&spans, kind, id));
        let ([request], [attempt]) = (&request[..], &attempts[..]) else { panic!("{id} in {spans:#?}") };
        assert_eq!((request.trace.as_str(), request.parent.as_str()), CALLER, "{request:#?}");
        assert_eq!((&attempt.trace, &attempt.parent), (&request.trace, &request.id), "{attempt:#?}");
        assert_eq!(attempt.name, format!("chat {model}"));
        assert!(request.begin_ns <= attempt.begin_ns && attempt.end_ns <= request.end_ns, "{spans:#?}");
        if let Some(mock) = mock {
            let asked = &mock.asked()[0];
            assert_eq!(asked.headers["traceparent"], format!("00-{}-{}-01", CALLER.0, attempt.id));
            assert!(!asked.headers.contains_key("tracestate"), "{asked:?}");
        }
    }

    let request = of(&spans, SERVER, "streamed")[0];
    assert_eq!(request.name, "chat deepseek-v4-pro");
    let expected = json!({
        "http.request.method": "POST", "http.response.status_code": 200, "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions", "url.scheme": "http", "client.address": "127.0.0.1",
        "user_agent.original": "tester/1", "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": true, "gen_ai.request.max_tokens": 64, "gen_ai.request.temperature": 0.5,
        "novastack.attempts": 1, "novastack.model": "deepseek-v4-pro", "novastack.route": "deepseek-v4-pro",
        "novastack.outcome": "completed",
    });
    assert_holds(request, &expected);
    let attempt = of(&spans, CLIENT, "streamed")[0];
    let port: u16 = openai.url.rsplit(':').next().unwrap().parse().unwrap();
    let cost = ((USAGE.0 - USAGE.1) as f64 + USAGE.1 as f64 * 0.5 + USAGE.2 as f64 * 10.0) / 1e6;
    let expected = json!({
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "open", "gen_ai.request.model": "deepseek-upstream",
        "gen_ai.request.stream": true, "gen_ai.request.max_tokens": 64, "gen_ai.request.temperature": 0.5,
        "gen_ai.response.id": "chatcmpl-mock", "gen_ai.response.model": "deepseek-upstream",
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": USAGE.0,
        "gen_ai.usage.cache_read.input_tokens": USAGE.1, "gen_ai.usage.output_tokens": USAGE.2,
        "server.address": "127.0.0.1", "server.port": port, "novastack.attempt": 1,
        "novastack.provider": "open", "novastack.model": "deepseek-v4-pro", "novastack.cost": cost,
        "novastack.outcome": "completed", "novastack.usage.estimated": false,
    });
    assert_holds(attempt, &expected);
    assert!(
        attempt.attributes["gen_ai.response.time_to_first_chunk"].as_f64().is_some_and(|time| time > 0.0)
    );
    assert!(attempt.attributes.get("error.type").is_none() && attempt.status != 2, "{attempt:#?}");
    let expected =
        json!({ "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": USAGE.0 });
    assert_holds(of(&spans, CLIENT, "whole")[0], &expected);
    let ours = of(&spans, INTERNAL, "ours")[0];
    let expected = json!({
        "gen_ai.provider.name": "novastack", "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["length"],
    });
    assert_holds(ours, &expected);

    let unknown = of(&spans, SERVER, "unknown")[0];
    assert_eq!(unknown.name, "POST /v1/chat/completions", "a name that is not known is nowhere");
    assert_holds(unknown, &json!({ "http.response.status_code": 404, "novastack.outcome": "failed" }));
    assert_ne!(unknown.status, 2, "a caller's mistake is no error of the server's");
    let refused = spans.iter().find(|span| span.attributes["http.response.status_code"] == 401);
    let refused = refused.expect("a span");
    assert!(refused.parent.is_empty() && refused.trace != CALLER.0, "{refused:#?}");

    // Who sends, with its key; nothing else that is secret.
    assert!(receiver.resources().iter().all(|sender| sender["service.name"] == "gate"));
    for headers in receiver.headers() {
        assert_eq!(headers["x-team"], "search");
        assert_eq!(headers["x-receiver-key"], "S3CRET-RECEIVER");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    let raw = String::from_utf8_lossy(&receiver.raw()).into_owned();
    for secret in ["S3CRET", "sk-upstream", "Explain async", TEXT, "Hello"] {
        assert!(!raw.contains(secret), "{secret} is in a span");
    }
    gateway.stop();
}

fn assert_holds(span: &Span, expected: &Value) {
    for (name, value) in expected.as_object().expect("attributes") {
        let found = &span.attributes[name];
        let close = match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => (found - value).abs() < 1e-12,
            _ => found == value,
        };
        assert!(close, "{name} is not {value} in {span:#?}");
    }
}

#[tokio::test]
async fn each_attempt_is_a_span_of_its_own() {
    let (openai, anthropic, receiver) =
        (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let gateway = start(&config(&receiver.url, &openai, &anthropic), &[]);
    openai.once("deepseek-upstream", vec![Act::Send(answer("401 No", &json!({ "error": "bad key" })))]);
    assert_eq!(ask(&gateway, "led", "/v1/chat/completions", &chat("safe", true)).await, 200);
    let spans = receiver.spans(3).await;
    let (request, attempts) = (of(&spans, SERVER, "led")[0], of(&spans, CLIENT, "led"));
    let [failed, answered] = attempts[..] else { panic!("{spans:#?}") };
    assert!([failed, answered].iter().all(|attempt| attempt.parent == request.id), "{spans:#?}");
    assert_holds(
        failed,
        &json!({
            "error.type": "502", "novastack.outcome": "failed", "novastack.attempt": 1, "novastack.route": "safe",
        }),
    );
    assert_holds(answered, &json!({ "novastack.outcome": "completed", "novastack.attempt": 2 }));
    assert_eq!((failed.status, answered.status), (2, 0));
    assert_eq!(
        (failed.name.as_str(), answered.name.as_str()),
        ("chat deepseek-upstream", "chat claude-upstream")
    );
    assert_eq!(request.name, "chat claude-opus-4.7");
    assert_holds(request, &json!({ "novastack.attempts": 2, "novastack.outcome": "completed" }));
    for (mock, attempt) in [(&openai, failed), (&anthropic, answered)] {
        let given = &mock.asked()[0].headers["traceparent"];
        assert_eq!(*given, format!("00-{}-{}-01", CALLER.0, attempt.id));
    }
    // A stream that breaks off is an error of the attempt and of the request.
    openai.once("deepseek-upstream", vec![Act::Send(stream_head()), Act::Send(begun_stream())]);
    assert_eq!(ask(&gateway, "broken", "/v1/chat/completions", &chat("deepseek-v4-pro", true)).await, 200);
    let spans = receiver.spans(5).await;
    for span in [of(&spans, SERVER, "broken")[0], of(&spans, CLIENT, "broken")[0]] {
        assert_holds(span, &json!({ "novastack.outcome": "failed" }));
        assert!(span.status == 2 && span.attributes["error.type"].is_string(), "{span:#?}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_its_spans() {
    let (openai, anthropic, receiver) =
        (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let gateway = start(&config(&receiver.url, &openai, &anthropic), &[]);
    let acts = vec![Act::Send(stream_head()), Act::Send(begun_stream()), Act::Hang];
    openai.once("deepseek-upstream", acts);
    let url = format!("{}/v1/chat/completions", gateway.server.url);
    let request = crate::support::client().post(url).json(&chat("deepseek-v4-pro", true));
    let mut gone = request.header("x-request-id", "gone").send().await.expect("a head");
    gone.chunk().await.expect("a piece");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(receiver.so_far().is_empty(), "they last as long as the stream does");
    drop(gone);
    let spans = receiver.spans(2).await;
    for span in [of(&spans, SERVER, "gone")[0], of(&spans, CLIENT, "gone")[0]] {
        assert_holds(span, &json!({ "novastack.outcome": "cancelled" }));
        assert_ne!(span.status, 2, "{span:#?}");
    }
    assert_holds(
        of(&spans, CLIENT, "gone")[0],
        &json!({ "gen_ai.usage.output_tokens": 1, "novastack.usage.estimated": true }),
    );
}

/// The caller decides for its trace, the configuration for those that begin here; the environment's
/// settings hold where the configuration has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_are_sampled() {
    let (openai, anthropic, receiver) =
        (Upstream::start().await, Upstream::start().await, Receiver::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("novastack.yaml"), fill(CONFIG, &openai, &anthropic)).unwrap();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-more=1"),
        ("OTEL_SERVICE_NAME", "by-environment"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ];
    let gateway = start_with(folder, &[], &environment);
    assert_eq!(gateway.chat("deepseek-v4-pro", false).await.status, 200);
    let unsampled = format!("00-{}-{}-00", CALLER.0, CALLER.1);
    let headers = [("traceparent", unsampled.as_str())];
    assert_eq!(
        gateway.post("/v1/chat/completions", &headers, &chat("deepseek-v4-pro", false)).await.status,
        200
    );
    assert_eq!(ask(&gateway, "wanted", "/v1/chat/completions", &chat("deepseek-v4-pro", false)).await, 200);
    // Everything that is to be sent has been when the program has ended.
    gateway.stop();
    let spans = receiver.so_far();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert_eq!((of(&spans, SERVER, "wanted").len(), of(&spans, CLIENT, "wanted").len()), (1, 1));
    assert!(receiver.resources().iter().all(|sender| sender["service.name"] == "by-environment"));
    assert!(receiver.headers().iter().all(|headers| headers["x-more"] == "1"));
    let asked = openai.asked();
    let given = |index: usize| asked[index].headers["traceparent"].clone();
    assert!(given(0).ends_with("-00") && !given(0).contains(CALLER.0), "{}", given(0));
    assert!(given(1).starts_with(&format!("00-{}-", CALLER.0)) && given(1).ends_with("-00"), "{}", given(1));
    assert!(given(2).ends_with("-01"), "{}", given(2));
}

/// A receiver that is away, or takes everything and says nothing, is nobody's business but the log's.
#[tokio::test]
async fn requests_go_on_without_a_receiver() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    for receiver in ["http://127.0.0.1:9", &silent.0] {
        let gateway = start(&config(receiver, &openai, &anthropic), &[]);
        for _ in 0..40 {
            assert_eq!(gateway.chat("deepseek-v4-pro", true).await.says(), TEXT);
        }
        // The program ends well all the same: `stop` says so.
        gateway.stop();
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("novastack.yaml"), fill(CONFIG, &openai, &anthropic)).unwrap();
    let path = folder.path().join("novastack.yaml").display().to_string();
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")];
    let told = crate::support::server::Server::try_start_with(&["--config", &path], &environment);
    let told = told.err().expect("it does not start");
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT must be http://"), "{told}");
}
