#!/usr/bin/env python3
"""Goldens of Llama's relatives: the checkpoints of goldens.py's form in tests/goldens whose models
differ from Llama by a field or two.

    target/goldens-venv/bin/python scripts/goldens_relatives.py [NAME ...]

Requirements as in goldens.py. phi3 has a second file, golden_short.json: its prompts and what
follows them stay within the context that LongRoPE's short factors are for, so that they are what a
server gives that serves no longer sequences (`--max-context 64`). golden.json's are all beyond it.
GGUF files of the same checkpoints are made by goldens_gguf.py --only NAME.
"""

import copy
import sys

import goldens
import torch
import transformers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GraniteConfig, MinistralConfig, MistralConfig, Phi3Config, SmolLM3Config

SMALL = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1)
ORIGINAL = 64
# Wide enough for activations in 16 bits.
MARGIN = 0.12


def phi3_of_transformers_4(config):
    """Phi-3 keeps these beside rope_scaling."""
    scaling = config["rope_scaling"]
    config["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    config["original_max_position_embeddings"] = scaling.pop("original_max_position_embeddings")
    return config


def longrope(short, long):
    return goldens.rope(
        "longrope", short_factor=short, long_factor=long, original_max_position_embeddings=ORIGINAL,
        partial_rotary_factor=0.75,
    )


# name -> (config class, fields, options as in goldens.py; edit: of config.json).
CHECKPOINTS = {
    "gemma3": (
        Gemma3TextConfig,
        dict(
            **SMALL, head_dim=32, query_pre_attn_scalar=32, sliding_window=20,
            # llama.cpp's converter takes the published pattern for granted: every sixth sees everything.
            num_hidden_layers=6,
            rope_parameters={
                "full_attention": {**goldens.rope("linear", factor=4.0), "rope_theta": 1e6},
                "sliding_attention": goldens.rope(),
            },
            # Tied, a token would be followed by itself: its embedding outweighs so small a model's layers.
            tie_word_embeddings=False,
        ),
        dict(
            lengths=[1, 5, 21, 40, 100],
            without=dict(rope_parameters={
                "full_attention": {**goldens.rope(), "rope_theta": 1e6}, "sliding_attention": goldens.rope(),
            }),
        ),
    ),
    "granite": (
        GraniteConfig,
        dict(
            **SMALL, rope_parameters=goldens.rope(), embedding_multiplier=1.5, residual_multiplier=0.6,
            attention_multiplier=0.3, logits_scaling=2.0, tie_word_embeddings=True,
        ),
        dict(
            v4=True,
            without=dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=16**-0.5, logits_scaling=1.0),
        ),
    ),
    "ministral": (
        MinistralConfig,
        dict(
            **SMALL, rope_parameters=goldens.rope(), head_dim=32, sliding_window=20,
            layer_types=["sliding_attention", "full_attention"],
        ),
        dict(lengths=[1, 5, 17, 21, 40, 100], without=dict(layer_types=["full_attention"] * 2)),
    ),
    "mistral": (
        MistralConfig,
        dict(**SMALL, rope_parameters={**goldens.rope(), "rope_theta": 1e6}, head_dim=32, sliding_window=20),
        dict(v4=True, lengths=[1, 5, 17, 20, 21, 40, 100], without=dict(sliding_window=None)),
    ),
    "phi3": (
        Phi3Config,
        dict(
            hidden_size=64, intermediate_size=64, original_max_position_embeddings=ORIGINAL, sliding_window=90,
            rope_parameters=longrope([1.0, 1.05, 1.1, 1.3, 1.5, 2.0], [1.0, 1.4, 2.5, 5.0, 7.0, 8.0]),
            tie_word_embeddings=True,
        ),
        dict(
            v4=True, rope_type_key="type", edit=phi3_of_transformers_4, lengths=[65, 80, 100, 150, 200],
            short=[1, 5, 17, 30, 40], without=dict(rope_parameters=longrope([1.0] * 6, [1.0] * 6)),
        ),
    ),
    "smollm3": (
        SmolLM3Config,
        dict(**SMALL, rope_parameters=goldens.rope(), num_hidden_layers=4, tie_word_embeddings=True),
        dict(without=dict(no_rope_layers=[1] * 4)),
    ),
}


def make(name):
    config_class, fields, options = CHECKPOINTS[name]
    target = goldens.ROOT / name
    config = config_class(**copy.deepcopy({**goldens.BASE, **fields}))
    seed = 400 + sorted(CHECKPOINTS).index(name)
    model = goldens.build(config, seed)
    if name == "gemma3":
        # Norm weights are added to 1; half layers are to have a say beside embeddings times sqrt(hidden).
        with torch.no_grad():
            for parameter, values in model.named_parameters():
                if "norm" in parameter:
                    values.sub_(1.0)
                if "post_" in parameter:
                    values.add_(2.0)
                if "embed" in parameter:
                    values.mul_(0.4)
    goldens.save(model, target, options, options.get("edit", lambda config: config))
    goldens.check_reread(model, target)
    about = dict(
        made_by=goldens.made_by("goldens_relatives.py"),
        seed=seed,
        config_form="transformers 4" if options.get("v4") else "transformers 5",
        compute="f32 from the stored weights, eager attention",
    )
    if "short" in options:
        cases = goldens.find_cases(model, options["short"], seed + 50, MARGIN)
        goldens.write_golden(target, cases, 0.001, **about)
        (target / "golden.json").rename(target / "golden_short.json")
    cases = goldens.find_cases(model, options.get("lengths", goldens.LENGTHS), seed, MARGIN)
    plain = AutoModelForCausalLM.from_config(
        config_class(**copy.deepcopy({**goldens.BASE, **fields, **options["without"]})), attn_implementation="eager",
        dtype=torch.float32,
    ).eval()
    plain.load_state_dict(model.state_dict())
    goldens.check_feature(name, model, plain, cases)
    goldens.write_golden(target, cases, 0.001, **about)


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or CHECKPOINTS:
        make(name)
