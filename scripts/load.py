#!/usr/bin/env python3
"""A bounded streaming load on an OpenAI-compatible server; prints one line of JSON.

    load.py --url http://127.0.0.1:8000/v1 --model NAME -c 8 -n 32 --prompt-tokens 200 --max-tokens 64

Prompts are seeded random words (about one token each), each request its own, so that prefix
caches do not help. At most -c requests are open at once. Token counts are the server's usage.
Needs httpx.
"""

import argparse
import asyncio
import json
import random
import statistics
import time

import httpx

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea"
).split()
PREAMBLE = "Go on with this list: "


def prompt(rng, tokens):
    return PREAMBLE + " ".join(rng.choice(WORDS) for _ in range(max(1, tokens - 6)))


async def request(client, url, model, text, max_tokens):
    """One streamed chat; raises unless it answers with exactly `max_tokens` tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, last, usage = time.perf_counter(), None, None, None
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data:") or line.endswith("[DONE]"):
                continue
            event = json.loads(line[5:])
            usage = event.get("usage") or usage
            choices = event.get("choices")
            if choices and (choices[0]["delta"].get("content") or choices[0].get("finish_reason")):
                last = time.perf_counter()
                first = first or last
    if usage is None or first is None:
        raise RuntimeError("the stream ended without text or usage")
    if usage["completion_tokens"] != max_tokens:
        raise RuntimeError(f"{usage['completion_tokens']} tokens came, {max_tokens} were asked for")
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        "tokens": usage["completion_tokens"],
        "ttft_s": first - start,
        "decode_s": last - first,
    }


async def load(url, model, concurrency, count, prompt_tokens, max_tokens, seed, timeout_s=600):
    """Runs `count` requests, `concurrency` at once, and sums them up."""
    rng = random.Random(seed)
    todo = [prompt(rng, prompt_tokens) for _ in range(count)]
    done = []
    # A connection per request: llama-server may close an idle one just when it is used again.
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=timeout_s, limits=limits) as client:

        async def worker():
            while todo:
                done.append(await request(client, url, model, todo.pop(), max_tokens))

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        wall = time.perf_counter() - start
    tokens = sum(d["tokens"] for d in done)
    prompts = sum(d["prompt_tokens"] for d in done)
    decode = [(d["tokens"] - 1) / d["decode_s"] for d in done if d["tokens"] > 1 and d["decode_s"] > 0]
    return {
        "requests": len(done),
        "wall_s": round(wall, 3),
        "prompt_tokens": prompts,
        "cached_tokens": sum(d["cached_tokens"] for d in done),
        "output_tokens": tokens,
        "output_tok_s": round(tokens / wall, 2),
        "prompt_tok_s": round(prompts / wall, 2),
        "decode_tok_s_p50": round(statistics.median(decode), 2) if decode else None,
        "ttft_s_p50": round(statistics.median(d["ttft_s"] for d in done), 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("-c", "--concurrency", type=int, default=4)
    parser.add_argument("-n", "--count", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(load(**vars(parser.parse_args())))))
