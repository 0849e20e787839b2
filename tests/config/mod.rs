//! `novastack.yaml`: the examples load and mean what they say, and mistakes are told.

mod expressions;
mod mistakes;
mod program;
mod random;

use novastack::config::{
    AccessLog, BodyRules, Capabilities, Choice, Compat, Config, ConfigErrors, Continues, Facts, Format,
    KeySource, MaxTokens, PastReasoning, Rates, ReasoningSwitch, SharedLimits, Store, Surroundings, Target,
    Telemetry, ThinkTags,
};
use std::path::Path;
use std::time::Duration;

const EXAMPLE: &str = include_str!("novastack.yaml");
const ROUTES_IF: &str = include_str!("routes-if.yaml");
const ROUTES_MATCH: &str = include_str!("routes-match.yaml");

/// Where every variable is set and every file exists.
fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let surroundings = Surroundings { variable_bytes: &|_| 32, exists: &|_| true };
    Config::parse_in(text, "f.yaml", Path::new("/etc/nova"), &surroundings)
}

/// Where nothing is set and nothing exists.
fn parse_bare(text: &str) -> Result<Config, ConfigErrors> {
    let surroundings = Surroundings { variable_bytes: &|_| 0, exists: &|_| false };
    Config::parse_in(text, "f.yaml", Path::new("/etc/nova"), &surroundings)
}

fn ok(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// What the first matching rule chooses.
fn chosen(config: &Config, facts: &Facts) -> Option<Choice> {
    config.first_rule(&mut facts.clone(), |_| facts.context_length).map(|rule| rule.choice.clone())
}

fn one(name: &str) -> Option<Choice> {
    Some(Choice::Model(name.into()))
}

#[test]
fn the_example_is_read() {
    let config = ok(EXAMPLE);
    assert_eq!(config.server.port, Some(8000));
    assert_eq!(config.server.host, Some("127.0.0.1".parse().expect("an address")));
    assert_eq!(config.server.store, Some(Store::Sqlite("/etc/nova/novastack.db".into())));
    assert_eq!(config.server.shared_limits, SharedLimits::Memory);
    assert_eq!(config.server.admin_key_env.as_deref(), Some("NOVASTACK_ADMIN_KEY"));

    let moonshot = &config.providers["moonshot"];
    assert_eq!((moonshot.format, moonshot.concurrency_max), (Format::OpenAi, 64));
    assert_eq!(moonshot.base_url, "https://api.moonshot.ai/v1");
    assert_eq!(moonshot.api_key, KeySource::Env("MOONSHOT_API_KEY".into()));
    assert_eq!(config.providers["anthropic"].format, Format::Anthropic);
    let spare = &config.providers["spare"];
    assert_eq!((spare.timeout, spare.continues), (Duration::from_secs(120), Some(Continues::Prefill)));
    assert_eq!((spare.headers["x-team"].as_str(), &spare.api_key), ("search", &KeySource::None));

    let names: Vec<&str> = config.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["qwen3-235b", "deepseek-v4-pro", "kimi-2.6", "minimax-2.7", "claude-opus-4.7"]);
    let Target::Local(local) = &config.models[0].target else { panic!("{:?}", config.models[0]) };
    assert_eq!(local.source, "Qwen/Qwen3-235B-A22B");
    assert_eq!(local.device.as_deref(), Some("hip:0,1,2,3,4,5,6,7"));
    assert_eq!((local.max_context, local.replicas), (Some(131_072), 1));
    assert_eq!(local.rope_scaling, Some(serde_json::json!({ "type": "yarn", "factor": 4 })));
    assert_eq!(config.models[0].capabilities, Capabilities { tools: true, images: false, reasoning: true });
    let deepseek = config.models[1].price.as_ref().expect("a price");
    assert_eq!(
        (deepseek.rates.input, deepseek.rates.output, deepseek.rates.cached_input),
        (0.48, 0.48, Some(0.05))
    );
    let upstream = Target::Upstream {
        provider: "anthropic".into(),
        upstream_name: "claude-opus-4-7".into(),
        body: BodyRules::default(),
        think_tags: ThinkTags::Auto,
    };
    assert_eq!(config.models[4].target, upstream);

    assert_eq!(config.aliases["gpt-4o"], "auto");
    assert_eq!(config.aliases["qwen3-235b-a22b"], "qwen3-235b");
    assert_eq!(config.fallbacks["qwen3-235b"], ["deepseek-v4-pro", "kimi-2.6"]);
    assert_eq!(config.limits.tokens_per_minute, Some(400_000));
    assert_eq!(config.limits.dollars_per_month, Some(50.0));
    let ci = &config.keys["ci"];
    assert_eq!((ci.sha256[0], ci.sha256[31], ci.credit), (0xfe, 0xd8, Some(50.0)));
    assert_eq!(ci.models.as_deref(), Some(&["auto".to_owned(), "qwen3-235b".to_owned()][..]));
    assert_eq!(ci.limits.expect("limits").requests_per_minute, Some(60));
    let cheap = ["deepseek-v4-pro", "minimax-2.7", "qwen3-235b"].map(String::from).to_vec();
    assert_eq!(config.named_routes["cheap"], Choice::Cheapest(cheap));
    assert_eq!(config.named_routes["long"], Choice::Chain(vec!["kimi-2.6".into(), "qwen3-235b".into()]));
    assert_eq!(config.header_names(), ["x-forwarded-to"]);
}

#[test]
fn the_examples_rules_choose_as_written() {
    let config = ok(EXAMPLE);
    let facts = Facts::default;
    assert_eq!(config.routes.len(), 8);
    assert_eq!(
        config.routes[0].line,
        EXAMPLE.lines().position(|l| l.contains("> 80000")).expect("a rule") + 1
    );
    assert_eq!(chosen(&config, &Facts { context_length: 80_001, ..facts() }), one("kimi-2.6"));
    assert_eq!(chosen(&config, &Facts { context_length: 80_000, ..facts() }), one("deepseek-v4-pro"));
    assert_eq!(chosen(&config, &Facts { task: "reasoning".into(), ..facts() }), one("qwen3-235b"));
    let headers = vec![("x-forwarded-to".to_owned(), "claude".to_owned())];
    assert_eq!(chosen(&config, &Facts { headers, ..facts() }), one("claude-opus-4.7"));
    let images = ["minimax-2.7", "kimi-2.6", "claude-opus-4.7"].map(String::from).to_vec();
    assert_eq!(chosen(&config, &Facts { images: 2, ..facts() }), Some(Choice::Cheapest(images)));
    let split = Choice::Split(vec![("qwen3-235b".into(), 90), ("deepseek-v4-pro".into(), 10)]);
    assert_eq!(chosen(&config, &Facts { task: "chat".into(), ..facts() }), Some(split));
    assert_eq!(config.routes[2].fallback, ["qwen3-235b"]);
}

#[test]
fn both_spellings_are_the_same_rules() {
    let by_if = ok(ROUTES_IF);
    let facts = |task: &str, context_length, budget| Facts {
        task: task.into(),
        context_length,
        budget,
        ..Facts::default()
    };
    assert_eq!(chosen(&by_if, &facts("long_document_qa", 100_001, None)), one("kimi-2.6"));
    assert_eq!(by_if.routes[0].fallback, ["qwen3-235b"]);
    assert_eq!(chosen(&by_if, &facts("reasoning", 0, Some(0.0004))), one("deepseek-v4-pro"));
    assert_eq!(chosen(&by_if, &facts("reasoning", 0, Some(0.0005))), None);
    assert_eq!(chosen(&by_if, &facts("reasoning", 0, None)), None, "no budget is no small budget");

    let by_match = ok(ROUTES_MATCH);
    assert_eq!(chosen(&by_match, &facts("reasoning", 0, None)), one("qwen3-235b"));
    assert_eq!(chosen(&by_match, &facts("", 0, None)), one("deepseek-v4-pro"));
    // Without `upstream_name`, a model is called by its own name.
    let Target::Upstream { upstream_name, .. } = &by_match.models[0].target else { panic!("upstream") };
    assert_eq!(upstream_name, "kimi-2.6");

    let swap =
        |text: &str| text.replace("match:", "if:").replace("model:", "use:").replace("routes:", "route:");
    let swapped = ok(&swap(ROUTES_MATCH));
    for (one, other) in by_match.routes.iter().zip(&swapped.routes) {
        assert_eq!((&one.choice, one.line), (&other.choice, other.line));
    }
}

#[test]
fn every_preset_is_whole_and_can_be_overridden() {
    let presets = [
        "deepseek",
        "qwen",
        "dashscope",
        "moonshot",
        "minimax",
        "anthropic",
        "openai",
        "openrouter",
        "vllm",
        "sglang",
        "llama-server",
        "novastack",
    ];
    for preset in presets {
        let text =
            format!("providers: {{ p: {{ preset: {preset} }} }}\nmodels: {{ m: {{ provider: p }} }}\n");
        let provider = ok(&text).providers["p"].clone();
        let is_own = ["vllm", "sglang", "llama-server", "novastack"].contains(&preset);
        assert_eq!(provider.api_key == KeySource::None, is_own, "{preset}");
        assert!(
            provider.base_url.starts_with(if is_own { "http://127.0.0.1:" } else { "https://" }),
            "{preset}"
        );
        let text = text.replace(
            &format!("preset: {preset}"),
            &format!(
                "preset: {preset}, format: anthropic, base_url: \"https://h:8/x/\", api_key_file: k, timeout_s: 0.5"
            ),
        );
        let provider = ok(&text).providers["p"].clone();
        assert_eq!((provider.format, provider.base_url.as_str()), (Format::Anthropic, "https://h:8/x"));
        assert_eq!(provider.api_key, KeySource::File("/etc/nova/k".into()));
        assert_eq!(provider.timeout, Duration::from_millis(500));
    }
    let text = "providers: { p: { preset: openai, api_key_env: } }\nmodels: { m: { provider: p } }\n";
    assert_eq!(ok(text).providers["p"].api_key, KeySource::None);
}

/// Anthropic's multiples of the price of a prompt's tokens hold where nothing else is said.
#[test]
fn writing_to_a_cache_has_a_price() {
    let config = parse(
        "
providers:
  anth: { format: anthropic, base_url: \"http://127.0.0.1:9\" }
  open: { format: openai, base_url: \"http://127.0.0.1:9/v1\" }
models:
  told: { provider: anth, price: { input: 4, output: 20, cache_write: 6, cache_write_1h: 9 } }
  untold: { provider: anth, price: { input: 4, output: 20, tiers: [{ above: 9, input: 8, output: 30 }] } }
  other: { provider: open, price: { input: 4, output: 20 } }
",
    );
    let config = config.expect("valid");
    let rates = |at: usize| config.models[at].price.as_ref().expect("a price").rates;
    let writes = |rates: Rates| (rates.cache_write, rates.cache_write_1h);
    assert_eq!(writes(rates(0)), (Some(6.0), Some(9.0)));
    assert_eq!(writes(rates(1)), (Some(5.0), Some(8.0)));
    let tiers = &config.models[1].price.as_ref().expect("a price").tiers;
    assert_eq!(writes(tiers[0].rates), (Some(10.0), Some(16.0)));
    assert_eq!(writes(rates(2)), (None, None));
}

#[test]
fn prices_keys_and_replicas() {
    let config = ok(r#"
providers: { up: { preset: openai } }
models:
  a: { provider: up, price: { input: 1, output: 2, tiers: [{ above: 200000, input: 2, output: 3.5, cached_input: 0.2 }] } }
  b: { provider: up, capabilities: [], limits: { concurrency: 3 }, hedge_after_s: 1.5 }
  c: { source: ./m.gguf, replicas: 2, max_running: 8, device: cpu }
aliases: { short: long-name, long-name: b }
prices:
  short: { input: 0, output: 1e-3 }
named_routes: { x: { split: { y: 1, a: 3 } }, y: [c, short], z: cheapest, w: { cheapest: all } }
routes:
  - { match: model == "p", use: short, fallback: [x, a] }
  - default: [a, y]
"#);
    let price = config.models[0].price.as_ref().expect("a price");
    assert_eq!((price.tiers[0].above_input_tokens, price.tiers[0].rates.cached_input), (200_000, Some(0.2)));
    assert_eq!(config.models[1].price.as_ref().expect("a price").rates.output, 0.001);
    assert_eq!(config.models[1].capabilities, Capabilities::default());
    assert_eq!(config.models[1].limits.concurrency, Some(3));
    assert_eq!(config.models[1].hedge_after, Some(Duration::from_millis(1500)));
    assert_eq!(config.models[0].hedge_after, None);
    assert_eq!(config.models[0].capabilities, Capabilities { tools: true, images: true, reasoning: true });
    assert!(!config.models[2].capabilities.images);
    let Target::Local(local) = &config.models[2].target else { panic!("local") };
    assert_eq!((local.replicas, local.max_running), (2, Some(8)));
    assert_eq!(Path::new(&local.source), Path::new("/etc/nova/./m.gguf"));
    assert_eq!(config.aliases["short"], "b", "chains of aliases are followed");
    assert_eq!(config.routes[0].choice, Choice::Model("b".into()), "so are those of rules");
    assert_eq!(config.routes[0].fallback, ["x", "a"]);
    assert_eq!(config.routes[1].choice, Choice::Chain(vec!["a".into(), "y".into()]));
    assert_eq!(config.named_routes["y"], Choice::Chain(vec!["c".into(), "b".into()]));
    assert_eq!(config.named_routes["z"], Choice::Cheapest(vec![]));
    assert_eq!(config.named_routes["w"], Choice::Cheapest(vec![]));
}

#[test]
fn anchors_and_numbers_as_names() {
    let config =
        ok("providers: { up: { preset: vllm, base_url: http://h/v1 } }\nmodels:\n  1.5: &m { provider: up, \
                     context: 7 }\n  on: *m\n");
    assert_eq!(config.models[0].name, "1.5");
    assert_eq!((config.models[1].name.as_str(), config.models[1].context), ("on", Some(7)));
}

#[test]
fn warnings_are_no_errors() {
    let warnings = parse_bare(EXAMPLE).expect("valid").warnings;
    for words in [
        "f.yaml:5: the environment variable NOVASTACK_ADMIN_KEY is not set",
        "provider `deepseek`: the environment variable DEEPSEEK_API_KEY",
        "provider `spare`: no model uses it",
    ] {
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{words}: {warnings:?}");
    }
    assert_eq!(ok(EXAMPLE).warnings.len(), 1, "{:?}", ok(EXAMPLE).warnings);

    let text = "
server: { port: 9000 }
providers:
  far: { format: openai, base_url: http://example.org/v1, api_key_file: k.txt }
  near: { format: anthropic, base_url: http://127.0.0.1:9000/v1 }
models:
  a: { provider: far }
  b: { provider: near, hedge_after_s: 2 }
  c: { source: ./gone }
aliases: { gpt-4o: auto }
keys: { ci: { sha256: fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8, models: [auto] } }
";
    let warnings = parse_bare(text).expect("valid").warnings.join("\n");
    for words in [
        "f.yaml:4: provider `far`: its key travels unencrypted",
        "f.yaml:4: provider `far`: the file `/etc/nova/k.txt` with its key does not exist",
        "f.yaml:5: provider `near`: `/v1/messages` is appended",
        "f.yaml:5: provider `near`: http://127.0.0.1:9000/v1 is where this server itself listens",
        "f.yaml:8: model `b` has `hedge_after_s`, and no fallback to be asked beside it",
        "f.yaml:9: model `c`: its source `./gone` does not exist",
        "f.yaml:10: alias `gpt-4o` stands for `auto`, and there are no `routes`",
        "f.yaml:11: key `ci` may ask for `auto`, and there are no `routes`",
    ] {
        assert!(warnings.contains(words), "{words}\n{warnings}");
    }
    // With one, in either place, there is nothing to say.
    for more in [
        "fallbacks: { b: [a] }",
        "routes: [{ if: images > 0, use: b, fallback: [a] }]",
        "named_routes: { r: [b, a] }",
    ] {
        let warnings = parse_bare(&format!("{text}{more}\n")).expect("valid").warnings.join("\n");
        assert!(!warnings.contains("hedge_after_s"), "{more}\n{warnings}");
    }
}

#[test]
fn what_is_told_of_requests() {
    let rest = "models: { m: { source: a/b } }\n";
    let server = |text: &str| ok(&format!("server: {text}\n{rest}")).server;
    assert_eq!(server("{}").telemetry, Telemetry::default());
    assert_eq!(server("{}").access_log, None);
    let told = server(
        "{ telemetry: { otlp_endpoint: \"https://otel.example.org/base/\", headers: { X-Team: search }, \
         headers_env: OTLP_KEYS, sample: 0.1, service_name: gate }, access_log: logs/access.jsonl }",
    );
    let telemetry = Telemetry {
        otlp_endpoint: Some("https://otel.example.org/base".into()),
        headers: [("x-team".to_owned(), "search".to_owned())].into(),
        headers_env: Some("OTLP_KEYS".into()),
        sample: Some(0.1),
        service_name: Some("gate".into()),
    };
    assert_eq!(told.telemetry, telemetry);
    assert_eq!(told.access_log, Some(AccessLog::File("/etc/nova/logs/access.jsonl".into())));
    assert_eq!(server("{ access_log: stdout }").access_log, Some(AccessLog::Stdout));
    assert_eq!(server("{ access_log: stderr }").access_log, Some(AccessLog::Stderr));
    let text =
        "server: { telemetry: { otlp_endpoint: http://far:4318, headers_env: NOT_SET } }\n".to_owned() + rest;
    let warnings = parse_bare(&text).expect("valid").warnings.join("\n");
    for words in ["f.yaml:1: the environment variable NOT_SET is not set: no headers", "travel unencrypted"] {
        assert!(warnings.contains(words), "{words}\n{warnings}");
    }
}

#[test]
fn the_documented_example_runs_as_it_stands() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/novastack.example.yaml");
    let text = std::fs::read_to_string(&path).expect("the example");
    // Nothing is set and nothing exists: it needs no keys and no files.
    let config = parse_bare(&text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.warnings, Vec::<String>::new());
    assert!(
        matches!(&config.models[0].target, Target::Local(local) if local.source == "smollm2-135m-instruct")
    );
    assert!(config.first_rule(&mut Facts::default(), |_| 0).is_some(), "`auto` is answered");

    // So do the examples in docs/config.md.
    let guide = include_str!("../../docs/config.md");
    let whole: Vec<&str> =
        guide.split("```yaml\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    let whole: Vec<&&str> = whole.iter().filter(|text| text.contains("models:")).collect();
    assert!(!whole.is_empty());
    whole.iter().for_each(|text| drop(ok(text)));
}

/// How providers' formats differ: a preset's ways, and what the file says over them.
#[test]
fn compat_is_a_presets_and_the_files() {
    let of = |provider: &str| {
        let config = ok(&format!("providers: {{ p: {provider} }}\nmodels: {{ m: {{ provider: p }} }}"));
        (config.providers["p"].compat.clone(), config.warnings)
    };
    let plain = of("{ format: openai, base_url: \"https://x.org/v1\" }").0;
    assert_eq!(plain, Compat::default());
    assert!(plain.stream_usage && plain.developer_role && plain.top_k);
    let deepseek = of("{ preset: deepseek }").0;
    assert_eq!((deepseek.max_tokens, deepseek.reasoning), (MaxTokens::MaxTokens, ReasoningSwitch::DeepSeek));
    assert_eq!((deepseek.developer_role, deepseek.missing_reasoning.as_deref()), (false, Some("")));
    assert_eq!(of("{ preset: openai }").0.max_tokens, MaxTokens::MaxCompletionTokens);
    assert_eq!(of("{ preset: qwen }").0.reasoning, ReasoningSwitch::DashScope);
    assert_eq!(of("{ preset: vllm }").0.past_reasoning, PastReasoning::Reasoning);
    assert_eq!(of("{ preset: moonshot }").0.missing_reasoning.as_deref(), Some(" "));
    let all = "{ preset: deepseek, compat: { max_tokens: any, stream_usage: false, developer_role: true, \
               late_system: false, tool_name_chars_max: 32, effort_beside_tools: false, top_k: false, forced_tool_thinking: true, reasoning: none, past_reasoning: drop, missing_reasoning: \" x\" } }";
    let expected = Compat {
        max_tokens: MaxTokens::Any,
        stream_usage: false,
        developer_role: true,
        late_system: false,
        tool_name_chars_max: Some(32),
        effort_beside_tools: false,
        top_k: false,
        forced_tool_thinking: true,
        reasoning: ReasoningSwitch::None,
        past_reasoning: PastReasoning::Drop,
        missing_reasoning: Some(" x".into()),
    };
    assert_eq!(of(all).0, expected);
    assert_eq!(of("{ preset: moonshot, compat: { missing_reasoning: } }").0.missing_reasoning, None);
    assert_eq!(of("{ preset: openai }").0.tool_name_chars_max, Some(64));
    assert_eq!(of("{ preset: openai, compat: { tool_name_chars_max: } }").0.tool_name_chars_max, None);
    assert_eq!(
        (of("{ preset: vllm }").0.late_system, of("{ preset: vllm }").0.tool_name_chars_max),
        (false, None)
    );
    let (_, warnings) = of("{ preset: anthropic, compat: { top_k: false } }");
    assert!(warnings.iter().any(|warning| warning.contains("no effect")), "{warnings:?}");
}

#[test]
fn think_tags_are_of_three_kinds() {
    let config = |tags: &str| {
        format!(
            "providers: {{ p: {{ format: openai, base_url: \"http://127.0.0.1:1/v1\" }} }}\n\
             models: {{ m: {{ provider: p, think_tags: {tags} }} }}\n"
        )
    };
    for (word, tags) in [("auto", ThinkTags::Auto), ("open", ThinkTags::Open), ("keep", ThinkTags::Keep)] {
        let Target::Upstream { think_tags, .. } = ok(&config(word)).models[0].target else {
            panic!("upstream")
        };
        assert_eq!(think_tags, tags);
    }
    let told = parse(&config("kept")).unwrap_err().to_string();
    assert!(told.contains("f.yaml:2") && told.contains("`think_tags`") && told.contains("keep"), "{told}");
}
