"""The official OpenAI SDK's Responses against a live server.

NOVASTACK_TEST_URL is the server's address (http://127.0.0.1:8000), NOVASTACK_TEST_MODEL the served name of a model
with a tokenizer and a chat template. The server needs no API key. NOVASTACK_TEST_TOOLS=1 says that the template
knows tools: whatever the model's weights, a call that is required comes.
"""

import os
import time

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

URL = os.environ["NOVASTACK_TEST_URL"].rstrip("/")
MODEL = os.environ["NOVASTACK_TEST_MODEL"]
TOOLS = os.environ.get("NOVASTACK_TEST_TOOLS") == "1"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module", params=["/v1", "/router/v1"])
def client(request):
    # Without retries, so that each error shows.
    with openai.OpenAI(base_url=URL + request.param, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def create(client, **more):
    fields = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}
    return client.responses.create(**(fields | more))


def streamed(client, **more):
    """The events of a stream: each is of the SDK's own type, to the letter, and numbered."""
    events = list(create(client, stream=True, **more))
    for number, event in enumerate(events):
        assert event.sequence_number == number
        EVENT.validate_python(event.to_dict(), strict=True)
    return events


def test_a_whole_response(client):
    response = create(client, instructions="Be brief.", metadata={"a": "b"}, user="u", parallel_tool_calls=False)
    Response.model_validate(response.to_dict(), strict=True)
    assert response.id.startswith("resp_")
    assert response.object == "response"
    assert response.model == MODEL
    assert abs(response.created_at - time.time()) < 300
    assert response.status in ("completed", "incomplete")
    assert response.error is None
    assert response.instructions == "Be brief."
    assert response.metadata == {"a": "b"}
    assert (response.temperature, response.max_output_tokens, response.user) == (0, 8, "u")
    assert (response.truncation, response.tool_choice, response.parallel_tool_calls) == ("disabled", "auto", False)
    usage = response.usage
    assert 1 <= usage.output_tokens <= 8
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens <= usage.output_tokens
    assert usage.input_tokens_details.cached_tokens <= usage.input_tokens
    if response.status == "incomplete":
        assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output
    for item in response.output:
        assert item.id and item.status in ("completed", "incomplete")


def test_a_stream_has_every_event_in_order_and_makes_the_whole_response(client):
    whole = create(client)
    events = streamed(client)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert kinds.count(kinds[-1]) == 1
    last = events[-1].response
    assert last.id == events[0].response.id
    assert events[0].response.status == "in_progress"
    assert last.output_text == whole.output_text
    assert last.usage.output_tokens == whole.usage.output_tokens
    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == list(range(len(last.output)))
    assert [item.to_dict() for item in done] == [item.to_dict() for item in last.output]
    for item in last.output:
        if item.type == "message":
            deltas = [event.delta for event in events if event.type == "response.output_text.delta" and event.item_id == item.id]
            assert "".join(deltas) == item.content[0].text
    with client.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=8, temperature=0) as stream:
        *_, last = stream
        assert last.response.output_text == whole.output_text
        # The SDK has a final response of completed ones only.
        if last.type == "response.completed":
            assert stream.get_final_response().output_text == whole.output_text


def test_messages_with_parts_are_what_a_string_is(client):
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}]
    assert create(client, input=parts).output_text == create(client).output_text
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
    )
    assert create(client).output_text == chat.choices[0].message.content


def test_previous_response_id_is_the_conversation_sent_again(client):
    first = create(client, instructions="Be brief.")
    again = [{"role": "user", "content": "Say hello."}, *first.to_dict()["output"], {"role": "user", "content": "Again."}]
    one = create(client, input="Again.", previous_response_id=first.id)
    other = create(client, input=again)
    assert one.previous_response_id == first.id
    assert one.output_text == other.output_text
    assert one.usage.input_tokens == other.usage.input_tokens
    # Instructions are a request's own.
    assert one.instructions is None


def test_a_response_is_kept_listed_and_deleted(client):
    response = create(client, input=[{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}])
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    items = client.responses.input_items.list(response.id, order="asc", limit=1)
    texts = [item.content[0].text for item in items]
    assert texts == ["One.", "Two."]
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as error:
        create(client, previous_response_id=response.id)
    assert error.value.param == "previous_response_id"


def test_a_streamed_response_is_kept_too(client):
    last = streamed(client)[-1].response
    assert client.responses.retrieve(last.id).output_text == last.output_text


def test_store_false_keeps_nothing(client):
    response = create(client, store=False, include=["reasoning.encrypted_content"])
    assert response.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_log_probabilities(client):
    response = create(client, include=["message.output_text.logprobs"], top_logprobs=2)
    [message] = [item for item in response.output if item.type == "message"]
    [part] = message.content
    assert part.logprobs
    for logprob in part.logprobs:
        assert logprob.logprob <= 0
        assert len(logprob.top_logprobs) == 2
    events = streamed(client, include=["message.output_text.logprobs"], top_logprobs=2)
    told = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    assert [token.token for token in told] == [token.token for token in part.logprobs]


class City(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    ok: bool


def test_parse_gives_what_the_schema_says(client):
    response = client.responses.parse(model=MODEL, input="Is it?", text_format=City, max_output_tokens=200, temperature=0)
    assert response.status == "completed"
    assert isinstance(response.output_parsed, City)


@pytest.mark.skipif(not TOOLS, reason="the model's chat template knows no tools")
def test_a_required_call_and_its_output(client):
    question = "What is the weather in Paris?"
    fields = {"input": question, "tools": [WEATHER], "max_output_tokens": 200}
    first = create(client, tool_choice="required", **fields)
    Response.model_validate(first.to_dict(), strict=True)
    call = next(item for item in first.output if item.type == "function_call")
    assert (call.name, call.status) == ("get_weather", "completed")
    assert pydantic.TypeAdapter(dict[str, str]).validate_json(call.arguments)["city"] in ("Paris", "Rome")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    by_id = create(client, input=[output], previous_response_id=first.id, tools=[WEATHER], tool_choice="none")
    history = [{"role": "user", "content": question}, *first.to_dict()["output"], output]
    by_items = create(client, input=history, tools=[WEATHER], tool_choice="none")
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
    assert by_id.output_text == by_items.output_text
    events = streamed(client, tool_choice={"type": "function", "name": "get_weather"}, **fields)
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == done.arguments


@pytest.mark.skipif(not TOOLS, reason="the model's chat template knows no tools")
def test_a_custom_tools_input_is_text(client):
    tool = {"type": "custom", "name": "patch", "description": "Takes free text."}
    response = create(client, tools=[tool], tool_choice={"type": "custom", "name": "patch"}, max_output_tokens=400)
    calls = [item for item in response.output if item.type == "custom_tool_call"]
    assert calls and calls[0].name == "patch" and isinstance(calls[0].input, str)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input[0].call_id"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        create(client, **fields)
    assert error.value.param == param
