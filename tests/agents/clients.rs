//! Agents' own programs against a scripted model: each reads two files in parallel, edits one, runs a command and says
//! that it is done. What they send and how they read answers is theirs; no request of theirs may fail.
//!
//! `scripts/fetch_agents.sh` installs them; where they are not there these tests skip themselves.

use super::programs::{
    Agent, CLAUDE_CODE, CODEX, CONTINUE, DONE, OPENCODE, QWEN_CODE, check_requests, workplace,
};
use super::scripted::{Script, serve};
use super::{family, post};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// What a local model writes, by how many results it has seen.
fn script(folder: PathBuf, agent: &'static Agent) -> Script {
    Arc::new(move |prompt| {
        let Some(at) = prompt.find("Task 7F3A").filter(|_| prompt.contains("<tools>")) else {
            return "Two files".to_owned();
        };
        let results = prompt[at..].matches("<tool_response>").count();
        let Some((text, calls)) = agent.step(results, &folder) else {
            return format!("<think>\nThat was it.\n</think>\n\n{DONE}");
        };
        let calls = (calls.iter())
            .map(|(name, arguments)| {
                let call = json!({"name": name, "arguments": arguments});
                format!("\n<tool_call>\n{call}\n</tool_call>")
            })
            .collect::<String>();
        format!("<think>\nWhat is next?\n</think>\n\n{text}{calls}")
    })
}

async fn does_the_task(agent: &'static Agent) {
    let folder = workplace();
    let Some(command) = agent.program() else { return };
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let served = serve(tokenizer, template, script(folder.path().join("work"), agent)).await;
    let told = agent.run(command, &served.url, folder.path()).await;
    check_requests(&served.url, &told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_does_a_task() {
    does_the_task(&CLAUDE_CODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_does_a_task() {
    does_the_task(&CODEX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_does_a_task() {
    does_the_task(&OPENCODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qwen_code_does_a_task() {
    does_the_task(&QWEN_CODE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continues_command_line_does_a_task() {
    does_the_task(&CONTINUE).await;
}

#[tokio::test]
async fn a_response_is_gone_on_from_by_its_id() {
    let Some((tokenizer, template)) = family("qwen3") else { return };
    let script: Script = Arc::new(|prompt| format!("{} turns", prompt.matches("<|im_start|>user").count()));
    let served = serve(tokenizer, template, script).await;
    let (status, text) = post(&served.url, "/v1/responses", &json!({"model": "m", "input": "Hello."})).await;
    assert_eq!(status, 200, "{text}");
    let first: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(first["output"][0]["content"][0]["text"], "1 turns", "{text}");
    let more = json!({"model": "m", "input": "And?", "previous_response_id": first["id"], "store": false});
    let (status, text) = post(&served.url, "/v1/responses", &more).await;
    assert_eq!(status, 200, "{text}");
    let second: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(second["output"][0]["content"][0]["text"], "2 turns", "{text}");
    let client = crate::support::client();
    let get = async |id: &Value| {
        let url = format!("{}/v1/responses/{}", served.url, id.as_str().expect("an id"));
        client.get(url).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((get(&first["id"]).await, get(&second["id"]).await), (200, 404));
    let url = format!("{}/v1/responses/{}", served.url, first["id"].as_str().expect("an id"));
    assert_eq!(client.delete(url).send().await.expect("an answer").status().as_u16(), 200);
    assert_eq!(get(&first["id"]).await, 404);
    let (status, text) = post(&served.url, "/v1/responses", &more).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("previous_response_id"), "{text}");
}
