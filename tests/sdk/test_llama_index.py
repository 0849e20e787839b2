"""LlamaIndex as a client, through its package for servers like OpenAI's; see test_langchain.py for the servers."""

import os
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field


class Trip(BaseModel):
    """A trip."""

    city: Literal["Paris", "Oslo"]
    days: int = Field(ge=1, le=9)


def llm(url, model):
    return OpenAILike(
        model=model,
        api_base=os.environ[url] + "/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        max_tokens=2000,
        temperature=0,
    )


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def test_chat_and_stream():
    asked = [ChatMessage(role="user", content="Say hello.")]
    one = llm("NOVASTACK_TEST_URL", "m")
    assert one.chat(asked).message.content == "Hello from the script."
    pieces = [chunk.delta or "" for chunk in one.stream_chat(asked)]
    assert "".join(pieces) == "Hello from the script."
    assert len(pieces) > 3


def test_tools():
    one = llm("NOVASTACK_TEST_URL", "m")
    answer = one.predict_and_call([FunctionTool.from_defaults(get_weather)], "The weather in Rome?")
    assert answer.response == "sunny in Rome"
    tools = [FunctionTool.from_defaults(get_weather)]
    first = one.chat_with_tools(tools, user_msg="The weather in Rome?")
    [call] = one.get_tool_calls_from_response(first)
    assert call.tool_kwargs == {"city": "Rome"}
    history = [ChatMessage(role="user", content="The weather in Rome?"), first.message]
    history.append(ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id}))
    second = one.chat_with_tools(tools, chat_history=history)
    assert second.message.content == "It is sunny in Rome."


def test_structured_output():
    answer = llm("NOVASTACK_TEST_RANDOM_URL", "tiny").as_structured_llm(Trip).complete("A trip.")
    assert isinstance(answer.raw, Trip)
