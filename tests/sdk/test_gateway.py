"""The official OpenAI and Anthropic SDKs, and plain HTTP, against a gateway whose upstreams are another
NovaStack: once asked in OpenAI's format and once in Anthropic's. Whoever is asked, by whatever way, the tiny
model says the same.

NOVASTACK_TEST_BINARY is the program, NOVASTACK_TEST_SOURCE what it serves (with a tokenizer and a chat template).
"""

import os
import subprocess

import anthropic
import httpx
import openai
import pytest

BINARY, SOURCE = os.environ["NOVASTACK_TEST_BINARY"], os.environ["NOVASTACK_TEST_SOURCE"]
MESSAGES = [{"role": "user", "content": "Explain async/await"}]
MODELS = ["deepseek-v4-pro", "kimi-2.6", "minimax-2.7", "qwen3-235b", "claude-opus-4.7"]
KEY = "the-key-of-a-caller"
# The SDK does not name it any more; the API takes it.
GREEDY = {"temperature": 0}
CONFIG = """
providers:
  open: {{ preset: novastack, base_url: {url}/v1 }}
  anth: {{ preset: anthropic, base_url: {url}, api_key_env: NOVASTACK_TEST_UPSTREAM_KEY }}
models:
  qwen3-235b: {{ source: {source} }}
  deepseek-v4-pro: {{ provider: open, upstream_name: tiny }}
  kimi-2.6: {{ provider: anth, upstream_name: tiny }}
  minimax-2.7: {{ provider: open, upstream_name: tiny }}
  claude-opus-4.7: {{ provider: anth, upstream_name: tiny }}
routes:
  - match: header["x-forwarded-to"] == "claude"
    model: claude-opus-4.7
  - default: qwen3-235b
"""


def serve(*arguments, **environment):
    command = [BINARY, "serve", "--port", "0", "--threads", "1", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    for line in server.stdout:
        address = next((word for word in line.split() if word.startswith("http://")), None)
        if address:
            return server, address
    raise AssertionError(f"{command} ended with {server.wait()}")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    upstream, upstream_url = serve("--model", f"tiny={SOURCE}")
    file = tmp_path_factory.mktemp("gateway") / "novastack.yaml"
    file.write_text(CONFIG.format(url=upstream_url, source=SOURCE))
    gateway, gateway_url = serve("--config", str(file), "--api-key", KEY, NOVASTACK_TEST_UPSTREAM_KEY="upstream-key")
    yield gateway_url
    for server in (gateway, upstream):
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def by_openai(url):
    with openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module", params=["", "/router", "/anthropic"])
def by_anthropic(request, url):
    with anthropic.Anthropic(base_url=url + request.param, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def said(url):
    """What the model says, asked without a gateway's help."""
    body = {"model": "qwen3-235b", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = httpx.post(url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    return answer.raise_for_status().json()


@pytest.mark.parametrize("model", MODELS)
def test_openai(by_openai, url, model):
    expected = said(url)
    fields = {"model": model, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = by_openai.chat.completions.create(**fields)
    assert answer.model == model
    assert answer.choices[0].message.content == expected["choices"][0]["message"]["content"]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == expected["usage"]["prompt_tokens"]
    assert answer.usage.completion_tokens == 12
    chunks = list(by_openai.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("model", MODELS)
def test_anthropic(by_anthropic, url, model):
    expected = said(url)
    fields = {"model": model, "messages": MESSAGES, "max_tokens": 12, "extra_body": GREEDY}
    message = by_anthropic.messages.create(**fields)
    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert message.content[0].text == expected["choices"][0]["message"]["content"]
    assert message.stop_reason == "max_tokens"
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == expected["usage"]["prompt_tokens"]
    assert usage.output_tokens == 12
    with by_anthropic.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == message.content[0].text == final.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 12)


def test_tokens_are_counted(by_anthropic, url):
    exact = said(url)["usage"]["prompt_tokens"]
    # A model of the gateway's own, and one of an upstream with Anthropic's API.
    for model in ["qwen3-235b", "claude-opus-4.7"]:
        assert by_anthropic.messages.count_tokens(model=model, messages=MESSAGES).input_tokens == exact
    # An estimate.
    assert 0 < by_anthropic.messages.count_tokens(model="minimax-2.7", messages=MESSAGES).input_tokens < 3 * exact


def test_system_prompts_and_history(by_anthropic, by_openai):
    history = [*MESSAGES, {"role": "assistant", "content": "It waits."}, {"role": "user", "content": "For what?"}]
    system = [{"type": "text", "text": "Be brief."}]
    for model in ("qwen3-235b", "deepseek-v4-pro"):
        message = by_anthropic.messages.create(model=model, messages=history, system=system, max_tokens=8,
                                               extra_body=GREEDY)
        messages = [{"role": "system", "content": "Be brief."}, *history]
        answer = by_openai.chat.completions.create(model="claude-opus-4.7", messages=messages, max_tokens=8, temperature=0)
        assert message.content[0].text == answer.choices[0].message.content


def test_errors_are_in_the_callers_dialect(url, by_openai, by_anthropic):
    with pytest.raises(openai.NotFoundError, match="qwen3-235b"):
        by_openai.chat.completions.create(model="nothing", messages=MESSAGES)
    with pytest.raises(anthropic.NotFoundError, match="qwen3-235b"):
        by_anthropic.messages.create(model="nothing", messages=MESSAGES, max_tokens=5)
    # The upstream's own complaint, about a request that is wrong there too.
    long = [{"role": "user", "content": "so " * 600}]
    for model in ("qwen3-235b", "deepseek-v4-pro", "claude-opus-4.7"):
        with pytest.raises(openai.BadRequestError) as error:
            by_openai.chat.completions.create(model=model, messages=long, max_tokens=5)
        assert error.value.code == "context_length_exceeded"
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: .* tokens > 512 maximum"):
            by_anthropic.messages.create(model=model, messages=long, max_tokens=5)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0).messages.create(
            model="qwen3-235b", messages=MESSAGES, max_tokens=5)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/router/v1/chat/completions"])
def test_plain_requests(url, path):
    headers = {"authorization": f"Bearer {KEY}"}
    for model in MODELS:
        body = {"model": model, "messages": MESSAGES, "max_tokens": 4}
        answer = httpx.post(url + path, json=body, headers=headers, timeout=60)
        assert answer.status_code == 200 and answer.headers["x-novastack-model"] == model
    body["model"] = "auto"
    forwarded = httpx.post(url + path, json=body, headers=headers | {"X-Forwarded-To": "claude"}, timeout=60)
    assert forwarded.headers["x-novastack-model"] == "claude-opus-4.7"
    assert httpx.post(url + path, json=body, headers=headers, timeout=60).headers["x-novastack-model"] == "qwen3-235b"
