//! Upstreams that leave their reasoning in the text.

use super::{Answer, Gateway, chat, fill, message, start};
use crate::support::upstream::{Act, Upstream, answer, raw};
use serde_json::{Value, json};

const CONFIG: &str = "
providers: { up: { format: openai, base_url: @OPENAI/v1 } }
models:
  plain: { provider: up }
  open: { provider: up, think_tags: open }
  keep: { provider: up, think_tags: keep }
";

fn streamed(text: &str) -> Vec<Act> {
    let choice = |delta: Value, reason: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        format!("data: {}\n\n", json!({ "id": "x", "created": 1, "model": "m", "choices": [choice] }))
    };
    let letters =
        text.split_inclusive(|_| true).map(|letter| choice(json!({ "content": letter }), Value::Null));
    let begin = choice(json!({ "role": "assistant", "content": "" }), Value::Null);
    let all: String = [begin].into_iter().chain(letters).chain([choice(json!({}), json!("stop"))]).collect();
    vec![Act::Send(raw("200 OK", "content-type: text/event-stream\r\n", &(all + "data: [DONE]\n\n")))]
}

fn whole(text: &str) -> Vec<Act> {
    let message = json!({ "role": "assistant", "content": text });
    let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
    vec![Act::Send(answer("200 OK", &json!({ "id": "x", "created": 1, "model": "m", "choices": [choice] })))]
}

async fn ask(gateway: &Gateway, path: &str, model: &str, stream: bool) -> Answer {
    let body = match path {
        "/v1/responses" => json!({ "model": model, "stream": stream, "input": "2+2?" }),
        "/v1/messages" => message(model, stream),
        _ => chat(model, stream),
    };
    gateway.post(path, &[], &body).await
}

/// An answer's reasoning and text, in any format.
fn said(path: &str, stream: bool, answer: &Answer) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let joined =
        |pick: fn(&Value) -> &Value| answer.data().iter().map(|data| text(pick(data))).collect::<String>();
    match (path, stream) {
        ("/v1/chat/completions", true) => (
            joined(|data| &data["choices"][0]["delta"]["reasoning_content"]),
            joined(|data| &data["choices"][0]["delta"]["content"]),
        ),
        ("/v1/chat/completions", false) => {
            let message = &answer.json()["choices"][0]["message"];
            (text(&message["reasoning_content"]), text(&message["content"]))
        }
        ("/v1/messages", true) => {
            (joined(|data| &data["delta"]["thinking"]), joined(|data| &data["delta"]["text"]))
        }
        ("/v1/messages", false) => {
            let content = &answer.json()["content"];
            let of = |kind: &str, field: &str| {
                let blocks = content.as_array().expect("blocks").iter();
                blocks.filter(|block| block["type"] == kind).map(|block| text(&block[field])).collect()
            };
            (of("thinking", "thinking"), of("text", "text"))
        }
        _ => {
            let last = match stream {
                true => answer.data().pop().expect("an event")["response"].clone(),
                false => answer.json(),
            };
            let of = |kind: &str, part: &str| {
                let items = last["output"].as_array().expect("items").iter();
                let items = items.filter(|item| item["type"] == kind);
                items.map(|item| text(&item[part][0]["text"])).collect::<String>()
            };
            let reasoning = of("reasoning", "content");
            let reasoning = if reasoning.is_empty() { of("reasoning", "summary") } else { reasoning };
            (reasoning, of("message", "content"))
        }
    }
}

#[tokio::test]
async fn think_text_of_upstreams_is_split_off_for_callers_of_every_format() {
    let upstream = Upstream::start().await;
    let gateway = start(&fill(CONFIG, &upstream, &upstream), &[]);
    for (model, text, reasoning, rest) in [
        ("plain", "<think>\nIt is 4.\n</think>\n\n2+2=4", "It is 4.", "2+2=4"),
        ("plain", "As in <think>x</think>", "", "As in <think>x</think>"),
        ("open", "It is 4.</think>4", "It is 4.", "4"),
        ("keep", "<think>It is 4.</think>4", "", "<think>It is 4.</think>4"),
    ] {
        for path in ["/v1/chat/completions", "/v1/messages", "/v1/responses"] {
            for stream in [true, false] {
                // A whole answer in a stream's place is told as one.
                for acts in if stream { vec![streamed(text), whole(text)] } else { vec![whole(text)] } {
                    upstream.once(model, acts);
                    let answer = ask(&gateway, path, model, stream).await;
                    let what = format!("{model} {path} {stream}: {}", answer.text);
                    assert_eq!(answer.status, 200, "{what}");
                    assert_eq!(
                        said(path, stream, &answer),
                        (reasoning.to_owned(), rest.to_owned()),
                        "{what}"
                    );
                }
            }
        }
    }
}
