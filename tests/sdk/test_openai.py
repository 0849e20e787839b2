"""The official OpenAI SDK against a live server.

NOVASTACK_TEST_URL is the server's address (http://127.0.0.1:8000), NOVASTACK_TEST_MODEL the
served name of a model with a tokenizer and a chat template. The server needs no API key.
"""

import os
import re
import time

import httpx
import openai
import pytest

URL = os.environ["NOVASTACK_TEST_URL"].rstrip("/")
MODEL = os.environ["NOVASTACK_TEST_MODEL"]
MESSAGES = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module", params=["/v1", "/router/v1"])
def client(request):
    # Without retries, so that each error shows.
    with openai.OpenAI(base_url=URL + request.param, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def chat(client, **more):
    fields = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "extra_body": {"ignore_eos": True}}
    return client.chat.completions.create(**(fields | more))


def complete(client, **more):
    fields = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, "extra_body": {"ignore_eos": True}}
    return client.completions.create(**(fields | more))


def test_chat(client):
    answer = chat(client)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert abs(answer.created - time.time()) < 300
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    usage = answer.usage
    assert usage.completion_tokens == 8
    assert usage.total_tokens == usage.prompt_tokens + 8
    assert usage.prompt_tokens_details.cached_tokens >= 0


def test_content_parts_and_max_completion_tokens(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    kwargs = {"temperature": 0, "max_tokens": openai.omit, "max_completion_tokens": 5}
    assert chat(client, messages=parts, **kwargs).choices[0].message.content == \
        chat(client, **kwargs).choices[0].message.content


def test_chat_stream(client):
    whole = chat(client, seed=3, max_tokens=24)
    chunks = list(chat(client, seed=3, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    with_choice = [chunk for chunk in chunks if chunk.choices]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in with_choice) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in with_choice if chunk.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions(client):
    answer = complete(client, prompt=["Once", "Twice"], n=2, echo=True)
    assert answer.object == "text_completion"
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text.split(" ")[0][:4] for choice in answer.choices] == ["Once", "Once", "Twic", "Twic"]
    assert answer.usage.completion_tokens == 32


def test_completions_stream(client):
    whole = complete(client, temperature=0)
    chunks = list(complete(client, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_token_ids(client):
    extra = {"ignore_eos": True, "return_token_ids": True}
    whole = complete(client, temperature=0, extra_body=extra).choices[0]
    assert len(whole.token_ids) == 8
    again = complete(client, temperature=0, prompt=whole.prompt_token_ids, extra_body=extra).choices[0]
    assert (again.token_ids, again.text) == (whole.token_ids, whole.text)
    chunks = [chunk.choices[0] for chunk in complete(client, temperature=0, stream=True, extra_body=extra)]
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert sum((getattr(chunk, "token_ids", None) or [] for chunk in chunks), []) == whole.token_ids


def test_n_choices_differ(client):
    answer = chat(client, n=4, max_tokens=16, temperature=1.5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens == 64


def test_seed(client):
    def say(seed):
        return chat(client, seed=seed, temperature=1.5, max_tokens=16).choices[0].message.content

    assert say(11) == say(11)
    assert say(11) != say(12)


def test_stop(client):
    full = chat(client, temperature=0, max_tokens=24).choices[0].message.content
    stop = full[len(full) // 2 : len(full) // 2 + 3]
    answer = chat(client, temperature=0, max_tokens=24, stop=["never said \x01", stop])
    assert answer.choices[0].message.content == full[: full.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 24
    chunks = chat(client, temperature=0, max_tokens=24, stop=stop, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == full[: full.index(stop)]


def test_chat_logprobs(client):
    answer = chat(client, temperature=0, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 8
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        # Greedy: the chosen token is the most probable one.
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
    # Without special tokens among them, the tokens' bytes are the text.
    said = b"".join(bytes(token.bytes) for token in content).decode(errors="replace")
    assert said.startswith(answer.choices[0].message.content) or "<|" in said


def test_completion_logprobs(client):
    choice = complete(client, temperature=0, logprobs=2, echo=True).choices[0]
    lists = choice.logprobs
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset)
    assert lists.token_logprobs[0] is None
    assert all(value <= 0 for value in lists.token_logprobs[1:])
    assert lists.text_offset[0] == 0 and lists.text_offset == sorted(lists.text_offset)


def test_models(client):
    models = {model.id: model for model in client.models.list()}
    assert models[MODEL].max_model_len > 0
    assert client.models.retrieve(MODEL).id == MODEL


def test_request_ids(client):
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=1, extra_headers={"x-request-id": "sdk-test-1"}
    )
    assert answer.headers["x-request-id"] == "sdk-test-1"
    assert chat(client)._request_id


@pytest.mark.parametrize(
    "fields, error, code, param",
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"n": 0}, openai.BadRequestError, "invalid_value", "n"),
        ({"stop": [""]}, openai.BadRequestError, "invalid_value", "stop[0]"),
        ({"response_format": {"type": "xml"}}, openai.BadRequestError, "unsupported_parameter", "response_format.type"),
    ],
)
def test_errors(client, fields, error, code, param):
    with pytest.raises(error) as caught:
        chat(client, **fields)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(error):
        chat(client, stream=True, **fields)


def test_too_long_a_prompt(client):
    context = client.models.retrieve(MODEL).max_model_len
    with pytest.raises(openai.BadRequestError) as caught:
        complete(client, prompt=[5] * (context + 1), max_tokens=openai.omit)
    assert caught.value.code == "context_length_exceeded"
    assert str(context) in caught.value.message and str(context + 1) in caught.value.message


def test_unknown_path_and_method():
    assert httpx.get(f"{URL}/v1/nothing").json()["error"]["code"] == "unknown_url"
    assert httpx.get(f"{URL}/v1/completions").json()["error"]["code"] == "method_not_allowed"


def running():
    text = httpx.get(f"{URL}/metrics").text
    return sum(float(value) for value in re.findall(r"^novastack_running\{.*\} (\S+)$", text, re.M))


def test_disconnect_in_mid_stream(client):
    context = client.models.retrieve(MODEL).max_model_len
    stream = chat(client, stream=True, n=16, max_tokens=min(context - 100, 4000))
    next(iter(stream))
    stream.close()
    deadline = time.time() + 10
    while running() > 0:
        assert time.time() < deadline, "the request still runs"
        time.sleep(0.05)
    assert chat(client).choices[0].message.content is not None
