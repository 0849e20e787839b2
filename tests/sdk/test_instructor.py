"""instructor as a client, in its modes for tools, JSON and schemas; see test_langchain.py for the servers."""

import os
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel, Field


class Trip(BaseModel):
    """A trip."""

    city: Literal["Paris", "Oslo"]
    days: int = Field(ge=1, le=9)


def client(mode):
    """Tools that are not strict are the model's to fill in: they are for the scripted one."""
    url, model = ("NOVASTACK_TEST_URL", "m") if mode == "TOOLS" else ("NOVASTACK_TEST_RANDOM_URL", "tiny")
    plain = openai.OpenAI(base_url=os.environ[url] + "/v1", api_key="none", max_retries=0)
    messages = [{"role": "user", "content": "A trip."}]
    asked = {"model": model, "messages": messages, "max_retries": 0, "max_tokens": 2000, "temperature": 0}
    if mode.startswith("TOOLS"):
        # Else a model of random weights calls again and again.
        asked["parallel_tool_calls"] = False
    return instructor.from_openai(plain, mode=instructor.Mode[mode]), asked


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_structured_output(mode):
    one, asked = client(mode)
    assert isinstance(one.create(response_model=Trip, **asked), Trip)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_structured_output_in_parts(mode):
    one, asked = client(mode)
    parts = list(one.create_partial(response_model=Trip, **asked))
    assert len(parts) > 1
    Trip.model_validate(parts[-1].model_dump())
