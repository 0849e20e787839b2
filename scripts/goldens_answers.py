#!/usr/bin/env python3
"""Writes tests/text/goldens/answers.json: what models answer, as their own chat templates write it.

Usage: scripts/goldens_answers.py [CACHE]
  CACHE  what scripts/fetch_tokenizers.sh filled (default target/test-cache)

A template writes an earlier turn of the assistant the way its model writes one. So for each family's
template, turns with reasoning, text and calls are rendered by Jinja; what comes behind the
prompt for generation, up to the end of the turn, is the model's raw output.
"""

import json
import pathlib
import re
import sys

import jinja2
from jinja2.sandbox import SandboxedEnvironment

ROOT = pathlib.Path(__file__).resolve().parent.parent

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "write_file",
            "description": "Writes a file",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "content": {"type": "string"},
                    "lines": {"type": "array", "items": {"type": "integer"}},
                    "options": {"type": "object"},
                    "force": {"type": "boolean"},
                },
                "required": ["path"],
            },
        },
    },
]

WEATHER = ("get_weather", {"city": "São Paulo", "days": 3})
FILE = (
    "write_file",
    {
        "path": "a/b.py",
        "content": "def f(x):\n    return \"{'a': [x]}\" # </p> é 😀\n",
        "lines": [1, -2],
        "options": {"deep": {"list": [None, "</x>"]}},
        "force": True,
    },
)

# (name, reasoning, text, calls)
TURNS = [
    ("text", None, "It is\n\nsunny.", []),
    ("reasoning", "Let me see.\n\n1 < 2.", "It is sunny.", []),
    ("call", None, "", [WEATHER]),
    ("text and call", None, "I look.", [WEATHER]),
    ("reasoning and call", "Let me see.", "", [FILE]),
    ("two calls", None, "", [WEATHER, FILE]),
]

# Template, where turns end, what more the template is given, the turns that it can't write.
FAMILIES = [
    ("Qwen-Qwen2.5-7B-Instruct", "<|im_end|>", {}, []),
    ("Qwen-Qwen3-0.6B", "<|im_end|>", {}, []),
    ("Qwen3-Coder", "<|im_end|>", {}, []),
    ("Qwen3.5-4B", "<|im_end|>", {}, []),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "<|im_end|>", {}, []),
    ("ibm-granite-granite-4.0", "<|end_of_text|>", {}, []),
    ("deepseek_v3", "<｜end▁of▁sentence｜>", {}, []),
    ("deepseek-ai-DeepSeek-V3.1", "<｜end▁of▁sentence｜>", {"thinking": True}, []),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "<｜end▁of▁sentence｜>", {"enable_thinking": True}, []),
    ("meta-llama-Llama-3.1-8B-Instruct", "<|eot_id|>", {}, ["two calls"]),
    ("meta-llama-Llama-3.2-3B-Instruct", "<|eot_id|>", {}, ["two calls"]),
    # Writes quotes within quotes.
    ("LFM2.5-8B-A1B", "<|im_end|>", {}, ["reasoning and call", "two calls"]),
    ("MiniMax-M2", "[e~[", {}, []),
    ("Kimi-K2-Instruct", "<|im_end|>", {}, []),
    ("Kimi-K2-Thinking", "<|im_end|>", {}, []),
    ("GLM-4.6", "<|user|>", {}, []),
    ("GLM-4.7-Flash", "<|user|>", {}, []),
    # Writes text beside calls as reasoning.
    ("openai-gpt-oss-120b", "<|return|>", {}, ["text and call"]),
    ("ByteDance-Seed-OSS", "<seed:eos>", {}, []),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "<|im_end|>", {}, []),
    ("deepseek-ai-DeepSeek-V3.2", "<｜end▁of▁sentence｜>", {"thinking": True}, []),
    ("deepseek-ai-DeepSeek-V4", "<｜end▁of▁sentence｜>", {"thinking": True}, []),
    # Writes no text beside calls, and no reasoning; nor do the next three reason.
    ("mistralai-Mistral-Nemo-Instruct-2407", "</s>", {}, ["text and call", "reasoning", "reasoning and call"]),
    ("Mistral-Small-3.2-24B-Instruct-2506", "</s>", {}, ["text and call", "reasoning", "reasoning and call"]),
    ("unsloth-mistral-Devstral-Small-2507", "</s>", {}, ["reasoning", "reasoning and call"]),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "</s>", {}, []),
]


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compiled(source):
    """As transformers compiles templates, but for the lists that Kimi's template changes."""
    loopcontrols = "jinja2.ext.loopcontrols"
    environment = SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["strftime_now"] = lambda form: "20 Jul 2025"

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    # These tags only mark what a model writes.
    return environment.from_string(re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", source))


def source(cache, name):
    config = cache / "tokenizers" / name / "tokenizer_config.json"
    if config.exists():
        return json.loads(config.read_text())["chat_template"]
    return (cache / "templates" / f"{name}.jinja").read_text()


def answer(template, name, end, more, turn, reasoning, text, calls):
    asked = [{"role": "user", "content": "Well?"}]
    said = {"role": "assistant", "content": text}
    if reasoning is not None:
        said["thinking" if "gpt-oss" in name else "reasoning_content"] = reasoning
    if calls:
        # DeepSeek V3's template joins the arguments to a text.
        written = json.dumps if name == "deepseek_v3" else lambda arguments: arguments
        said["content"] = text or None if name == "deepseek_v3" else text
        said["tool_calls"] = [
            {
                "id": f"call0000{at}" if "istral" in name else f"functions.{tool}:{at}",
                "type": "function",
                "function": {"name": tool, "arguments": written(arguments)},
            }
            for at, (tool, arguments) in enumerate(calls)
        ]
    if "Ministral" in name and reasoning is not None:
        thought = {"type": "thinking", "thinking": reasoning}
        said["content"] = [thought, {"type": "text", "text": text}] if text else [thought]
    given = {"tools": TOOLS, "bos_token": "", "eos_token": end if end == "</s>" else "", **more}
    prompt = template.render(messages=asked, add_generation_prompt=True, **given)
    whole = template.render(messages=asked + [said], add_generation_prompt=False, **given)
    if not whole.startswith(prompt):
        # The prompt opens a block of reasoning, which this turn lacks.
        prompt = re.sub("<think>\n?$", "", prompt)
    assert whole.startswith(prompt), (name, turn, prompt[-60:], whole[-60:])
    raw = whole[len(prompt) :].split(end)[0]
    # What the template left out was not answered.
    return {
        "template": name,
        "turn": turn,
        "prompt_end": prompt[-40:],
        "raw": raw,
        "reasoning": reasoning if reasoning and reasoning in raw else "",
        "text": text if text in raw else "",
        "calls": [[tool, arguments] for tool, arguments in calls if tool in raw],
    }


def main():
    cache = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/test-cache")
    found = []
    for name, end, more, cannot in FAMILIES:
        template = compiled(source(cache, name))
        found += [answer(template, name, end, more, *turn) for turn in TURNS if turn[0] not in cannot]
    out = ROOT / "tests/text/goldens/answers.json"
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in found)
    tools = json.dumps(TOOLS, ensure_ascii=False)
    out.write_text(f'{{"tools": {tools},\n"answers": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
