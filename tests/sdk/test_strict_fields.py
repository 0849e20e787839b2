"""The lists of fields that the strict providers of the Rust tests know (`tests/agents/strict`), against the types of the
official SDKs, which are made from the providers' own descriptions of their APIs."""

import pathlib
import re
import typing

from anthropic.types import message_create_params
from anthropic.types.beta import message_create_params as beta_params
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params, response_includable

STRICT = pathlib.Path(__file__).parents[1] / "agents" / "strict"


def listed(file, name):
    """The strings of a constant, in pairs the first of each."""
    source = (STRICT / file).read_text()
    body = re.search(rf"pub const {name}: [^=]*= &\[(.*?)\n?\];", source, re.S).group(1)
    if "(" in body:
        return set(re.findall(r'\("([^"]+)",', body))
    return set(re.findall(r'"([^"]+)"', body))


def fields(*types):
    return {name for one in types for name in typing.get_type_hints(one)}


def test_chat_completions():
    known = completion_create_params
    types = fields(known.CompletionCreateParamsBase, known.CompletionCreateParamsStreaming)
    assert listed("chat.rs", "FIELDS") == types


def test_messages():
    known = message_create_params
    plain = fields(known.MessageCreateParamsBase, known.MessageCreateParamsStreaming)
    # Models of the time of these types take none of the three; earlier ones do.
    assert listed("anthropic.rs", "FIELDS") == plain | {"temperature", "top_k", "top_p"}
    assert listed("anthropic.rs", "BETA_FIELDS") <= fields(beta_params.MessageCreateParamsBase) - plain


def test_responses():
    known = response_create_params
    types = fields(known.ResponseCreateParamsBase, known.ResponseCreateParamsStreaming)
    assert listed("responses.rs", "FIELDS") == types
    assert listed("responses.rs", "INCLUDABLE") == set(typing.get_args(response_includable.ResponseIncludable))
