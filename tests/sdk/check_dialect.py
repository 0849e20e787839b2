"""The official SDKs as judges of the gateway's encoders.

    mkdir out
    NOVASTACK_DIALECT_OUT=$PWD/out cargo test --lib -- --ignored write_for_the_sdks
    python tests/sdk/check_dialect.py out

Needs `openai` and `anthropic`. Every stream is read by the SDK's own client from a server here, put
together by the SDK, and held against the whole answer written from the same events; both are
validated strictly against the SDK's types.
"""

import http.server
import json
import pathlib
import sys
import threading

import anthropic
import openai
from anthropic.types import Message
from openai.types.chat import ChatCompletion, ChatCompletionChunk


def server(folder):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            streamed = asked.get("stream")
            body = (folder / (asked["model"] + (".sse" if streamed else ".json"))).read_bytes()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if streamed else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{httpd.server_address[1]}"


def check_anthropic(client, name):
    asked = {"model": name, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
    whole = client.messages.create(**asked)
    Message.model_validate(whole.to_dict(), strict=True)
    with client.messages.stream(**asked) as stream:
        put_together = stream.get_final_message()
    Message.model_validate(put_together.to_dict(), strict=True)
    for part in ["content", "stop_reason", "stop_sequence", "usage"]:
        one, other = (message.to_dict()[part] for message in (whole, put_together))
        if part == "content":
            # The helper adds a field of its own to text.
            other = [{k: v for k, v in block.items() if k != "parsed_output"} for block in other]
        assert one == other, f"{name}: {part}: {one} != {other}"
    return len(put_together.content)


def check_openai(client, name):
    asked = {"model": name, "messages": [{"role": "user", "content": "x"}]}
    whole = client.chat.completions.create(**asked)
    ChatCompletion.model_validate(whole.to_dict(), strict=True)
    texts, arguments, reasons, usage = {}, {}, {}, None
    for chunk in client.chat.completions.create(**asked, stream=True):
        ChatCompletionChunk.model_validate(chunk.to_dict(), strict=True)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            index = choice.index
            texts[index] = texts.get(index, "") + (choice.delta.content or "")
            reasons[index] = choice.finish_reason or reasons.get(index)
            for call in choice.delta.tool_calls or []:
                key = (index, call.index)
                arguments[key] = arguments.get(key, "") + call.function.arguments
    assert usage == whole.usage, f"{name}: {usage} != {whole.usage}"
    for choice in whole.choices:
        index, message = choice.index, choice.message
        assert texts[index] == (message.content or ""), name
        assert reasons[index] == choice.finish_reason, name
        calls = [call.function.arguments for call in message.tool_calls or []]
        assert calls == [json_text for key, json_text in sorted(arguments.items()) if key[0] == index], name
    return len(whole.choices)


def main():
    folder = pathlib.Path(sys.argv[1])
    url = server(folder)
    clients = {
        "anthropic": (check_anthropic, anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)),
        "openai": (check_openai, openai.OpenAI(base_url=url, api_key="unused", max_retries=0)),
    }
    names = sorted(path.stem for path in folder.glob("*.sse"))
    assert names, f"there is nothing in {folder}"
    for name in names:
        check, client = clients[name.rsplit(".", 1)[1]]
        print(f"{name}: good, {check(client, name)} parts")


if __name__ == "__main__":
    main()
