//! Every kind of mistake, with the line and the words that tell it.

use super::parse;

/// Put behind a file that has no models of its own, so that nothing but the mistake is wrong.
const REST: &str = "
providers: { up: { format: openai, base_url: http://127.0.0.1:9/v1 } }
models: { alpha: { provider: up }, beta: { provider: up } }
";

/// (what is wrong, the file, its line, words of the error).
type Mistake = (&'static str, &'static str, usize, &'static [&'static str]);

const SHAPE: &[Mistake] = &[
    (
        "an unknown key",
        "modles: {}",
        1,
        &["unknown key `modles`: did you mean `models`?", "`providers`, `models`"],
    ),
    ("no YAML", "limits: {}\nserver: ]", 2, &["is no YAML"]),
    ("a tab", "server:\n\tport: 1", 2, &["is no YAML"]),
    (
        "a key twice",
        "aliases: { a: alpha }\nlimits: {}\naliases: {}",
        3,
        &["`aliases` is given twice", "line 1"],
    ),
    ("a key twice, inside", "server:\n  port: 1\n  port: 2", 3, &["`port` is given twice", "line 2"]),
    ("a list for a mapping", "server: [1]", 1, &["`server` must be a mapping", "not a list"]),
    (
        "two patterns in one",
        "aliases: { \"a*b*\": alpha }",
        1,
        &["only an alias may have a `*`", "one at the most"],
    ),
    ("a pattern for a model", "named_routes: { \"a*\": alpha }", 1, &["`a*`", "only an alias"]),
    (
        "a field that is the gateway's",
        "providers: { up: { format: openai, base_url: http://127.0.0.1:9/v1 } }\nmodels: { m: { provider: up, set: { stream: true } } }",
        2,
        &["`set` of model `m`: `stream` is the gateway's own"],
    ),
    (
        "a bound that a rule takes away",
        "providers: { up: { format: openai, base_url: http://127.0.0.1:9/v1 } }\nmodels: { m: { provider: up, drop: [max_tokens] } }",
        2,
        &["`drop` of model `m`: `max_tokens` says how much"],
    ),
    ("a default that is none", "default_model: gamma", 1, &["`default_model`", "`gamma` is no model"]),
    ("a list for names", "aliases:\n- a", 2, &["`aliases` must be a mapping from names, not a list"]),
    ("a key that is a list", "[a]: 1", 1, &["a key must be plain text"]),
    ("a tag", "limits: { requests_per_minute: !!int 3 }", 1, &["tags", "mean nothing"]),
    ("a merge key", "limits: { <<: 3 }", 1, &["unknown key `<<`"]),
    ("an alias of nothing", "limits: *x", 1, &["is no YAML"]),
    ("two documents", "limits: {}\n---\nlimits: {}", 2, &["a second document"]),
    (
        "an unknown key of server",
        "server: { prot: 1 }",
        1,
        &["`server`: unknown key `prot`: did you mean `port`?"],
    ),
    ("a port", "server: { port: 70000 }", 1, &["`port` must be a whole number from 0 to 65535, not `70000`"]),
    ("a port in quotes", "server: { port: \"80\" }", 1, &["`port` must be a whole number", "the text `80`"]),
    ("a host", "server: { host: example.org }", 1, &["`host` must be an IP address", "`example.org`"]),
    ("a store", "server: { store: mysql://h/d }", 1, &["`store` must be sqlite:PATH or postgres://"]),
    ("shared limits", "server: { shared_limits: disk }", 1, &["`shared_limits` must be memory or redis://"]),
    (
        "a variable",
        "server: { admin_key_env: $SECRET }",
        1,
        &["`admin_key_env` must be the name of an environment"],
    ),
    (
        "an unknown key of telemetry",
        "server: { telemetry: { otlp_endpont: http://h:4318 } }",
        1,
        &["`telemetry`: unknown key `otlp_endpont`: did you mean `otlp_endpoint`?"],
    ),
    (
        "no endpoint",
        "server: { telemetry: { otlp_endpoint: grpc://h:4317 } }",
        1,
        &["`otlp_endpoint` must begin with http:// or https://"],
    ),
    (
        "a share over 1",
        "server: { telemetry: { sample: 1.5 } }",
        1,
        &["`sample` must be a number from 0 to 1, not `1.5`"],
    ),
    (
        "a receiver's key",
        "server: { telemetry: { headers: { x-api-key: k } } }",
        1,
        &["`telemetry`: header `x-api-key` carries a key", "use `headers_env`"],
    ),
    ("an access log", "server: { access_log: [a] }", 1, &["`access_log` must be text, not a list"]),
    ("a limit of 0", "limits: { requests_per_minute: 0 }", 1, &["whole number of 1 or more, not `0`"]),
    (
        "a broken limit",
        "limits: { tokens_per_minute: 1.5 }",
        1,
        &["`tokens_per_minute` of `limits`", "`1.5`"],
    ),
    ("no dollars", "limits: { dollars_per_day: 0 }", 1, &["must be more than 0"]),
    ("a negative limit", "limits:\n  dollars_per_month: -1", 2, &["must be a number from 0"]),
];

const PROVIDERS: &[Mistake] = &[
    (
        "no format",
        "providers:\n  p: { base_url: http://h }\nmodels: { m: { provider: p } }",
        2,
        &["needs a `format`"],
    ),
    (
        "a format",
        "providers: { p: { format: opneai, base_url: http://h } }\nmodels: { m: { provider: p } }",
        1,
        &["did you mean `openai`?"],
    ),
    (
        "a preset",
        "providers: { p: { preset: deepsek } }\nmodels: { m: { provider: p } }",
        1,
        &["unknown preset `deepsek`: did you mean `deepseek`?"],
    ),
    (
        "no address",
        "providers: { p: { format: openai } }\nmodels: { m: { provider: p } }",
        1,
        &["needs a `base_url`"],
    ),
    (
        "no URL",
        "providers: { p: { format: openai, base_url: api.x.org } }\nmodels: { m: { provider: p } }",
        1,
        &["is no URL"],
    ),
    (
        "a scheme",
        "providers: { p: { format: openai, base_url: \"ftp://h\" } }\nmodels: { m: { provider: p } }",
        1,
        &["http:// or https://"],
    ),
    (
        "a password",
        "providers: { p: { format: openai, base_url: \"http://u:p@h\" } }\nmodels: { m: { provider: p } }",
        1,
        &["a user or a password"],
    ),
    (
        "a query",
        "providers: { p: { format: openai, base_url: \"http://h/?a=1\" } }\nmodels: { m: { provider: p } }",
        1,
        &["?query"],
    ),
    (
        "a key in the file",
        "providers:\n  p:\n    preset: openai\n    api_key: sk-123\nmodels: { m: { provider: p } }",
        4,
        &["keys do not stand in this file", "`api_key_env`", "`api_key_file`"],
    ),
    (
        "two keys",
        "providers: { p: { preset: openai, api_key_env: A, api_key_file: b } }\nmodels: { m: { provider: p } }",
        1,
        &["not both"],
    ),
    (
        "a key's value as its name",
        "providers: { p: { preset: openai, api_key_env: sk-123 } }\nmodels: { m: { provider: p } }",
        1,
        &["name of an environment variable"],
    ),
    (
        "a header with a key",
        "providers: { p: { preset: openai, headers: { Authorization: Bearer x } } }\nmodels: { m: { provider: p } }",
        1,
        &["`Authorization` carries a key", "`api_key_env`"],
    ),
    (
        "a secret in a header",
        "providers: { p: { preset: openai, headers: { x-it: Bearer x } } }\nmodels: { m: { provider: p } }",
        1,
        &["carries a key"],
    ),
    (
        "a header of ours",
        "providers: { p: { preset: openai, headers: { Host: x } } }\nmodels: { m: { provider: p } }",
        1,
        &["is set by the gateway"],
    ),
    (
        "a header's name",
        "providers: { p: { preset: openai, headers: { \"a b\": x } } }\nmodels: { m: { provider: p } }",
        1,
        &["is no header name"],
    ),
    (
        "a header twice",
        "providers: { p: { preset: openai, headers: { x-a: x, X-A: y } } }\nmodels: { m: { provider: p } }",
        1,
        &["`X-A` is given twice"],
    ),
    (
        "a header in lines",
        "providers: { p: { preset: openai, headers: { x-a: \"a\\nb\" } } }\nmodels: { m: { provider: p } }",
        1,
        &["printable ASCII"],
    ),
    (
        "a timeout",
        "providers: { p: { preset: openai, timeout_s: 0 } }\nmodels: { m: { provider: p } }",
        1,
        &["`timeout_s` of provider `p`", "from 0.001 to 86400"],
    ),
    (
        "no number",
        "providers: { p: { preset: openai, connect_timeout_s: .nan } }\nmodels: { m: { provider: p } }",
        1,
        &["`connect_timeout_s`"],
    ),
    (
        "no concurrency",
        "providers: { p: { preset: openai, max_concurrency: 0 } }\nmodels: { m: { provider: p } }",
        1,
        &["`max_concurrency`", "from 1 to 100000"],
    ),
    (
        "yes",
        "providers: { p: { preset: openai, continues_partial: yes } }\nmodels: { m: { provider: p } }",
        1,
        &["must be true or false, not `yes`"],
    ),
    (
        "compat",
        "providers: { p: { preset: openai, compat: { developer: true } } }\nmodels: { m: { provider: p } }",
        1,
        &["`compat` of provider `p`", "`developer_role`"],
    ),
    (
        "a word of compat",
        "providers: { p: { preset: openai, compat: { reasoning: deepsek } } }\nmodels: { m: { provider: p } }",
        1,
        &["unknown `reasoning` `deepsek`: did you mean `deepseek`?", "`openrouter`"],
    ),
    (
        "a flag of compat",
        "providers: { p: { preset: openai, compat: { top_k: 1 } } }\nmodels: { m: { provider: p } }",
        1,
        &["`top_k` in `compat` of provider `p` must be true or false"],
    ),
    (
        "a text of compat",
        "providers: { p: { preset: openai, compat: { missing_reasoning: [] } } }\nmodels: { m: { provider: p } }",
        1,
        &["`missing_reasoning`", "text of at most 1000 bytes"],
    ),
];

const MODELS: &[Mistake] = &[
    ("nothing", "# nothing", 0, &["is empty"]),
    ("no models", "limits: {}\nmodels: {}", 0, &["has no `models`"]),
    ("no target", "models:\n  m: { context: 3 }", 2, &["needs a `source`", "or a `provider`"]),
    (
        "two targets",
        "providers: { p: { preset: openai } }\nmodels:\n  m: { source: a/b, provider: p }",
        3,
        &["either local or upstream"],
    ),
    (
        "an unknown provider",
        "providers: { deepseek: { preset: deepseek } }\nmodels:\n  m: { provider: deepsek }",
        3,
        &["`deepsek` is no provider: did you mean `deepseek`?"],
    ),
    ("no providers", "models:\n  m: { provider: p }", 2, &["there are none"]),
    (
        "an upstream key of a local model",
        "models:\n  m: { source: a/b, upstream_name: c }",
        2,
        &["unknown key `upstream_name`", "`source`"],
    ),
    (
        "a local key of an upstream model",
        "providers: { p: { preset: openai } }\nmodels:\n  m: { provider: p, replicas: 2 }",
        3,
        &["unknown key `replicas`"],
    ),
    ("a device", "models: { m: { source: a/b, device: gpu } }", 1, &["auto, cpu, hip:N or cuda:N"]),
    (
        "replicas",
        "models: { m: { source: a/b, replicas: 0 } }",
        1,
        &["`replicas` of model `m`", "from 1 to 64"],
    ),
    (
        "no patience",
        "models: { m: { source: a/b, hedge_after_s: 0 } }",
        1,
        &["`hedge_after_s` of model `m`", "0.001 to 3600"],
    ),
    ("a context", "models: { m: { source: a/b, max_context: 128k } }", 1, &["`max_context`", "`128k`"]),
    ("rope scaling", "models: { m: { source: a/b, rope_scaling: yarn } }", 1, &["as in config.json"]),
    (
        "a negative price",
        "models: { m: { source: a/b, price: { input: -1, output: 1 } } }",
        1,
        &["`input` of the price of model `m`"],
    ),
    (
        "an endless price",
        "models: { m: { source: a/b, price: { input: .inf, output: 1 } } }",
        1,
        &["`input`", "`.inf`"],
    ),
    (
        "half a price",
        "models: { m: { source: a/b, price: { input: 1 } } }",
        1,
        &["needs `output`: dollars per million tokens"],
    ),
    (
        "tiers that fall",
        "models:\n  m:\n    source: a/b\n    price:\n      input: 1\n      output: 1\n      tiers:\n      - { above: 5, input: 1, output: 1 }\n      - { above: 5, input: 1, output: 1 }",
        9,
        &["`above` must grow"],
    ),
    (
        "a tier of nothing",
        "models: { m: { source: a/b, price: { input: 1, output: 1, tiers: [{ input: 1, output: 1 }] } } }",
        1,
        &["needs `above`"],
    ),
    (
        "a capability",
        "models: { m: { source: a/b, capabilities: [tool] } }",
        1,
        &["unknown capability `tool`: did you mean `tools`?"],
    ),
    (
        "two prices",
        "models: { m: { source: a/b, price: { input: 1, output: 1 } } }\nprices:\n  m: { input: 1, output: 1 }",
        3,
        &["has a price already"],
    ),
    (
        "a price of nobody",
        "prices:\n  alhpa: { input: 1, output: 1 }",
        2,
        &["`alhpa` is no model", "did you mean `alpha`?"],
    ),
    ("a name with a space", "models: { \"a b\": { source: a/b } }", 1, &["no spaces", "`a b`"]),
    (
        "a reserved name",
        "models: { auto: { source: a/b } }",
        1,
        &["`auto` asks for the rules", "needs another name"],
    ),
    ("a name of two things", "aliases:\n  alpha: beta", 2, &["`alpha` is a model already, on line 4"]),
    ("a named route like a model", "named_routes:\n  beta: [alpha]", 2, &["`beta` is a model already"]),
];

const ROUTES: &[Mistake] = &[
    ("both spellings", "route: []\nroutes: []", 2, &["`routes` and `route` are the same"]),
    ("no list", "routes: { default: alpha }", 1, &["must be a list of rules"]),
    (
        "an unknown word",
        "routes:\n- match: images\n  use: alpha\n  falback: beta",
        4,
        &["unknown key `falback`: did you mean `fallback`?"],
    ),
    ("no condition", "routes:\n- model: alpha", 2, &["needs a condition"]),
    (
        "two conditions",
        "routes:\n- match: images\n  if: tools\n  use: alpha",
        3,
        &["`match` and `if` are the same"],
    ),
    (
        "no choice",
        "routes:\n- match: images",
        2,
        &["exactly one of `model`, `use`, `cheapest`, `split`", "none"],
    ),
    ("two choices", "routes:\n- match: images\n  use: alpha\n  model: beta", 2, &["exactly one", "several"]),
    (
        "an unknown model",
        "routes:\n- match: images\n  use: alpah",
        3,
        &["`alpah` is no model, alias or named route: did you mean `alpha`?"],
    ),
    (
        "an unknown fallback",
        "routes:\n- match: images\n  use: alpha\n  fallback: [beta, gamma]",
        4,
        &["`fallback`: `gamma` is no model"],
    ),
    (
        "auto in a rule",
        "routes:\n- match: images\n  use: auto",
        3,
        &["`auto` stands for the rules themselves"],
    ),
    (
        "auto by an alias",
        "aliases: { x: auto }\nroutes:\n- match: images\n  use: x",
        4,
        &["`x` (an alias of `auto`)"],
    ),
    (
        "a rule behind the default",
        "routes:\n- default: alpha\n- match: images\n  use: beta",
        3,
        &["never reached", "line 2"],
    ),
    (
        "a default with a condition",
        "routes:\n- default: alpha\n  match: images",
        2,
        &["`match` cannot stand beside it"],
    ),
    ("a default of nobody", "routes:\n- default: gamma", 2, &["`default`: `gamma` is no model"]),
    (
        "cheapest of a named route",
        "named_routes: { x: [alpha] }\nroutes:\n- match: images\n  cheapest: [alpha, x]",
        4,
        &["`x` is a named route"],
    ),
    ("cheapest of none", "routes:\n- match: images\n  cheapest: []", 3, &["empty list"]),
    ("cheapest of a word", "routes:\n- match: images\n  cheapest: alpha", 3, &["a list of models, or `all`"]),
    (
        "the same twice",
        "routes:\n- match: images\n  cheapest: [alpha, alpha]",
        3,
        &["`alpha` is named twice"],
    ),
    (
        "a weight of 0",
        "routes:\n- match: images\n  split: { alpha: 0, beta: 1 }",
        3,
        &["weight of `alpha`", "from 1 to"],
    ),
    ("a split of nobody", "routes:\n- match: images\n  split: { gamma: 1 }", 3, &["`gamma` is no model"]),
    ("a split of nothing", "routes:\n- match: images\n  split: {}", 3, &["at least one model"]),
    (
        "an unknown variable",
        "routes:\n- match: contextlength > 8\n  use: alpha",
        2,
        &["`match: contextlength > 8`", "`contextlength` is not known: did you mean `context_length`?"],
    ),
    (
        "a wrong type",
        "routes:\n- if: context_length > \"80\"\n  use: alpha",
        2,
        &["`context_length > \"80\"` compares a number with text"],
    ),
    (
        "no expression",
        "routes:\n- if: context_length >\n  use: alpha",
        2,
        &["`if: context_length >`", "allowed are"],
    ),
    (
        "an alias of nobody",
        "aliases:\n  x: alhpa",
        2,
        &["alias `x`: `alhpa` is no model", "did you mean `alpha`?"],
    ),
    (
        "aliases in a circle",
        "aliases:\n  x: y\n  y: z\n  z: x",
        2,
        &["aliases go in a circle: `x -> y -> z -> x`"],
    ),
    ("an alias of itself", "aliases:\n  x: x", 2, &["circle: `x -> x`"]),
    (
        "named routes in a circle",
        "named_routes:\n  x: [alpha, y]\n  y: { split: { x: 1, beta: 1 } }",
        2,
        &["circle: `x -> y -> x`"],
    ),
    (
        "a named route of nobody",
        "named_routes:\n  x: [alpha, gamma]",
        2,
        &["named route `x`: `gamma` is no model"],
    ),
    ("fallbacks of nobody", "fallbacks:\n  gamma: [alpha]", 2, &["`fallbacks`: `gamma` is no model"]),
    (
        "a fallback on nobody",
        "fallbacks:\n  alpha: [gamma]",
        2,
        &["the fallbacks of `alpha`: `gamma` is no model"],
    ),
    ("a fallback on itself", "fallbacks:\n  alpha: [beta, alpha]", 2, &["cannot fall back to itself"]),
];

const KEYS: &[Mistake] = &[
    ("no hash", "keys:\n  k: { credit: 1 }", 2, &["key `k` needs `sha256`"]),
    (
        "the hash of nothing",
        "keys:\n  k: { sha256: E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 }",
        2,
        &["`sha256` of key `k` is the SHA-256 of nothing", "16 characters or more"],
    ),
    ("half of TLS", "server:\n  tls: { cert: a.pem }", 2, &["`tls` needs `key`", "PEM"]),
    ("half a hash", "keys:\n  k: { sha256: abc }", 2, &["64 hexadecimal digits"]),
    (
        "a key of nobody's",
        "keys:\n  k: { sha256: fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8, models: [alhpa] }",
        2,
        &["`models` of key `k`: `alhpa` is no model", "did you mean `alpha`?"],
    ),
    (
        "debt",
        "keys:\n  k: { sha256: fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8, credit: -5 }",
        2,
        &["`credit` of key `k`"],
    ),
    (
        "a key's limit",
        "keys:\n  k: { sha256: fe5cf6eef1dc1ca10d8bfa761cf662da62aba67f81b3dd7665e5feaec19643d8, limits: { request_per_minute: 5 } }",
        2,
        &["did you mean `requests_per_minute`?"],
    ),
];

#[test]
fn every_mistake_is_told_alone_with_its_line() {
    let mut wrong = Vec::new();
    let all: Vec<&Mistake> = [SHAPE, PROVIDERS, MODELS, ROUTES, KEYS].into_iter().flatten().collect();
    for (what, text, line, words) in &all {
        let is_whole = text.starts_with('#') || text.lines().any(|line| line.starts_with("models:"));
        let text = if is_whole { (*text).to_owned() } else { format!("{text}{REST}") };
        let errors = match parse(&text) {
            Ok(_) => {
                wrong.push(format!("{what}: was accepted"));
                continue;
            }
            Err(errors) => errors.lines().to_vec(),
        };
        let start = if *line == 0 { "f.yaml: ".into() } else { format!("f.yaml:{line}: ") };
        let fits = errors.len() == 1
            && errors[0].starts_with(&start)
            && words.iter().all(|word| errors[0].contains(word));
        if !fits {
            wrong.push(format!("{what}: expected {start}{words:?}, got\n    {}", errors.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn all_mistakes_of_a_file_are_told_in_order() {
    let text = "server: { prot: 1 }\naliases: { x: alhpa }\nroutes:\n- match: imags > 0\n  use: betta\n";
    let errors = parse(&format!("{text}{REST}")).expect_err("wrong").to_string();
    let starts: Vec<&str> = errors.lines().map(|line| &line[..9]).collect();
    assert_eq!(starts, ["f.yaml:1:", "f.yaml:2:", "f.yaml:4:", "f.yaml:5:"], "{errors}");

    let many: String = (0..50).map(|n| format!("  a{n}: nobody\n")).collect();
    let errors = parse(&format!("aliases:\n{many}{REST}")).expect_err("wrong");
    assert_eq!(errors.lines().len(), 20);
    assert!(errors.to_string().ends_with("... and 30 more errors"), "{errors}");
}

#[test]
fn secrets_are_not_repeated() {
    for text in [
        "providers: { p: { preset: openai, api_key: S3CRET } }",
        "providers: { p: { preset: openai, api_key_env: S3CRET-1 } }",
        "providers: { p: { preset: openai, headers: { authorization: S3CRET } } }",
        "providers: { p: { preset: openai, headers: { x-it: Bearer S3CRET } } }",
        "providers: { p: { preset: openai, base_url: \"https://u:S3CRET@h/\" } }",
        "keys: { k: { sha256: S3CRET } }",
        "server: { store: \"mysql://u:S3CRET@h/d\" }",
        "server: { shared_limits: \"redis:S3CRET\" }",
        "server: { telemetry: { otlp_endpoint: \"http://u:S3CRET@h:4318\" } }",
        "server: { telemetry: { headers: { authorization: S3CRET } } }",
        "server: { telemetry: { headers_env: x-api-key=S3CRET } }",
    ] {
        let errors =
            parse(&format!("{text}\nmodels: {{ m: {{ source: a/b }} }}")).expect_err(text).to_string();
        assert!(!errors.contains("S3CRET"), "{errors}");
    }
}
