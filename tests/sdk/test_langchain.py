"""LangChain as a client, through its packages for OpenAI (chat completions and Responses) and for Anthropic.

`tests/agents/sdks.rs` starts the servers: NOVASTACK_TEST_URL has a scripted model `m`, which calls get_weather when it is
asked about the weather, NOVASTACK_TEST_RANDOM_URL a model `tiny` of random weights, held to schemas by grammar alone.
"""

import os
from typing import Literal

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

URL = os.environ["NOVASTACK_TEST_URL"]
RANDOM_URL = os.environ["NOVASTACK_TEST_RANDOM_URL"]
COMMON = {"api_key": "none", "max_retries": 0, "max_tokens": 2000, "temperature": 0}
KINDS = {
    "chat": lambda url, model: ChatOpenAI(model=model, base_url=url + "/v1", **COMMON),
    "responses": lambda url, model: ChatOpenAI(model=model, base_url=url + "/v1", use_responses_api=True, **COMMON),
    "anthropic": lambda url, model: ChatAnthropic(model=model, base_url=url, **COMMON),
}


class Trip(BaseModel):
    """A trip."""

    city: Literal["Paris", "Oslo"]
    days: int = Field(ge=1, le=9)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.mark.parametrize("kind", KINDS)
def test_chat_and_stream(kind):
    llm = KINDS[kind](URL, "m")
    assert llm.invoke("Say hello.").text == "Hello from the script."
    pieces = [chunk.text for chunk in llm.stream("Say hello.")]
    assert "".join(pieces) == "Hello from the script."
    assert len(pieces) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_tools(kind, streamed):
    llm = KINDS[kind](URL, "m").bind_tools([get_weather])
    messages = [HumanMessage("The weather in Rome?")]
    if streamed:
        answer = None
        for chunk in llm.stream(messages):
            answer = chunk if answer is None else answer + chunk
    else:
        answer = llm.invoke(messages)
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    messages += [answer, get_weather.invoke(call)]
    assert llm.invoke(messages).text == "It is sunny in Rome."


@pytest.mark.parametrize("kind", KINDS)
def test_structured_output(kind):
    llm = KINDS[kind](RANDOM_URL, "tiny").with_structured_output(Trip)
    assert isinstance(llm.invoke("A trip."), Trip)
