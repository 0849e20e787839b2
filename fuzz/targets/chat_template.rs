//! A stranger's chat template: compiled, and rendered with a conversation that has tools.
#![no_main]

#[path = "../text_process.rs"]
mod text_process;

use libfuzzer_sys::fuzz_target;
use novastack::text::{ChatTemplate, Containment, RenderInput};
use serde_json::json;

fuzz_target!(init: text_process::begin(), |source: &str| {
    let containment = Containment::by_this_program();
    let special = json!({ "eos_token": "<|im_end|>" });
    let Ok(template) = ChatTemplate::new_contained(source, &special, &containment) else { return };
    let call =
        json!({ "id": "c1", "type": "function", "function": { "name": "f", "arguments": { "x": 1 } } });
    let input = RenderInput {
        messages: vec![
            json!({ "role": "system", "content": "Be brief." }),
            json!({ "role": "user", "content": "Hello" }),
            json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
            json!({ "role": "tool", "tool_call_id": "c1", "content": "7" }),
        ],
        tools: vec![json!({ "type": "function", "function": { "name": "f", "parameters": {} } })],
        add_generation_prompt: true,
        ..RenderInput::default()
    };
    let _ = template.render(&input);
});
