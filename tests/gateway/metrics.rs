//! What Prometheus sees of the gateway.

use super::{CONFIG, fill, start};
use crate::support::upstream::{Act, Upstream, answer};
use serde_json::json;

#[tokio::test]
async fn the_gateway_is_measured() {
    let (openai, anthropic) = (Upstream::start().await, Upstream::start().await);
    let config = "server: { store: \"sqlite:usage.db\", access_log: access.jsonl }\n".to_owned()
        + &fill(CONFIG, &openai, &anthropic)
            .replace("capabilities: [images, tools]", "limits: { requests_per_minute: 3 }")
        + "limits: { requests_per_minute: 9 }\n";
    let gateway = start(&config, &[]);
    assert_eq!(gateway.chat("deepseek-v4-pro", true).await.status, 200);
    openai.once("deepseek-upstream", vec![Act::Hang]);
    let under_way = async {
        loop {
            let (_, text) = gateway.server.get("/metrics").await;
            let both = [
                "novastack_requests_in_flight 1",
                r#"novastack_upstream_in_flight{model="deepseek-v4-pro",provider="open"} 1"#,
            ];
            if both.iter().all(|line| text.contains(line)) {
                return;
            }
        }
    };
    tokio::select! {
        told = gateway.chat("deepseek-v4-pro", true) => panic!("nothing answers: {}", told.text),
        () = under_way => {}
    }
    // Five failures in a row: it is left alone.
    openai.always("deepseek-upstream", vec![Act::Send(answer("500 Oops", &json!({})))]);
    for _ in 0..2 {
        assert!(gateway.chat("deepseek-v4-pro", false).await.status >= 500);
    }
    // The model's limit of three, then the key's.
    for _ in 0..5 {
        gateway.chat("claude-opus-4.7", false).await;
    }
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(gateway.chat("claude-opus-4.7", false).await.status);
    }
    assert_eq!(told, [429, 429]);
    let (status, text) = gateway.server.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        r#"novastack_requests_total{route="/v1/chat/completions",model="deepseek-v4-pro",status="200"} 1"#,
        r#"novastack_requests_total{route="/v1/chat/completions",model="",status="429"} 2"#,
        r#"novastack_attempts_total{model="deepseek-v4-pro",provider="open",outcome="completed"} 1"#,
        r#"novastack_attempts_total{model="deepseek-v4-pro",provider="open",outcome="failed"} 5"#,
        r#"novastack_attempt_tokens_total{model="deepseek-v4-pro",provider="open",direction="output"} 5"#,
        r#"novastack_cost_dollars_total{model="deepseek-v4-pro",provider="open"}"#,
        r#"novastack_attempt_first_token_seconds_count{model="deepseek-v4-pro",provider="open"} 1"#,
        r#"novastack_upstream_breaker_open{model="deepseek-v4-pro",provider="open"} 1"#,
        r#"novastack_upstream_breaker_open{model="claude-opus-4.7",provider="anth"} 0"#,
        r#"novastack_upstream_limit{model="deepseek-v4-pro",provider="open"} 256"#,
        r#"novastack_upstream_in_flight{model="deepseek-v4-pro",provider="open"} 0"#,
        r#"novastack_upstream_resting{model="deepseek-v4-pro",provider="open"} 0"#,
        r#"novastack_limit_refusals_total{holder="model",limit="requests_per_minute"} 2"#,
        r#"novastack_limit_refusals_total{holder="key",limit="requests_per_minute"} 2"#,
        "novastack_requests_in_flight ",
        "novastack_store_queue ",
        "novastack_store_lost_records_total 0",
        "novastack_access_log_lost_lines_total 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("trace_spans"), "nobody traces");
    assert!(!text.contains("# EOF"), "nobody has asked for OpenMetrics");
}
