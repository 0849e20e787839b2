#!/usr/bin/env python3
"""Makes the tiny random checkpoints in tests/goldens and what transformers computes from them.

    python3 -m venv target/goldens-venv
    target/goldens-venv/bin/pip install torch transformers
    target/goldens-venv/bin/python scripts/goldens.py [NAME ...]

Each directory is a checkpoint in Hugging Face layout plus golden.json:

    ignore_eos           False: no golden output holds an EOS id, so nothing needs to be set
    logprob_tolerance    allowed difference of a first-step log-probability, in nats
    margin_nats_min      the smallest margin of the file
    cases[].prompt       token ids
    cases[].tokens       the greedy continuation
    cases[].margins      per step: log-probability of the best token less that of the second best
    cases[].first_logprobs   the whole vocabulary's log-probabilities before the first token, or
    cases[].first_top        the 20 best as [id, logprob]

Computed in f32 with eager attention, one prompt at a time; the continuation is computed with
the KV cache and again without it, and both must agree. Prompts are drawn until every margin is
wide enough, so that an implementation which sums in another order still gets the same tokens.
Where a checkpoint shows a feature (rope scaling, a sliding window) the same weights without the
feature must give clearly different log-probabilities, else the golden would prove nothing.

Mixtures of experts are in goldens_moe.py, FP8, AWQ and GPTQ in goldens_quantized.py, GGUF files
in goldens_gguf.py; they share what is here.
"""

import copy
import json
import pathlib
import shutil
import sys

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens"
VOCAB = 320
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STEPS = 24
LENGTHS = [1, 5, 17, 40, 70, 100]
LENGTHS_16 = [1, 5, 17, 40, 70, 100, 2, 3, 8, 15, 16, 31, 32, 33, 64, 48]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Qwen2's pre-tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer():
    """A byte-level BPE of VOCAB tokens, the special ones last (as in Qwen's vocabularies)."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tok = tokenizers.Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train([str(ROOT / "corpus.txt")], trainer)
    tok.add_special_tokens(SPECIAL)
    assert tok.get_vocab_size() == VOCAB
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


TOKENIZER = train_tokenizer()
EOS = [TOKENIZER.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]

BASE = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    bos_token_id=None,
    eos_token_id=EOS[0],
    pad_token_id=EOS[1],
    tie_word_embeddings=False,
)


def rope(kind="default", **extra):
    return {"rope_type": kind, "rope_theta": 10000.0, **extra}


# name -> (config class, fields, options). Options: v4 writes config.json as transformers 4 does;
# without = fields that switch the shown feature off; dtype = stored type; like = weights of.
CHECKPOINTS = {
    "llama": (LlamaConfig, dict(rope_parameters=rope()), dict(lengths=LENGTHS_16)),
    "llama-llama3rope": (
        LlamaConfig,
        dict(rope_parameters=rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        )),
        dict(v4=True, without=dict(rope_parameters=rope())),
    ),
    "llama-linear": (
        LlamaConfig,
        dict(rope_parameters=rope("linear", factor=4.0)),
        # Written before `type` became `rope_type`.
        dict(v4=True, rope_type_key="type", without=dict(rope_parameters=rope())),
    ),
    "llama-yarn": (
        LlamaConfig,
        dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
        dict(lengths=[1, 5, 17, 40, 100, 200], without=dict(rope_parameters=rope())),
    ),
    "llama-tied-bias": (
        LlamaConfig, dict(rope_parameters=rope(), tie_word_embeddings=True, attention_bias=True), {}
    ),
    "llama-bf16": (LlamaConfig, dict(rope_parameters=rope()), dict(like="llama", dtype=torch.bfloat16)),
    "llama-f16": (LlamaConfig, dict(rope_parameters=rope()), dict(like="llama", dtype=torch.float16)),
    "qwen2": (Qwen2Config, dict(rope_parameters=rope()), dict(v4=True)),
    "qwen2-sliding": (
        Qwen2Config,
        dict(
            rope_parameters=rope(), num_hidden_layers=3, use_sliding_window=True, sliding_window=20,
            max_window_layers=1, tie_word_embeddings=True,
        ),
        dict(lengths=[1, 5, 17, 20, 21, 40, 100], without=dict(use_sliding_window=False, layer_types=None)),
    ),
    "qwen2-yarn-sharded": (
        Qwen2Config,
        dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)),
        dict(
            v4=True, rope_type_key="type", shards="256KB", lengths=[1, 17, 40, 100, 200],
            without=dict(rope_parameters=rope()),
        ),
    ),
    "qwen3": (
        Qwen3Config,
        dict(rope_parameters={**rope(), "rope_theta": 1e6}, head_dim=32, tie_word_embeddings=True),
        dict(lengths=LENGTHS_16, sample=True),
    ),
}


def build(config, seed):
    """A model whose logits spread over several nats and whose attention looks at positions."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    gen = torch.Generator().manual_seed(seed)
    scale = (64 / config.hidden_size) ** 0.5
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name:
                p.copy_((1.5 if "q_norm" in name or "k_norm" in name else 1.0) + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.3 * noise)
            elif "embed" in name or "lm_head" in name:
                p.copy_(0.5 * scale * noise)
            else:
                p.copy_(0.2 * scale * noise)
    return model


@torch.no_grad()
def greedy(model, prompts, steps, cache=True):
    """(tokens [n, steps], log-probabilities [n, steps, vocab]) for prompts [n, length]."""
    tokens, logprobs, past, ids = [], [], None, prompts
    for _ in range(steps):
        out = model(input_ids=ids, past_key_values=past, use_cache=cache)
        past = out.past_key_values if cache else None
        logprobs.append(out.logits[:, -1].float().log_softmax(-1))
        tokens.append(logprobs[-1].argmax(-1))
        ids = tokens[-1][:, None] if cache else torch.cat([ids, tokens[-1][:, None]], 1)
    return torch.stack(tokens, 1), torch.stack(logprobs, 1)


def margins(logprobs):
    top = logprobs.topk(2, -1).values
    return top[..., 0] - top[..., 1]


def draw_prompts(length, gen):
    return torch.randint(0, VOCAB - len(SPECIAL), (64, length), generator=gen)


def find_prompt(model, length, margin, gen, taken, steps=STEPS, routers=None, also=lambda prompt, tokens: True):
    """A random prompt whose whole continuation is safe from ties, free of EOS and not dull.

    `routers` (see goldens_moe.py) watches a mixture of experts for ties between experts; `also`
    is a further condition."""
    best = None
    for _ in range(40):
        prompts = routers.draw_prompts(model, length, gen) if routers else draw_prompts(length, gen)
        tokens, logprobs = greedy(model, prompts, steps)
        safe = margins(logprobs).min(-1).values >= margin * 1.1
        if routers:
            safe &= routers.take(len(prompts)) >= routers.margin * 1.1
        for p, t, ok in zip(prompts, tokens.tolist(), safe.tolist()):
            if ok and not set(t) & set(EOS) and tuple(p.tolist()) not in taken:
                if (best is None or len(set(t)) > len(set(best[1]))) and also(p, t):
                    best = (p, t)
        if best is not None and len(set(best[1])) >= steps // 2:
            break
    if best is None:
        raise SystemExit(f"no prompt of {length} tokens has margins of {margin}: choose another seed")
    taken.add(tuple(best[0].tolist()))
    return best[0][None]


def case(model, prompt, full, steps=STEPS, routers=None):
    tokens, logprobs = greedy(model, prompt, steps)
    router_margin = routers.take(1).item() if routers else None
    again, logprobs_again = greedy(model, prompt, steps, cache=False)
    assert torch.equal(tokens, again)
    assert (logprobs - logprobs_again).abs().max() < 2e-4, (logprobs - logprobs_again).abs().max()
    if routers:
        assert min(router_margin, routers.take(1).item()) >= routers.margin
    first = logprobs[0, 0]
    golden = {
        "prompt": prompt[0].tolist(),
        "tokens": tokens[0].tolist(),
        "margins": [round(m, 4) for m in margins(logprobs)[0].tolist()],
    }
    if full:
        golden["first_logprobs"] = [round(x, 6) for x in first.tolist()]
    else:
        top = first.topk(20)
        golden["first_top"] = [[i, round(x, 6)] for i, x in zip(top.indices.tolist(), top.values.tolist())]
    if routers:
        golden["router_margin"] = round(router_margin, 5)
    return golden


def as_transformers_4(config, rope_type_key):
    """config.json as transformers 4 wrote it."""
    config = dict(config)
    params = dict(config.pop("rope_parameters"))
    config["rope_theta"] = params.pop("rope_theta")
    kind = params.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {rope_type_key: kind, **params}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.3"
    config.pop("layer_types", None)
    return config


def write_json(path, value):
    """Indented, with each list of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    out, depth_line = [], None
    for line in text.splitlines():
        stripped = line.strip()
        if depth_line is None and line.endswith("["):
            depth_line = [line]
        elif depth_line is not None and (stripped[0].isdigit() or stripped[0] in "-]"):
            depth_line.append(stripped)
            if stripped[0] == "]":
                out.append("".join(depth_line[:1]) + " ".join(depth_line[1:-1]) + depth_line[-1])
                depth_line = None
        else:
            out.extend(depth_line or [])
            depth_line = None
            if line.endswith("["):
                depth_line = [line]
            else:
                out.append(line)
    path.write_text("\n".join(out) + "\n")
    assert json.loads(path.read_text()) == value


def save(model, target, options, edit=lambda config: config):
    """Writes the checkpoint in the form that `options` and `edit` (of config.json) ask for."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    stored = copy.deepcopy(model).to(options.get("dtype", torch.float32))
    stored.generation_config = transformers.GenerationConfig(
        eos_token_id=EOS, pad_token_id=EOS[1],
        **(dict(do_sample=True, temperature=0.7, top_p=0.9, top_k=20) if options.get("sample") else {}),
    )
    stored.save_pretrained(target, max_shard_size=options.get("shards", "1GB"))
    TOKENIZER.save_pretrained(target)
    if (target / "chat_template.jinja").exists() and options.get("v4"):
        # transformers 4 kept the template in tokenizer_config.json.
        (target / "chat_template.jinja").unlink()
        path = target / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": CHAT_TEMPLATE}, indent=2) + "\n")
    path = target / "config.json"
    config = json.loads(path.read_text())
    if options.get("v4"):
        config = as_transformers_4(config, options.get("rope_type_key", "rope_type"))
    path.write_text(json.dumps(edit(config), indent=2) + "\n")


def check_reread(model, target, **load):
    """What was written means to transformers what `model` computes."""
    reread = AutoModelForCausalLM.from_pretrained(target, attn_implementation="eager", dtype=torch.float32, **load)
    probe = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.equal(model(probe).logits, reread.eval()(probe).logits), "the checkpoint means something else"


@torch.no_grad()
def check_feature(name, model, plain, cases):
    """Some case's first step tells `plain`, which lacks the feature, from `model`."""
    first = [[m(torch.tensor([c["prompt"]])).logits[0, -1].log_softmax(-1) for c in cases] for m in (model, plain)]
    gap = (torch.stack(first[0]) - torch.stack(first[1])).abs().max()
    assert gap > 0.5, f"{name}: without its feature the log-probabilities differ by {gap:.4f} only"
    return gap.item()


def find_cases(model, lengths, seed, margin, steps=STEPS, routers=None, **conditions):
    gen, taken = torch.Generator().manual_seed(seed), set()
    return [
        case(model, find_prompt(model, n, margin, gen, taken, steps, routers, **conditions), i == 2, steps, routers)
        for i, n in enumerate(lengths)
    ]


def made_by(script):
    return f"scripts/{script}, transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


def write_golden(target, cases, tolerance, **about):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好, what is 12 + 30? 😀"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    write_json(target / "golden.json", {
        **about,
        "ignore_eos": False,
        "logprob_tolerance": tolerance,
        "margin_nats_min": min(min(c["margins"]) for c in cases),
        "chat": {"messages": messages, "text": text, "ids": TOKENIZER(text)["input_ids"]},
        "cases": cases,
    })
    size = sum(f.stat().st_size for f in target.iterdir())
    distinct = [len(set(c["tokens"])) for c in cases]
    print(f"{target.name}: {size / 1e3:.0f} kB, {len(cases)} cases, distinct tokens {distinct}", flush=True)


def make(name):
    config_class, fields, options = CHECKPOINTS[name]
    target = ROOT / name
    config = config_class(**copy.deepcopy({**BASE, **fields}))
    seed = 1 + sorted(CHECKPOINTS).index(options.get("like", name))
    model = build(config, seed)
    dtype = options.get("dtype", torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype).float())
    save(model, target, options)
    if options.get("v4"):
        check_reread(model, target)

    rounded = dtype != torch.float32
    cases = find_cases(model, options.get("lengths", LENGTHS), seed, 0.1 if rounded else 0.05)
    if "without" in options:
        plain = AutoModelForCausalLM.from_config(
            config_class(**copy.deepcopy({**BASE, **fields, **options["without"]})), attn_implementation="eager",
            dtype=torch.float32,
        ).eval()
        plain.load_state_dict(model.state_dict())
        check_feature(name, model, plain, cases)
    write_golden(
        # Rounded checkpoints may be served with a KV cache of f16.
        target, cases, 0.02 if rounded else 0.001,
        made_by=made_by("goldens.py"),
        seed=seed,
        config_form="transformers 4" if options.get("v4") else "transformers 5",
        compute="f32 from the stored weights, eager attention",
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or CHECKPOINTS:
        make(name)
