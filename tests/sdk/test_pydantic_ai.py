"""pydantic-ai as a client of all three APIs; see test_langchain.py for the servers."""

import asyncio
import os
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Trip(BaseModel):
    """A trip."""

    city: Literal["Paris", "Oslo"]
    days: int = Field(ge=1, le=9)


def openai(url):
    return OpenAIProvider(base_url=url + "/v1", api_key="none")


KINDS = {
    "chat": lambda url, model: OpenAIChatModel(model, provider=openai(url)),
    "responses": lambda url, model: OpenAIResponsesModel(model, provider=openai(url)),
    "anthropic": lambda url, model: AnthropicModel(model, provider=AnthropicProvider(base_url=url, api_key="none")),
}


def model(kind, which, name):
    return KINDS[kind](os.environ[which], name)


@pytest.mark.parametrize("kind", KINDS)
def test_chat_and_stream(kind):
    agent = Agent(model(kind, "NOVASTACK_TEST_URL", "m"))

    async def both():
        whole = (await agent.run("Say hello.")).output
        async with agent.run_stream("Say hello.") as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        return whole, pieces

    whole, pieces = asyncio.run(both())
    assert whole == "".join(pieces) == "Hello from the script."
    assert len(pieces) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_tools(kind):
    agent = Agent(model(kind, "NOVASTACK_TEST_URL", "m"))
    asked = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    assert asyncio.run(agent.run("The weather in Rome?")).output == "It is sunny in Rome."
    assert asked == ["Rome"]


@pytest.mark.parametrize("kind", ["chat", "responses"])
@pytest.mark.parametrize("output", [Trip, NativeOutput(Trip)], ids=["by a tool", "by a schema"])
def test_structured_output(kind, output):
    agent = Agent(model(kind, "NOVASTACK_TEST_RANDOM_URL", "tiny"), output_type=output, retries=0, model_settings={"temperature": 0})
    assert isinstance(asyncio.run(agent.run("A trip.")).output, Trip)
