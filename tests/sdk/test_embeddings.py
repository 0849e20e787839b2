"""Embeddings, reranking and scores by the official OpenAI SDK, Cohere's SDK and plain HTTP, against a live server.

NOVASTACK_TEST_URL is the server's address, NOVASTACK_TEST_EMBEDDINGS the served name of all-MiniLM-L6-v2, and
NOVASTACK_TEST_MODEL that of a chat model. The server needs no API key.
"""

import base64
import math
import os
import struct

import cohere
import httpx
import openai
import pytest

URL = os.environ["NOVASTACK_TEST_URL"].rstrip("/")
EMBEDDINGS, MODEL = os.environ["NOVASTACK_TEST_EMBEDDINGS"], os.environ["NOVASTACK_TEST_MODEL"]
QUERY = "What is the capital of France?"
DOCUMENTS = ["Bread needs flour, water and salt.", "Paris is the capital of France.", "Cats sleep all day."]


@pytest.fixture(scope="module", params=["/v1", "/router/v1", f"/to/{EMBEDDINGS}/v1"])
def client(request):
    # Without retries, so that each error shows.
    with openai.OpenAI(base_url=URL + request.param, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


def length(vector):
    return math.sqrt(sum(number * number for number in vector))


def test_the_sdks_own_form(client):
    """The SDK asks for base64 where its caller asks for nothing, and decodes it."""
    answer = client.embeddings.create(model=EMBEDDINGS, input=DOCUMENTS)
    assert answer.object == "list" and answer.model == EMBEDDINGS
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert all(one.object == "embedding" and len(one.embedding) == 384 for one in answer.data)
    assert all(abs(length(one.embedding) - 1) < 1e-5 for one in answer.data)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3 * 5


def test_floats_and_base64_are_the_same_numbers(client):
    floats = client.embeddings.create(model=EMBEDDINGS, input=QUERY, encoding_format="float").data[0].embedding
    packed = client.embeddings.create(model=EMBEDDINGS, input=QUERY, encoding_format="base64").data[0].embedding
    if isinstance(packed, str):
        packed = struct.unpack("<384f", base64.b64decode(packed))
    assert len(floats) == 384 and list(packed) == [struct.unpack("<f", struct.pack("<f", n))[0] for n in floats]


def test_arrays_of_token_ids(client):
    """LangChain's OpenAIEmbeddings sends these."""
    tokens = httpx.post(f"{URL}/tokenize", json={"model": EMBEDDINGS, "prompt": QUERY}).json()["tokens"]
    by_text = client.embeddings.create(model=EMBEDDINGS, input=QUERY).data[0].embedding
    for ids in (tokens, [tokens], [tokens, tokens[:3]]):
        by_ids = client.embeddings.create(model=EMBEDDINGS, input=ids)
        assert by_ids.data[0].embedding == by_text
        assert len(by_ids.data) == (1 if ids is tokens else len(ids))


def test_errors_are_the_sdks(client):
    with pytest.raises(openai.BadRequestError, match="must be 384"):
        client.embeddings.create(model=EMBEDDINGS, input="a", dimensions=5)
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=EMBEDDINGS, input=["a", "word " * 5000])
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "input[1]")
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=EMBEDDINGS, messages=[{"role": "user", "content": "a"}])
    assert (error.value.code, error.value.param) == ("unsupported_task", "model")


def test_a_chat_model_refuses_by_name():
    with openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="is a chat model"):
            client.embeddings.create(model=MODEL, input="a")
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="nobody", input="a")
        assert EMBEDDINGS in [model.id for model in client.models.list()]


def test_coheres_sdk_reranks():
    client = cohere.ClientV2(api_key="unused", base_url=URL, timeout=120)
    answer = client.rerank(model=EMBEDDINGS, query=QUERY, documents=DOCUMENTS, top_n=2)
    assert [result.index for result in answer.results][0] == 1 and len(answer.results) == 2
    assert answer.results[0].relevance_score > answer.results[1].relevance_score


def test_rerank_and_score_by_plain_http():
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        body = {"model": EMBEDDINGS, "query": QUERY, "documents": DOCUMENTS}
        answer = httpx.post(URL + path, json=body, timeout=120).raise_for_status().json()
        assert answer["results"][0]["index"] == 1 and answer["results"][0]["document"] == {"text": DOCUMENTS[1]}
    by_document = {result["index"]: result["relevance_score"] for result in answer["results"]}
    body = {"model": EMBEDDINGS, "text_1": QUERY, "text_2": DOCUMENTS}
    answer = httpx.post(f"{URL}/v1/score", json=body, timeout=120).raise_for_status().json()
    assert {one["index"]: one["score"] for one in answer["data"]} == pytest.approx(by_document, abs=1e-6)
