//! Templates that are made to bring a server down: each is an error of one request, in bounded time and
//! memory, and the program goes on.
//!
//! They run as they do in the server, in a process of their own. Run in this one, most of them would end
//! the test program.

use novastack::text::{ChatTemplate, Containment, RenderInput, Stop, TextError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of each.
const TIME_MAX: Duration = Duration::from_secs(4);

pub(super) fn containment() -> Containment {
    Containment::by(env!("CARGO_BIN_EXE_novastack"))
}

/// `before` so often, then `middle`, then `behind` so often.
fn nested(before: &str, middle: &str, behind: &str, times: usize) -> String {
    [before.repeat(times), middle.to_owned(), behind.repeat(times)].concat()
}

fn expression(before: &str, middle: &str, behind: &str, times: usize) -> String {
    format!("{{{{ {} }}}}", nested(before, middle, behind, times))
}

/// A variable that is changed again and again, then what is done with it.
fn repeated(times: usize, begin: &str, change: &str, end: &str) -> String {
    format!("{{% set ns = namespace(s={begin}) %}}{{% for i in range({times}) %}}{change}{{% endfor %}}{end}")
}

fn set(times: usize, begin: &str, value: &str, end: &str) -> String {
    repeated(times, begin, &format!("{{% set ns.s = {value} %}}"), end)
}

/// By what they do.
fn cases() -> Vec<(&'static str, String)> {
    const DEEP: usize = 200_000;
    let cyclic = |then: &str| format!("{{% set ns = namespace() %}}{{% set ns.a = [ns] %}}{then}");
    let two_cycles = |then: &str| {
        format!(
            "{{% set a = namespace() %}}{{% set b = namespace() %}}{{% set a.x = [b] %}}{{% set b.x = [a] %}}{then}"
        )
    };
    vec![
        // Deep expressions and blocks, at load.
        ("a sum", expression("", "1", "+1", DEEP)),
        ("a concatenation", expression("", "'a'", " ~ 'a'", DEEP)),
        ("a product", expression("", "1", "*1", DEEP)),
        ("powers", expression("1**", "1", "", DEEP)),
        ("negations", expression("not ", "true", "", DEEP)),
        ("minus signs", expression("-", "1", "", DEEP)),
        ("attributes", expression("", "messages", ".a", DEEP)),
        ("subscripts", expression("", "messages", "[0]", DEEP)),
        ("calls", expression("", "messages", "()", DEEP)),
        ("filters", expression("", "'a'", "|trim", DEEP)),
        ("tests", expression("", "1", " is defined", DEEP)),
        ("conjunctions", expression("", "1", " and 1", DEEP)),
        ("comparisons", expression("", "1", " < 2", DEEP)),
        ("conditions", expression("1 if 1 else ", "1", "", DEEP)),
        ("brackets", expression("(", "1", ")", DEEP)),
        ("lists", expression("[", "1", "]", DEEP)),
        ("dicts", expression("{'a':", "1", "}", DEEP)),
        ("blocks", nested("{% if 1 %}", "x", "{% endif %}", DEEP)),
        ("branches", format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(DEEP))),
        ("loops", nested("{% for a in [1] %}", "x", "{% endfor %}", DEEP)),
        ("scopes", nested("{% with %}", "x", "{% endwith %}", DEEP)),
        ("macros", nested("{% macro m() %}", "x", "{% endmacro %}", DEEP)),
        // Cyclic and deep values, at a request.
        ("a cycle is printed", cyclic("{{ ns }}")),
        ("a cycle in a list is printed", cyclic("{{ ns.a }}")),
        ("a cycle is a string", cyclic("{{ ns|string|length }}{{ [ns]|join }}")),
        ("a cycle is JSON", cyclic("{{ ns.a|tojson }}{{ ns|tojson }}")),
        ("cycles are compared", two_cycles("{{ a.x == b.x }}{{ a == b }}")),
        ("cycles are sorted", two_cycles("{{ [a.x, b.x]|sort }}")),
        ("a deep list is printed", set(90_000, "[]", "[ns.s]", "{{ ns.s }}")),
        ("a deep list is dropped", repeated(300, "[]", "{% for j in range(10000) %}{% set ns.s = [ns.s] %}{% endfor %}", "x")),
        ("a deep dict is printed", set(90_000, "{}", "{'a': ns.s}", "{{ ns.s|tojson }}")),
        ("a list of itself twice is printed", set(64, "[]", "[ns.s, ns.s]", "{{ ns.s }}")),
        ("a list of itself twice is compared", set(64, "[]", "[ns.s, ns.s]", "{% set t = ns.s %}{{ [t, 1] == [t, 2] }}")),
        ("a list of itself twice is JSON", set(64, "[]", "[ns.s, ns.s]", "{{ ns.s|tojson }}")),
        // Large values.
        ("doubled by ~", set(64, "'x'", "ns.s ~ ns.s", "x")),
        ("doubled by +", set(64, "'x'", "ns.s + ns.s", "x")),
        ("doubled by *", set(64, "'x'", "ns.s * 2", "x")),
        ("multiplied", "{{ 'x' * 1000000000 }}".into()),
        ("multiplied more", "{{ ('x' * 100000000000)|length }}".into()),
        ("a long list", "{{ ([1] * 10000000000)|length }}".into()),
        ("doubled by replace", set(64, "'x'", "ns.s|replace('x', 'xx')", "x")),
        ("doubled by join", set(64, "'x'", "[ns.s, ns.s]|join(ns.s)", "x")),
        ("doubled by a method", set(64, "'x'", "ns.s.replace('x', 'xx')", "x")),
        ("doubled by tojson", set(64, "'\"'", "ns.s|tojson", "x")),
        ("doubled by escape", set(64, "'&'", "(ns.s ~ '&')|escape|string", "x")),
        ("doubled by urlencode", set(64, "'%'", "ns.s|urlencode|urlencode", "x")),
        ("doubled by a capture", repeated(64, "'x'", "{% set y %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = y %}", "x")),
        ("doubled by a macro", format!("{{% macro m(s) %}}{{{{ s }}}}{{{{ s }}}}{{% endmacro %}}{}", set(64, "'x'", "m(ns.s)", "x"))),
        ("doubled lists", set(64, "[1]", "ns.s + ns.s", "x")),
        ("indented", "{{ ('x\n' * 100)|indent(1000000000) }}".into()),
        ("centred", "{{ 'x'|center(1000000000) }}".into()),
        ("a long range", "{{ range(1000000000)|list|length }}".into()),
        ("long slices", "{{ [1]|slice(1000000000)|list|length }}".into()),
        ("long batches", "{{ [1]|batch(1000000000, 'x')|list }}".into()),
        ("a wide format", "{{ '%1000000000000d'|format(1) }}".into()),
        ("a wide method", "{{ '{:1000000000000}'.format(1) }}{{ 'x'.ljust(1000000000000) }}".into()),
        ("a large power", "{{ 10 ** 10000000000 }}{{ 10 ** 100000000 ** 10000 }}".into()),
        // Recursion and time.
        ("a recursive macro", "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}".into()),
        ("macros in turn", "{% macro a(x) %}{{ caller_b(x) }}{% endmacro %}{% macro caller_b(x) %}{{ a(x) }}{% endmacro %}{{ a(1) }}".into()),
        ("a recursive call", "{% macro m() %}{% call m() %}x{% endcall %}{{ caller() }}{% endmacro %}{{ m() }}".into()),
        ("a recursive loop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into()),
        ("it includes itself", "{% include 'chat_template' %}".into()),
        ("it extends itself", "{% extends 'chat_template' %}".into()),
        ("it imports itself", "{% import 'chat_template' as m %}{{ m }}".into()),
        ("a block of itself", "{% block a %}{{ self.a() }}{% endblock %}".into()),
        ("loops in loops", "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}".into()),
        ("large copies", repeated(99_999, "'x' * 50000000", "{% set t = ns.s ~ i %}", "x")),
        ("searches", repeated(99_999, "'x' * 50000000", "{% if 'y' in ns.s %}{% endif %}", "x")),
    ]
}

fn input() -> RenderInput {
    RenderInput { messages: vec![json!({"role": "user", "content": "x"})], ..Default::default() }
}

fn render(source: &str, input: &RenderInput) -> Result<String, TextError> {
    let within = Arc::new(Stop::after(TIME_MAX));
    within.run(|| ChatTemplate::new_contained(source, &json!({}), &containment())?.render(input))
}

/// Point 11, templates.
#[test]
fn a_hostile_template_is_one_requests_error() {
    let cases = cases();
    assert!(cases.len() >= 60);
    let mut died = [0; 4];
    for (what, source) in &cases {
        let start = Instant::now();
        let rendered = render(source, &input());
        let took = start.elapsed();
        let told = match &rendered {
            Ok(text) => format!("{} bytes", text.len()),
            Err(error) => error.to_string().chars().take(160).collect(),
        };
        eprintln!("{what}: {told} ({took:?})");
        assert!(took < TIME_MAX + Duration::from_secs(4), "{what} took {took:?}");
        // The library itself is right about some, in little time and memory.
        if let Ok(text) = &rendered {
            assert!(text.len() < 64 << 20, "{what}");
        }
        const WORDS: [&str; 4] =
            ["MiB of memory", "nested too deeply", "far more than its messages", "longer than 4 seconds"];
        for (count, words) in died.iter_mut().zip(WORDS) {
            *count += usize::from(told.contains(words));
        }
        assert!(!told.contains("its process ended"), "{what} died of something that has no name: {told}");
    }
    // Which of them a template meets first is the machine's matter.
    assert!(died.iter().all(|count| *count >= 1), "memory, depth, copies and time are all bounded: {died:?}");
    assert_eq!(render("{{ messages[0].content }}", &input()).expect("a good template"), "x");
}

/// The templates of DeepSeek V3 and R1 copy all system messages for each of them.
#[test]
fn a_template_that_is_quadratic_in_the_messages_ends_in_time() {
    let source = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = ns.s + m.content %}{% endfor %}\
                  {{ ns.s|length }}";
    let message = json!({"role": "system", "content": "x".repeat(300)});
    let input = |count| RenderInput { messages: vec![message.clone(); count], ..Default::default() };
    assert_eq!(render(source, &input(200)).expect("a usual conversation"), "60000");
    // A long conversation, whose system messages are as many as its turns.
    assert_eq!(render(source, &input(2_000)).expect("1.2 GB are copied"), "600000");
    let start = Instant::now();
    let error = render(source, &input(40_000)).expect_err("480 GB are copied");
    eprintln!("{error} ({:?})", start.elapsed());
    assert!(error.to_string().contains("far more than its messages"), "{error}");
}

/// Also what transformers' messages and options are made of goes through the pipe unchanged.
#[test]
fn a_contained_template_renders_as_one_in_the_process() {
    let source = "{{ messages }}{{ n }}{{ wide }}{{ f }}{{ strftime_now('%Y-%m-%d') }}{{ bos_token }}{{ tools is none }}";
    let config = json!({"bos_token": "<s>"});
    let here = ChatTemplate::new(source, &config).expect("a template");
    let there = ChatTemplate::new_contained(source, &config, &containment()).expect("a template");
    let extra: Value = serde_json::from_str(
        r#"{"n": -7, "wide": 123456789012345678901234567890123456789012345, "f": 1e-7, "b": "\u0000\ud83d\ude00"}"#,
    )
    .expect("JSON");
    let messages =
        json!([{"role": "user", "content": "h\u{e9}\n\"'"}, {"role": "x", "a": {"z": 1, "b": [true, 2.0]}}]);
    let input = RenderInput {
        messages: messages.as_array().expect("a list").clone(),
        extra: extra.as_object().expect("an object").clone(),
        ..Default::default()
    };
    let now = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for _ in 0..3 {
        assert_eq!(
            there.render_at(&input, now).expect("rendered"),
            here.render_at(&input, now).expect("rendered")
        );
    }
    assert!(there.reads("messages") && there.reads("n") && !there.reads("nothing"));
    let error = ChatTemplate::new_contained("{% if %}", &config, &containment()).expect_err("a mistake");
    assert!(matches!(&error, TextError::Template(reason) if reason.contains("chat_template:1")), "{error}");

    let start = Instant::now();
    (0..200).for_each(|_| drop(there.render_at(&input, now)));
    let each = start.elapsed() / 200;
    eprintln!("{each:?} a render");
    assert!(each < Duration::from_millis(5), "{each:?}");
}
