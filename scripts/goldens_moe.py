#!/usr/bin/env python3
"""Makes the tiny mixtures of experts in tests/goldens: Qwen3-MoE, DeepSeek-V2 and V3, MiniMax-M2.

    target/goldens-venv/bin/python scripts/goldens_moe.py [NAME ...]        # venv as in goldens.py

The format is goldens.py's, and beside it

    cases[].router_margin   the smallest distance, over all layers, positions and steps, between
                            the last chosen expert (or group) and the best one left out: between
                            logits for softmax, between corrected scores for sigmoid routing

Prompts are drawn until it is wide enough: an expert that is chosen by rounding would make the
golden a coin toss. Tensors have the names that the models' makers publish, config.json is theirs
in form; transformers reads both back and must compute the same.
"""

import copy
import json
import sys

import goldens
import safetensors.torch
import torch
import transformers
from goldens import BASE, LENGTHS, LENGTHS_16, ROOT, VOCAB, rope
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV3Config, MiniMaxM2Config, Qwen3MoeConfig

DEEPSEEK = dict(
    hidden_size=32, intermediate_size=128, num_attention_heads=8, num_key_value_heads=8, kv_lora_rank=32,
    qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16, rms_norm_eps=1e-6, first_k_dense_replace=1,
)
# Longer than the 64 positions of the embedding that yarn stretches.
YARN_LENGTHS_16 = [1, 5, 17, 40, 70, 200, 2, 3, 8, 15, 16, 31, 32, 33, 64, 100]


def yarn(mscale):
    return rope(
        "yarn", factor=8.0, mscale=mscale, mscale_all_dim=mscale, original_max_position_embeddings=64,
        beta_fast=32.0, beta_slow=1.0,
    )


def no_softmax_scale(model):
    """Forgets the square of mscale_all_dim's factor."""
    for layer in model.model.layers:
        layer.self_attn.scaling = layer.self_attn.qk_head_dim**-0.5


def no_shared_experts(model):
    for layer in model.model.layers:
        if hasattr(layer.mlp, "shared_experts"):
            layer.mlp.shared_experts.down_proj.weight.zero_()


def no_correction_bias(model):
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()


class PerHead(nn.Module):
    """MiniMax-M2's norm as if it ran over each head by itself."""

    def __init__(self, norm, head_dim):
        super().__init__()
        self.norm, self.head_dim = norm, head_dim

    def forward(self, x):
        heads = x.unflatten(-1, (-1, self.head_dim))
        heads = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + self.norm.variance_epsilon)
        return self.norm.weight * heads.flatten(-2)


def norm_per_head(model):
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.q_norm = PerHead(attention.q_norm, attention.head_dim)
        attention.k_norm = PerHead(attention.k_norm, attention.head_dim)


# name -> (config class, fields, options) as in goldens.py. Here `without` has several features by
# name: fields of the config, or a function that takes the feature from the model. `published` are
# fields that the makers' config.json has and transformers' class has not, `unpublished` the reverse.
CHECKPOINTS = {
    "qwen3-moe": (
        Qwen3MoeConfig,
        dict(
            hidden_size=32, num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_experts=8,
            num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True,
            rope_parameters={**rope(), "rope_theta": 1e6},
        ),
        dict(
            lengths=LENGTHS_16, v4=True,
            published=dict(num_experts=8, decoder_sparse_step=1, mlp_only_layers=[], max_window_layers=2),
            unpublished=["num_local_experts"],
            without={"norm_topk_prob": dict(norm_topk_prob=False), "second expert": dict(num_experts_per_tok=1)},
        ),
    ),
    "qwen3-moe-mixed": (
        Qwen3MoeConfig,
        dict(
            hidden_size=32, intermediate_size=96, num_hidden_layers=4, head_dim=32, num_experts=12,
            num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=False, mlp_only_layers=[0, 1],
            decoder_sparse_step=2, tie_word_embeddings=True, rope_parameters={**rope(), "rope_theta": 1e6},
        ),
        dict(dtype=torch.bfloat16, without={"norm_topk_prob off": dict(norm_topk_prob=True)}),
    ),
    "deepseek-v2-lite": (
        DeepseekV2Config,
        dict(
            **DEEPSEEK, q_lora_rank=None, n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3,
            moe_intermediate_size=64, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False,
            routed_scaling_factor=1.0, rope_parameters=yarn(0.707),
        ),
        dict(
            lengths=YARN_LENGTHS_16, v4=True, rope_type_key="type",
            published=dict(scoring_func="softmax", moe_layer_freq=1, aux_loss_alpha=0.001, seq_aux=True, ep_size=1),
            unpublished=["head_dim", "qk_head_dim"],
            without={
                "yarn": dict(rope_parameters=rope()), "mscale": no_softmax_scale, "shared experts": no_shared_experts,
                "mscale and mscale_all_dim": dict(rope_parameters={
                    k: v for k, v in yarn(0.707).items() if not k.startswith("mscale")
                }),
            },
        ),
    ),
    "deepseek-v2": (
        DeepseekV2Config,
        dict(
            **DEEPSEEK, q_lora_rank=24, n_routed_experts=16, n_shared_experts=2, num_experts_per_tok=4,
            moe_intermediate_size=32, topk_method="group_limited_greedy", n_group=4, topk_group=2,
            norm_topk_prob=False, routed_scaling_factor=4.0, rope_parameters=yarn(0.707),
        ),
        dict(
            lengths=[1, 5, 17, 40, 100, 200], v4=True, rope_type_key="type",
            published=dict(scoring_func="softmax", moe_layer_freq=1, aux_loss_alpha=0.001, seq_aux=True, ep_size=1),
            unpublished=["head_dim", "qk_head_dim"],
            without={
                "groups": dict(topk_method="greedy"), "routed_scaling_factor": dict(routed_scaling_factor=1.0),
                "mscale": no_softmax_scale, "shared experts": no_shared_experts,
            },
        ),
    ),
    "deepseek-v3": (
        DeepseekV3Config,
        dict(
            **DEEPSEEK, q_lora_rank=24, n_routed_experts=12, n_shared_experts=1, num_experts_per_tok=3,
            moe_intermediate_size=64, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5,
            rope_parameters=yarn(1.0), num_nextn_predict_layers=1,
        ),
        dict(
            lengths=YARN_LENGTHS_16, v4=True, rope_type_key="type", mtp=True,
            published=dict(scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1, ep_size=1),
            unpublished=["head_dim", "qk_head_dim", "rope_interleave"],
            without={
                "correction bias": no_correction_bias, "groups": dict(n_group=1, topk_group=1),
                "norm_topk_prob": dict(norm_topk_prob=False), "routed_scaling_factor": dict(routed_scaling_factor=1.0),
                "yarn": dict(rope_parameters=rope()), "mscale": no_softmax_scale, "shared experts": no_shared_experts,
                "interleaved rope": dict(rope_interleave=False),
            },
        ),
    ),
    "minimax-m2": (
        MiniMaxM2Config,
        dict(
            hidden_size=32, intermediate_size=64, num_attention_heads=8, num_key_value_heads=4, head_dim=32,
            num_local_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-6,
            rope_parameters={**rope(), "rope_theta": 5e6, "partial_rotary_factor": 0.5},
        ),
        dict(
            lengths=LENGTHS_16, v4=True,
            published=dict(
                rotary_dim=16, use_qk_norm=True, qk_norm_type="per_layer", scoring_func="sigmoid", use_routing_bias=True,
                shared_intermediate_size=0, mlp_intermediate_size=128, attn_type_list=[1, 1], layernorm_full_attention_beta=1.0,
                use_mtp=True, num_mtp_modules=3, mtp_transformer_layers=1,
            ),
            unpublished=["rope_scaling"],
            without={
                "partial rotary": dict(rope_parameters={**rope(), "rope_theta": 5e6}), "correction bias": no_correction_bias,
                "norm over all heads": norm_per_head,
            },
        ),
    ),
    # The head dimensions of the published models: GPUs expand latents of no other.
    "deepseek-v2-mla128": (
        DeepseekV2Config,
        dict(
            **{
                **DEEPSEEK, "num_attention_heads": 2, "num_key_value_heads": 2, "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64, "v_head_dim": 128,
            },
            q_lora_rank=None, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=32,
            topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0,
            rope_parameters=yarn(0.707),
        ),
        dict(
            lengths=[1, 5, 17, 40, 100, 200], v4=True, rope_type_key="type",
            published=dict(scoring_func="softmax", moe_layer_freq=1, aux_loss_alpha=0.001, seq_aux=True, ep_size=1),
            unpublished=["head_dim", "qk_head_dim"],
            without={"yarn": dict(rope_parameters=rope()), "mscale": no_softmax_scale},
        ),
    ),
}
# What the published checkpoints call their tensors, one of a kind; L is a layer, N an expert.
PUBLISHED = {
    "qwen3_moe": ["layers.L.mlp.gate.weight", "layers.L.mlp.experts.N.down_proj.weight"],
    "deepseek_v2": ["layers.L.mlp.experts.N.gate_proj.weight", "layers.L.mlp.shared_experts.up_proj.weight"],
    "deepseek_v3": ["layers.L.mlp.gate.e_score_correction_bias", "layers.L.self_attn.kv_a_proj_with_mqa.weight"],
    "minimax_m2": [
        "layers.L.block_sparse_moe.e_score_correction_bias", "layers.L.block_sparse_moe.gate.weight",
        *(f"layers.L.block_sparse_moe.experts.N.w{i}.weight" for i in (1, 2, 3)),
    ],
}


class Routers:
    """Watches how narrowly a model's routers choose, row by row of the batch."""

    def __init__(self, model, margin):
        self.margin, self.seen = margin, []
        for module in model.modules():
            if type(module).__name__.lower().endswith("topkrouter"):
                module.register_forward_hook(lambda module, args, output: self.watch(model.config, module, args, output))

    def watch(self, config, module, args, output):
        logits, chosen = output[0].detach().float(), output[-1]
        bias = args[1] if len(args) > 1 else getattr(module, "e_score_correction_bias", None)
        # Softmax keeps the order of the logits.
        scores = logits if bias is None else logits.sigmoid() + bias
        least = torch.full(scores.shape[:1], torch.inf)
        if bias is None:
            grouped = getattr(config, "topk_method", None) == "group_limited_greedy"
        else:
            grouped = (getattr(config, "n_group", None) or 1) > 1
        if grouped:
            groups = scores.unflatten(-1, (config.n_group, -1))
            of_group = groups.amax(-1) if bias is None else groups.topk(2, -1).values.sum(-1)
            best = of_group.topk(config.topk_group + 1, -1)
            least = best.values[:, -2] - best.values[:, -1]
            out = torch.ones_like(of_group, dtype=torch.bool).scatter_(1, best.indices[:, :-1], False)
            scores = groups.masked_fill(out[..., None], -torch.inf).flatten(-2)
        k = config.num_experts_per_tok
        best = scores.topk(k + 1, -1)
        assert torch.equal(best.indices[:, :k].sort(-1).values, chosen.sort(-1).values)
        self.seen.append(torch.minimum(least, best.values[:, k - 1] - best.values[:, k]))

    def take(self, rows):
        """The narrowest choice of each of the batch's rows since the last call."""
        least = torch.stack([margins.reshape(rows, -1).amin(-1) for margins in self.seen]).amin(0)
        self.seen.clear()
        return least

    @torch.no_grad()
    def draw_prompts(self, model, length, gen):
        """Random prompts without narrow choices, grown piece by piece from those that had none."""
        prompts = torch.zeros(64, 0, dtype=torch.long)
        while prompts.shape[1] < length:
            # Every survivor is continued in several ways.
            pieces = goldens.draw_prompts(min(8, length - prompts.shape[1]), gen)
            longer = torch.cat([prompts[torch.arange(64) % len(prompts)], pieces], 1)
            model(longer)
            safe = longer[self.take(64) >= self.margin * 1.1]
            prompts = safe if len(safe) else prompts
        return prompts


def load_options():
    return dict(attn_implementation="eager", dtype=torch.float32, experts_implementation="eager")


@torch.no_grad()
def build(config, seed):
    """goldens.build's model with correction biases that matter."""
    model = goldens.build(config, seed)
    model.set_experts_implementation("eager")
    gen = torch.Generator().manual_seed(seed)
    for name, buffer in sorted(model.named_buffers()):
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=gen))
    return model


def with_mtp_layer(state, layers, seed):
    """The tensors of a multi-token-prediction layer under DeepSeek-V3's names, random (two experts)."""
    gen = torch.Generator().manual_seed(seed)
    embedding, norm = state["model.embed_tokens.weight"], state["model.norm.weight"]
    last, extra = f"model.layers.{layers - 1}.", f"model.layers.{layers}."
    shapes = {
        "enorm.weight": norm, "hnorm.weight": norm, "eh_proj.weight": torch.empty(len(norm), 2 * len(norm)),
        "embed_tokens.weight": embedding, "shared_head.head.weight": embedding, "shared_head.norm.weight": norm,
    }
    for name, tensor in state.items():
        expert = name.partition(".mlp.experts.")[2]
        if name.startswith(last) and (not expert or expert.startswith(("0.", "1."))):
            shapes[name.removeprefix(last)] = tensor
    return state | {extra + name: torch.randn(t.shape, generator=gen).to(t.dtype) for name, t in shapes.items()}


def check_names(target, config):
    names = set(safetensors.torch.load_file(target / "model.safetensors"))
    for form in PUBLISHED[config.model_type]:
        for expert in range(config.num_experts) if ".N." in form else [0]:
            name = "model." + form.replace("L", str(config.num_hidden_layers - 1), 1).replace("N", str(expert))
            assert name in names, f"{target.name}: transformers did not write {name} but {sorted(names)}"


@torch.no_grad()
def check_without(name, model, config_class, fields, options, cases):
    gaps = {}
    for label, feature in options.get("without", {}).items():
        changed = {} if callable(feature) else feature
        plain = AutoModelForCausalLM.from_config(
            config_class(**copy.deepcopy({**BASE, **fields, **changed})), **load_options()
        ).eval()
        plain.load_state_dict(model.state_dict())
        if callable(feature):
            feature(plain)
        gaps[label] = round(goldens.check_feature(f"{name}, {label}", model, plain, cases), 2)
    print(f"{name}: without its features the log-probabilities differ by {gaps}", flush=True)


def make(name):
    config_class, fields, options = CHECKPOINTS[name]
    target = ROOT / name
    config = config_class(**copy.deepcopy({**BASE, **fields}))
    seed = 201 + list(CHECKPOINTS).index(name)
    model = build(config, seed)
    dtype = options.get("dtype", torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype).float())
    unpublished = options.get("unpublished", [])
    goldens.save(
        model, target, options,
        lambda config: {k: v for k, v in config.items() if k not in unpublished} | options.get("published", {}),
    )
    check_names(target, config)
    if options.get("mtp"):
        file = target / "model.safetensors"
        state = safetensors.torch.load_file(file)
        safetensors.torch.save_file(with_mtp_layer(state, config.num_hidden_layers, seed), file, {"format": "pt"})
    goldens.check_reread(model, target, experts_implementation="eager")

    rounded = dtype != torch.float32
    routers = Routers(model, 0.005 if rounded else 0.001)
    cases = goldens.find_cases(model, options.get("lengths", LENGTHS), seed, 0.1 if rounded else 0.05, routers=routers)
    check_without(name, model, config_class, fields, options, cases)
    goldens.write_golden(
        target, cases, 0.02 if rounded else 0.001,
        made_by=goldens.made_by("goldens_moe.py"),
        seed=seed,
        config_form="as published" if options.get("v4") else "transformers 5",
        compute="f32 from the stored weights, eager attention",
        router_margin_min=min(c["router_margin"] for c in cases),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in sys.argv[1:] or CHECKPOINTS:
        make(name)
