#!/usr/bin/env python3
"""Writes tests/text/goldens/*.json: chat-template renderings and token ids by transformers.

Usage: scripts/goldens_text.py [CACHE] [DEMO_GGUF]
  CACHE      what scripts/fetch_tokenizers.sh filled (default target/test-cache/tokenizers)
  DEMO_GGUF  SmolLM2-135M-Instruct.Q4_1.gguf; without it SmolLM2's goldens are left as they are

The packages' templates are read from CACHE here and in the test, and are not committed; the
goldens hold what they render. The templates in FEATURES are this project's own. SmolLM2's
template and vocabulary (Apache-2.0) come from the demo checkpoint's GGUF file; its ids are those
of a tokenizer that is put together here from SmolLM2's tokenizer.json facts (no normalizer,
individual digits, byte-level with GPT-2's pattern), with vocabulary and merges from the file.
"""

import datetime
import json
import pathlib
import sys

import transformers.utils.chat_template_utils as chat_template_utils
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/text/goldens"
NOW = 1_753_000_000  # 2025-07-20 08:26:40 UTC


class Now(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


chat_template_utils.datetime = Now

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> & \"later\" für 東京",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "it's a city"},
                    "days": {"type": "array", "items": {"type": "integer"}, "default": []},
                    "scale": {"type": "number", "default": 1e-07, "maximum": 1e16, "minimum": 1.0},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "noop", "parameters": {}}},
]


def call(arguments, name="get_weather", **more):
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Hello! "}
CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, {"role": "user", "content": "And now?"}],
    "late_system": [USER, ANSWER, SYSTEM, USER],
    "two_systems": [SYSTEM, SYSTEM, USER],
    "unicode": [
        {"role": "user", "content": "  e\u0301 é 👨‍👩‍👧 中文 \u3000\x1c\u0085\n\n\ttab 'q' \"d\" <|im_end|> {{ x }} {% if %} \\n "},
        {"role": "assistant", "content": "\n\n¿Qué? \u2028 \u200b"},
        {"role": "user", "content": "\r\nok\r\n"},
    ],
    "empty": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "thinking": [
        USER,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"},
        USER,
        {"role": "assistant", "content": "<think>x</think>y", "reasoning_content": "\nbecause\n"},
    ],
    "reasoning_alias": [USER, {"role": "assistant", "content": "Yes", "reasoning": "so it is"}],
    "tool_call_text": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call('{"city": "Köln"}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12°C"},
    ],
    "tool_call_object": [
        SYSTEM,
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [
            call({"city": "東京", "days": [1, 2], "scale": 1.0, "deep": {"b": None, "a": True}}),
            call({}, "noop"),
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a"},
        {"role": "tool", "tool_call_id": "call_2", "content": "b"},
        {"role": "assistant", "content": "Done."},
        USER,
    ],
    "tool_call_empty_content": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call("{}", "noop")]},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "fine"},
    ],
    "assistant_last": [USER, {"role": "assistant", "content": "The answer is"}],
    "assistant_last_space": [USER, {"role": "assistant", "content": "The answer is \n"}],
    "unknown_role": [{"role": "developer", "content": "x", "name": "n"}, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}],
}
OPTIONS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": True, "extra": {"enable_thinking": False}},
    {"add_generation_prompt": True, "extra": {"enable_thinking": True, "date_string": "26 Jul 2024"}},
    {"add_generation_prompt": False, "continue_final_message": True},
]

# Small templates for what the families' own leave out: R1's split of the reasoning, Llama 3.1's
# dates and tools, and Python's corners.
FEATURES = {
    "r1_style": """{%- for message in messages %}
{%- if message['role'] == 'assistant' and message['content'] is not none %}
{%- set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<A>' + content + '</A>' }}
{%- elif message['role'] == 'user' %}{{ '<U>' + (message['content'] if message.content is string else message.content | tojson) }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<A><think>\\n' }}{% endif %}""",
    "llama31_style": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<sys>Today Date: " + date_string + "\\n" + system_message }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<' + message['role'] + '>' + message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.name + "(" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' ~ arg_val ~ '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
        {{- ")" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}""",
    "python_corners": """{% macro show(x, label='v') %}{{ label }}={{ x }};{% endmacro %}
{% set ns = namespace(n=0, seen=[]) %}
{% for message in messages[::-1] if message.role != 'system' %}
  {% if loop.index0 > 2 %}{% break %}{% endif %}
  {% generation %}{{ loop.index }}/{{ loop.length }} {{ message }}{% endgeneration %}
  {% set ns.n = ns.n + message.content | length %}
{% endfor %}
{{ show(none) }}{{ show(true, label='t') }}{{ show(1.0) }}{{ show(1e-07) }}{{ show(1e16) }}{{ show(123456.789) }}{{ show([1, 'a', none, {'k': 2.5}]) }}{{ show((1,)) }}
{{ ns.n }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 8 }} {{ messages | length }} {{ 'abc'[::-1] }}
{{ tools | tojson(ensure_ascii=true) }} {{ messages | tojson(sort_keys=true, indent=2) }} {{ {'a': 1} | tojson(separators=(',', ':')) }}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ missing }}{{ missing is defined }}{{ messages[0].missing is defined }}{{ missing | default('d') }}{{ none | default('d', true) }}
{{ ' x '.strip() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a b'.title() }}|{{ 'x'.join(['a', 'b']) }}|{{ 'abc'.replace('b', 'B') }}|{{ 'a'.upper() ~ 'B'.lower() }}
{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ tools is none }}{{ documents is none }}
{% if messages[0].content is string and messages[0] is mapping and messages is iterable and messages is not string %}kinds{% endif %}
  {%- if add_generation_prompt %} end{% endif %}
""",
    "raises": """{% if messages[0].role != 'user' %}{{ raise_exception('Conversation must start with user, got ' ~ messages[0].role) }}{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}""",
    "multimodal": """{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'image' %}<img>{% elif 'text' in p %}{{ p.text }}{% endif %}{% endfor %}{% endif %}</{{ m.role }}>{% endfor %}""",
    "ignores_content": """{% for m in messages %}{{ m.role }}{% endfor %}""",
    "trims_content": """{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}""",
}
FEATURES_TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}


def token_text(token):
    return token["content"] if isinstance(token, dict) else token


def blank_tokenizer(config):
    """A tokenizer that has the special tokens and nothing else."""
    from tokenizers import Tokenizer, models

    names = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]
    tokens = {name: token_text(config[name]) for name in names if config.get(name) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **tokens)


def renderings(template, config):
    tokenizer = blank_tokenizer(config)
    cases = []
    for name, messages in CONVERSATIONS.items():
        for index, options in enumerate(OPTIONS):
            if options.get("continue_final_message") and messages[-1]["role"] != "assistant":
                continue
            case = {"conversation": name, "options": index}
            try:
                case["text"] = tokenizer.apply_chat_template(
                    messages,
                    tools=options.get("tools"),
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=options["add_generation_prompt"],
                    continue_final_message=options.get("continue_final_message", False),
                    **options.get("extra", {}),
                )
            except Exception as error:  # what a template raises is part of the reference
                case["error"] = str(error) if type(error).__name__ == "TemplateError" else None
            cases.append(case)
    return cases


def write(name, value):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def smollm2(path):
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(path).fields
    field = {key.removeprefix("tokenizer."): value.contents() for key, value in fields.items() if key.startswith("tokenizer.")}
    vocab = {token: index for index, token in enumerate(field["ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in field["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(field["ggml.tokens"], field["ggml.token_type"]) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    strings = json.loads((ROOT / "tests/text/goldens/strings.json").read_text(encoding="utf-8"))
    write("smollm2_ids.json", [fast(text, add_special_tokens=False)["input_ids"] for text in strings])
    tokens = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>"}
    template = field["chat_template"]
    write("smollm2_chat.json", {"template": template, "tokens": tokens, "cases": renderings(template, tokens)})


# What transformers takes for text's rules where there is no tokenizer.json, with the files that
# each class is saved as besides vocab.json and merges.txt.
BPE_CLASSES = {
    "Qwen2Tokenizer": {
        "config.json": {"model_type": "qwen2"},
        "added_tokens.json": {"<|endoftext|>": 1002, "<|im_start|>": 1001, "<|im_end|>": 1000},
        "special_tokens_map.json": {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]},
        "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"},
    },
    "GPT2Tokenizer": {
        "config.json": {"model_type": "gpt2"},
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "eos_token": "<|endoftext|>",
            "added_tokens_decoder": {"1000": {"content": "<|endoftext|>", "special": True, "normalized": False}},
        },
    },
}


def bpe_files():
    """A small vocabulary in vocab.json and merges.txt, and the ids that transformers gives."""
    import tempfile

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import AutoTokenizer

    strings = json.loads((OUT / "strings.json").read_text(encoding="utf-8"))
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    corpus = (ROOT / "tests/goldens/corpus.txt").read_text(encoding="utf-8").splitlines()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocab = {token: id for token, id in model["vocab"].items()}
    # Whatever the corpus gave, added tokens begin at 1000.
    for id in range(len(vocab), 1000):
        vocab[f"unused{id}"] = id
    merges = [" ".join(pair) for pair in model["merges"]]
    cases = {}
    for name, files in BPE_CLASSES.items():
        with tempfile.TemporaryDirectory() as directory:
            place = pathlib.Path(directory)
            everything = {"vocab.json": vocab, **files}
            for file, value in everything.items():
                (place / file).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
            (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(directory)
            assert type(tokenizer).__name__.startswith(name.removesuffix("Tokenizer")), type(tokenizer)
            texts = strings + ["<|im_start|>user\nHi<|im_end|>", "a<|endoftext|> b"]
            cases[name] = {"files": files, "texts": texts[len(strings):], "ids": [tokenizer(text)["input_ids"] for text in texts]}
    write("bpe_files.json", {"vocab": vocab, "merges": merges, "cases": cases})


def main():
    cache = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target/test-cache/tokenizers"
    write("conversations.json", {"now": NOW, "conversations": CONVERSATIONS, "options": OPTIONS})
    features = {
        name: {"template": template, "tokens": FEATURES_TOKENS, "cases": renderings(template, FEATURES_TOKENS)}
        for name, template in FEATURES.items()
    }
    write("features_chat.json", features)
    bpe_files()
    for family in ["qwen3", "qwen2_5", "llama3_1", "deepseek_v3"]:
        config = json.loads((cache / family / "tokenizer_config.json").read_text(encoding="utf-8"))
        write(f"{family}_chat.json", renderings(config["chat_template"], config))
    if len(sys.argv) > 2:
        smollm2(sys.argv[2])


if __name__ == "__main__":
    main()
