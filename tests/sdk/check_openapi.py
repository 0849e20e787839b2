"""schemathesis over /openapi.json: requests made from the description, whose answers are as described and never 5xx.

NOVASTACK_TEST_BINARY is the program, NOVASTACK_TEST_SOURCE what it serves (with a tokenizer and a chat template).
A gateway is asked whose models are one of its own, and one at an upstream of each format: another NovaStack.
The seed is fixed. Fuzzed are bodies and parameters within their schemas (and beyond them: what is wrong there gets
a 4xx), for each model; what is asked of the admin needs its key.
"""

import json
import os
import subprocess
import sys
import tempfile

BINARY, SOURCE = os.environ["NOVASTACK_TEST_BINARY"], os.environ["NOVASTACK_TEST_SOURCE"]
ADMIN = "the-key-of-the-admin"
MODELS = ["local", "by-openai", "by-anthropic"]
CONFIG = """
server: {{ store: sqlite:usage.db, admin_key_env: NOVASTACK_TEST_ADMIN_KEY }}
providers:
  open: {{ preset: novastack, base_url: {url}/v1 }}
  anth: {{ preset: anthropic, base_url: {url}, api_key_env: NOVASTACK_TEST_UPSTREAM_KEY }}
models:
  local: {{ source: {source} }}
  by-openai: {{ provider: open, upstream_name: tiny }}
  by-anthropic: {{ provider: anth, upstream_name: tiny }}
default_model: local
"""
# Where a request names a model; elsewhere one round is enough.
OF_MODELS = "^/(v1/(chat/|completions|messages|responses$)|tokenize$|detokenize|infill)"
CALM = {
    "model", "messages", "prompt", "input", "max_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "min_p",
    "seed", "stream", "n", "echo", "logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty", "user",
    "metadata", "system", "instructions", "stop", "stop_sequences", "ignore_eos", "include_stop_str_in_output",
    "skip_special_tokens", "return_token_ids", "input_prefix", "input_suffix", "store", "parallel_tool_calls",
    "reasoning_effort", "include_reasoning", "service_tier", "cache_control", "betas", "safety_identifier",
    "prompt_cache_key",
}
CHECKS = ",".join([
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
])


def serve(*arguments, **environment):
    command = [BINARY, "serve", "--port", "0", "--threads", "1", "--default-max-tokens", "8", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              env=os.environ | environment)
    for line in server.stdout:
        address = next((word for word in line.split() if word.startswith("http://")), None)
        if address:
            return server, address
    raise AssertionError(f"{command} ended with {server.wait()}")


def with_model(text, model, calm=False):
    """The description for one model: short answers of it. Calm: without fields that exclude or need one another, so
    that most of the requests are answered."""
    document = json.loads(text)
    for name, schema in document["components"]["schemas"].items():
        properties = schema.get("properties", {})
        if name.endswith("Request") and calm:
            for field in [field for field in properties if field not in CALM]:
                del properties[field]
        if name.endswith(("Request", "Body")) and "model" in properties:
            properties["model"] = {"type": "string", "enum": [model]}
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
            if name in properties:
                properties[name] = {"type": ["integer", "null"], "minimum": 1, "maximum": 8}
        if "n" in properties:
            properties["n"] = {"type": ["integer", "null"], "minimum": 1, "maximum": 3}
    for item in document["paths"].values():
        for operation in item.values():
            body = operation.get("requestBody", {}) if isinstance(operation, dict) else {}
            for content in body.get("content", {}).values():
                if "model" in content.get("example", {}):
                    content["example"]["model"] = model
    return document


def run(folder, url, document, *options):
    file = os.path.join(folder, "openapi.json")
    with open(file, "w") as out:
        json.dump(document, out)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", file, "--url", url,
        "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--seed", "17", "--workers", "1",
        "--no-color", "--warnings", "off", "--suppress-health-check", "all",
        "--request-timeout", "30", *options,
    ]
    # It writes reports beside itself.
    return subprocess.run(command, cwd=folder).returncode


def main():
    budget = sys.argv[1] if len(sys.argv) > 1 else "7"
    servers = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            upstream, upstream_url = serve("--model", f"tiny={SOURCE}")
            servers.append(upstream)
            config = os.path.join(folder, "novastack.yaml")
            with open(config, "w") as out:
                out.write(CONFIG.format(url=upstream_url, source=SOURCE))
            gateway, url = serve("--config", config, NOVASTACK_TEST_UPSTREAM_KEY="the-key-of-the-upstream",
                                 NOVASTACK_TEST_ADMIN_KEY=ADMIN)
            servers.append(gateway)
            import httpx

            text = httpx.get(url + "/openapi.json").raise_for_status().text
            documents = [with_model(text, model, calm=True) for model in MODELS] + [with_model(text, "local")]
            failed = [
                run(folder, url, document, "--include-path-regex", OF_MODELS, "--max-time", budget)
                for document in documents
            ]
            # Keys that it makes would be asked for everywhere: those come last.
            others = ["--max-time", budget, "-H", f"Authorization: Bearer {ADMIN}"]
            failed.append(run(folder, url, with_model(text, "local"), "--exclude-path-regex",
                              f"{OF_MODELS}|^/admin/keys", *others))
            failed.append(run(folder, url, with_model(text, "local"), "--include-path-regex", "^/admin/keys", *others))
        finally:
            for server in servers:
                server.terminate()
                server.wait(60)
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main()
