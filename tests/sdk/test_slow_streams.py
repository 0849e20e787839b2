"""The official SDKs read streams whose head and keep-alive comments come long before the answer: of an upstream
that takes its time, and of one that fails then.

NOVASTACK_TEST_BINARY is the program.
"""

import http.server
import json
import threading
import time

import anthropic
import openai
import pytest

from test_gateway import serve

WAIT_S = 1.5
MESSAGES = [{"role": "user", "content": "Explain async/await"}]
CONFIG = """
providers: {{ up: {{ format: openai, base_url: "{url}/v1" }} }}
models: {{ slow: {{ provider: up }}, fails: {{ provider: up }} }}
"""


class Slow(http.server.BaseHTTPRequestHandler):
    """An upstream of OpenAI's format."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(WAIT_S)
        if body["model"] == "fails":
            error = json.dumps({"error": {"message": "no such thing"}}).encode()
            self.send_response(400)
            self.send_header("content-length", str(len(error)))
            self.end_headers()
            self.wfile.write(error)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for delta, reason in [({"role": "assistant", "content": "Hel"}, None), ({"content": "lo"}, None), ({}, "stop")]:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    file = tmp_path_factory.mktemp("gateway") / "novastack.yaml"
    file.write_text(CONFIG.format(url=f"http://127.0.0.1:{upstream.server_port}"))
    gateway, gateway_url = serve("--config", str(file), "--keep-alive", "0.3")
    yield gateway_url
    gateway.terminate()
    gateway.wait(60)
    upstream.shutdown()


@pytest.fixture
def openai_client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def anthropic_client(url):
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def test_chat_completions(openai_client):
    begun = time.monotonic()
    stream = openai_client.chat.completions.create(model="slow", messages=MESSAGES, stream=True)
    assert time.monotonic() - begun < WAIT_S, "the head waited for the answer"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello"
    with pytest.raises(openai.APIError, match="no such thing"):
        list(openai_client.chat.completions.create(model="fails", messages=MESSAGES, stream=True))


def test_responses(openai_client):
    begun = time.monotonic()
    with openai_client.responses.stream(model="slow", input="Hi") as stream:
        assert time.monotonic() - begun < WAIT_S, "the head waited for the answer"
        assert stream.get_final_response().output_text == "Hello"
    events = list(openai_client.responses.create(model="fails", input="Hi", stream=True))
    assert events[-1].type == "response.failed" and "no such thing" in events[-1].response.error.message


def test_messages(anthropic_client):
    begun = time.monotonic()
    with anthropic_client.messages.stream(model="slow", messages=MESSAGES, max_tokens=9) as stream:
        assert time.monotonic() - begun < WAIT_S, "the head waited for the answer"
        assert stream.get_final_text() == "Hello"
    with pytest.raises(anthropic.APIStatusError, match="no such thing"):
        with anthropic_client.messages.stream(model="fails", messages=MESSAGES, max_tokens=9) as stream:
            stream.get_final_message()
