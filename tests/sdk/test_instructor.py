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
    plain = openai.OpenAI(base_url=os.environ["NOVASTACK_TEST_RANDOM_URL"] + "/v1", api_key="none", max_retries=0)
    return instructor.from_openai(plain, mode=mode)


ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "A trip."}], "max_retries": 0, "max_tokens": 500}


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"])
def test_structured_output(mode):
    assert isinstance(client(instructor.Mode[mode]).create(response_model=Trip, **ASKED), Trip)


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_structured_output_in_parts(mode):
    parts = list(client(instructor.Mode[mode]).create_partial(response_model=Trip, **ASKED))
    assert len(parts) > 1
    Trip.model_validate(parts[-1].model_dump())
