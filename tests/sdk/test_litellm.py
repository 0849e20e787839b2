"""LiteLLM as a client of all three APIs; see test_langchain.py for the servers."""

import json
import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

URL = os.environ["NOVASTACK_TEST_URL"]
RANDOM_URL = os.environ["NOVASTACK_TEST_RANDOM_URL"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def at(kind, url, model):
    base = url if kind == "anthropic" else url + "/v1"
    return {"model": f"{kind}/{model}", "api_base": base, "api_key": "none", "num_retries": 0, "max_tokens": 2000}


def user(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_chat_and_stream(kind):
    asked = {**at(kind, URL, "m"), "messages": user("Say hello.")}
    answer = litellm.completion(**asked)
    assert answer.choices[0].message.content == "Hello from the script."
    assert answer.usage.completion_tokens > 0
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **asked)]
    assert "".join(pieces) == "Hello from the script."
    assert len(pieces) > 3


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("streamed", [False, True])
def test_tools(kind, streamed):
    asked = {**at(kind, URL, "m"), "tools": [WEATHER]}
    messages = user("The weather in Rome?")
    answer = litellm.completion(messages=messages, stream=streamed, **asked)
    if streamed:
        answer = litellm.stream_chunk_builder(list(answer), messages=messages)
    message = answer.choices[0].message
    [call] = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages += [message.model_dump(exclude_none=True), result]
    second = litellm.completion(messages=messages, **asked)
    assert second.choices[0].message.content == "It is sunny in Rome."


def test_structured_output():
    schema = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    asked = {**at("openai", RANDOM_URL, "tiny"), "messages": user("A trip."), "response_format": schema, "temperature": 0}
    trip = json.loads(litellm.completion(**asked).choices[0].message.content)
    assert trip["city"] in ("Paris", "Oslo") and trip["days"] in (1, 2)


def test_responses_and_errors():
    base = {"api_base": URL + "/v1", "api_key": "none", "num_retries": 0}
    answer = litellm.responses(model="openai/m", input="Say hello.", **base)
    assert answer.output[-1].content[0].text == "Hello from the script."
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(model="openai/m", messages=user("x"), temperature=9, **base)
