#!/usr/bin/env python3
"""Makes the tiny FP8, AWQ and GPTQ checkpoints in tests/goldens.

    target/goldens-venv/bin/python scripts/goldens_quantized.py [NAME ...]  # venv as in goldens.py

Weights are packed here as their makers' tools store them, read back, and given to transformers,
which computes in f32 on the dequantised values; the formats of golden.json are goldens.py's and
goldens_moe.py's. The layouts, for a linear of `in` inputs and `out` outputs:

    FP8    weight [out, in] e4m3; weight_scale_inv [out/128, in/128] multiplies 128x128 blocks,
           cut off at the borders (DeepSeek-V3: f32 scales; Qwen3-FP8: bf16)
    GPTQ   (AutoGPTQ, version 1) qweight [in/8, out] i32, lowest bits first along `in`; qzeros
           [groups, out/8] hold zero - 1; scales [groups, out] f16; g_idx [in]: the group of an input
    AWQ    (AutoAWQ, GEMM) qweight [in, out/8] i32, nibble i holds output [0,2,4,6,1,3,5,7][i];
           qzeros [groups, out/8] alike, not reduced by one; scales [groups, out] f16

`--reference DIR` checks the AWQ files against AutoAWQ's own code: DIR holds its unpacked sources.
FP8 files are always checked against transformers' own dequantisation.
"""

import argparse
import copy
import importlib.util
import json
import pathlib
import tempfile

import goldens
import goldens_moe
import safetensors.torch
import torch
import transformers
from goldens import BASE, ROOT, rope
from transformers import (
    AutoModelForCausalLM, DeepseekV3Config, FineGrainedFP8Config, MiniMaxM2Config, Qwen2Config, Qwen3Config, Qwen3MoeConfig,
)
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

BLOCK = 128
NIBBLES = 8
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
# Exact weights, but a KV cache of f16 and a kv_b of bf16.
FP8_TOLERANCE, FP8_MARGIN, FP8_ROUTER_MARGIN = 0.05, 0.1, 0.005
# Served with activations of 8 bits in blocks of 32: `with_8_bit_activations` measures how far that leads.
INT_TOLERANCE, INT_MARGIN, INT_ROUTER_MARGIN, INT_STEPS = 0.4, 0.4, 0.05, 16
LENGTHS = [1, 5, 17, 40, 100]


def blocks_of(scale, shape):
    """One scale per weight."""
    return scale.float().repeat_interleave(BLOCK, 0)[: shape[0]].repeat_interleave(BLOCK, 1)[:, : shape[1]]


def fp8(scale_dtype):
    def pack(name, weight):
        rows, columns = weight.shape
        padded = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK)
        padded[:rows, :columns] = weight
        largest = padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).abs().amax((1, 3))
        scale = (largest / 448).to(scale_dtype)
        values = (weight / blocks_of(scale, weight.shape)).clamp(-448, 448).to(torch.float8_e4m3fn)
        return {f"{name}.weight": values, f"{name}.weight_scale_inv": scale}

    def unpack(name, packed):
        values = packed[f"{name}.weight"].float()
        return values * blocks_of(packed[f"{name}.weight_scale_inv"], values.shape)

    return pack, unpack


def quantize(weight, bits, group, symmetric):
    """(q [in, out], zeros [groups, out], scales f16 [groups, out]) with weight.T = (q - zero) * scale."""
    most = 2**bits - 1
    grouped = weight.t().unflatten(0, (-1, group))
    if symmetric:
        scales = (grouped.abs().amax(1) * 2 / most).half()
        zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.int32)
    else:
        low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
        scales = ((high - low) / most).half()
        # GPTQ's version 1 cannot store a zero of 0.
        zeros = (-low / scales.float()).round().clamp(1, most).int()
    q = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, most).int()
    return q.flatten(0, 1), zeros, scales


def pack_bits(values, bits):
    """Along the last dimension, lowest bits first, into i32."""
    shifts = torch.arange(0, 32, bits)
    words = (values.long().unflatten(-1, (-1, 32 // bits)) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int().contiguous()


def unpack_bits(words, bits):
    return ((words.long()[..., None] >> torch.arange(0, 32, bits)) & (2**bits - 1)).flatten(-2)


def grouped(q, zeros, scales):
    group = len(q) // len(scales)
    return ((q - zeros.repeat_interleave(group, 0)).float() * scales.float().repeat_interleave(group, 0)).t()


def gptq(bits, group, symmetric):
    def pack(name, weight):
        q, zeros, scales = quantize(weight, bits, group, symmetric)
        return {
            f"{name}.qweight": pack_bits(q.t(), bits).t().contiguous(),
            f"{name}.qzeros": pack_bits(zeros - 1, bits),
            f"{name}.scales": scales,
            f"{name}.g_idx": torch.arange(len(q), dtype=torch.int32) // group,
        }

    def unpack(name, packed):
        q = unpack_bits(packed[f"{name}.qweight"].t(), bits).t()
        return grouped(q, unpack_bits(packed[f"{name}.qzeros"], bits) + 1, packed[f"{name}.scales"])

    return pack, unpack


def awq(group):
    order = torch.tensor(AWQ_ORDER)

    def pack(name, weight):
        q, zeros, scales = quantize(weight, 4, group, False)
        mixed = [t.unflatten(-1, (-1, NIBBLES))[..., order].flatten(-2) for t in (q, zeros)]
        return {
            f"{name}.qweight": pack_bits(mixed[0], 4), f"{name}.qzeros": pack_bits(mixed[1], 4), f"{name}.scales": scales,
        }

    def unpack(name, packed):
        back = [
            unpack_bits(packed[f"{name}.{part}"], 4).unflatten(-1, (-1, NIBBLES))[..., order.argsort()].flatten(-2)
            for part in ("qweight", "qzeros")
        ]
        return grouped(*back, packed[f"{name}.scales"])

    return pack, unpack


FP8_CONFIG = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[BLOCK, BLOCK])


def gptq_config(bits, group, symmetric):
    return dict(
        batch_size=1, bits=bits, block_name_to_quantize=None, damp_percent=0.01, dataset=None, desc_act=False,
        exllama_config=dict(version=1), group_size=group, max_input_length=None, model_seqlen=None, pad_token_id=None,
        quant_method="gptq", sym=symmetric, tokenizer=None, true_sequential=True, use_cuda_fp16=False, use_exllama=True,
    )


QWEN3 = dict(hidden_size=128, num_attention_heads=8, num_key_value_heads=4, head_dim=32, tie_word_embeddings=True,
             rope_parameters={**rope(), "rope_theta": 1e6})
QWEN2 = dict(hidden_size=128, intermediate_size=256, rope_parameters={**rope(), "rope_theta": 1e6}, tie_word_embeddings=True)
MOE_LIKE = {name: goldens_moe.CHECKPOINTS[name][2] for name in ("qwen3-moe", "deepseek-v3", "minimax-m2")}


def gptq_case(fields, bits, group, symmetric):
    return (Qwen2Config, {**QWEN2, **fields}, gptq(bits, group, symmetric), gptq_config(bits, group, symmetric), dict(v4=True))


# name -> (config class, fields, (pack, unpack), quantization_config, options as in goldens_moe.py).
# Sizes are such that two ranks cut between FP8's blocks but not through an expert.
CHECKPOINTS = {
    "qwen3-fp8": (Qwen3Config, dict(**QWEN3, intermediate_size=256), fp8(torch.bfloat16), FP8_CONFIG, dict(v4=True)),
    # Eight ranks: a head of 128 each, and whole experts of 128.
    "qwen3-moe-fp8": (
        Qwen3MoeConfig,
        dict(
            **{**QWEN3, "head_dim": 128}, intermediate_size=256, num_hidden_layers=1, num_experts=8, num_experts_per_tok=2,
            moe_intermediate_size=128, norm_topk_prob=True,
        ),
        fp8(torch.bfloat16), {**FP8_CONFIG, "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"]},
        dict(v4=True, published=dict(num_experts=8), unpublished=["num_local_experts"]),
    ),
    "deepseek-v3-fp8": (
        DeepseekV3Config,
        dict(
            hidden_size=128, intermediate_size=256, num_attention_heads=8, num_key_value_heads=8, kv_lora_rank=128,
            q_lora_rank=128, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=32, rms_norm_eps=1e-6,
            first_k_dense_replace=1, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, moe_intermediate_size=128,
            n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0,
            rope_parameters=goldens_moe.yarn(1.0), tie_word_embeddings=True,
        ),
        fp8(torch.float32), FP8_CONFIG, {**MOE_LIKE["deepseek-v3"], "lengths": [1, 5, 17, 40, 100, 200]},
    ),
    "minimax-m2-fp8": (
        MiniMaxM2Config,
        dict(
            hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=4, head_dim=32,
            num_local_experts=4, num_experts_per_tok=2, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={**rope(), "rope_theta": 5e6, "partial_rotary_factor": 0.5},
        ),
        fp8(torch.float32),
        {**FP8_CONFIG, "fmt": "float8_e4m3fn", "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]},
        dict(
            v4=True, published={**MOE_LIKE["minimax-m2"]["published"], "attn_type_list": [1]},
            unpublished=MOE_LIKE["minimax-m2"]["unpublished"],
        ),
    ),
    "qwen2-awq": (
        Qwen2Config, QWEN2, awq(64),
        dict(bits=4, group_size=64, modules_to_not_convert=None, quant_method="awq", version="gemm", zero_point=True),
        dict(v4=True),
    ),
    "qwen2-gptq-int4": gptq_case({}, 4, 128, True),
    "qwen2-gptq-int4-asym": gptq_case(dict(num_hidden_layers=1), 4, 32, False),
    "qwen2-gptq-int8": gptq_case(dict(num_hidden_layers=1), 8, 128, True),
    "qwen3-moe-gptq-int4": (
        Qwen3MoeConfig,
        dict(
            **QWEN3, intermediate_size=256, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True,
            mlp_only_layers=[0],
        ),
        gptq(4, 64, True), {**gptq_config(4, 64, True), "checkpoint_format": "gptq"},
        dict(v4=True, published=dict(num_experts=8), unpublished=["num_local_experts"]),
    ),
}


def quantized_name(name, tensor):
    """The linear that is quantised, or None: embeddings, norms, routers and biases are not."""
    layer = name.startswith("model.layers.") and name.endswith(".weight") and tensor.dim() == 2
    router = name.endswith((".mlp.gate.weight", ".block_sparse_moe.gate.weight"))
    return name.removesuffix(".weight") if layer and not router else None


def read(folder, **load):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, **load).eval()
    model.set_experts_implementation("eager")
    return model


@torch.no_grad()
def with_8_bit_activations(model, linears):
    """A copy whose quantised linears see activations in 8 bits per block of 32."""

    def rounded(module, args):
        x = args[0].unflatten(-1, (-1, 32))
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        return ((x / scale).round().mul(scale).flatten(-2),)

    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name in linears:
            module.register_forward_pre_hook(rounded)
        if name.endswith(".mlp.experts"):
            module.register_forward_pre_hook(lambda module, args: (rounded(module, args)[0], *args[1:]))
    return model


@torch.no_grad()
def distance(model, other, prompt, tokens):
    """How far the 20 best log-probabilities before the first token lie apart; infinite where the
    models go on to choose different tokens."""
    ids = torch.tensor([[*prompt, *tokens[:-1]]])
    a, b = (m(ids).logits[0, len(prompt) - 1 :].log_softmax(-1) for m in (model, other))
    if a.argmax(-1).tolist() != b.argmax(-1).tolist():
        return float("inf")
    return (a - b)[0, b[0].topk(20).indices].abs().max().item()


@torch.no_grad()
def read_fp8(target, packed):
    """The checkpoint as transformers itself dequantises it. It takes the size of blocks from the
    number of scales, which is wrong for a matrix with cut blocks (DeepSeek's kv_a_proj_with_mqa):
    those it is given filled up."""
    model = read(target, quantization_config=FineGrainedFP8Config(dequantize=True)).float()
    for name, module in model.named_modules():
        scales = packed.get(f"{name}.weight_scale_inv")
        if isinstance(module, torch.nn.Linear) and scales is not None:
            values = packed[f"{name}.weight"]
            rows, columns = values.shape
            if rows % BLOCK == 0 and columns % BLOCK == 0:
                continue
            filled = torch.nn.functional.pad(values.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
            whole = Fp8Dequantize(None)._dequantize_one(filled.to(values.dtype), scales, torch.float32)
            module.weight.copy_(whole[:rows, :columns])
    return model


def check_reference(sources, target, unpack, group):
    """AutoAWQ's own dequantisation of the file gives the same weights."""
    spec = importlib.util.spec_from_file_location("packing_utils", sources / "awq" / "utils" / "packing_utils.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    packed = safetensors.torch.load_file(target / "model.safetensors")
    for name in [n.removesuffix(".qweight") for n in packed if n.endswith(".qweight")]:
        parts = [packed[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")]
        theirs = reference.dequantize_gemm(parts[0], parts[1], parts[2].float(), 4, group)
        assert torch.equal(theirs.t(), unpack(name, packed)), name


def make(name, reference):
    config_class, fields, (pack, unpack), quantization, options = CHECKPOINTS[name]
    target = ROOT / name
    config = config_class(**copy.deepcopy({**BASE, **fields}))
    seed = 301 + list(CHECKPOINTS).index(name)
    is_fp8 = quantization["quant_method"] == "fp8"
    dtype = torch.bfloat16 if is_fp8 else torch.float16
    unpublished = options.get("unpublished", [])

    def edit(config):
        config = {k: v for k, v in config.items() if k not in unpublished} | options.get("published", {})
        return config | dict(torch_dtype=str(dtype).removeprefix("torch."))

    goldens.save(goldens_moe.build(config, seed), target, {**options, "dtype": torch.float32}, edit)
    original = safetensors.torch.load_file(target / "model.safetensors")
    packed, plain, linears, worst = {}, {}, set(), 0.0
    for tensor_name, tensor in original.items():
        linear = quantized_name(tensor_name, tensor)
        if linear is None:
            # Correction biases are published in f32.
            stored = tensor if tensor_name.endswith("e_score_correction_bias") else tensor.to(dtype)
            packed[tensor_name], plain[tensor_name] = stored, stored.float()
            continue
        parts = pack(linear, tensor)
        values = unpack(linear, parts)
        worst = max(worst, ((values - tensor).abs().mean() / tensor.abs().mean()).item())
        packed |= parts
        plain[tensor_name] = values.contiguous()
        linears.add(linear)
    assert worst < 0.15, f"{name}: the dequantised weights are not the original's: {worst}"

    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        (temp / "config.json").write_text((target / "config.json").read_text())
        safetensors.torch.save_file(plain, temp / "model.safetensors", {"format": "pt"})
        model = read(temp)
    safetensors.torch.save_file(packed, target / "model.safetensors", {"format": "pt"})
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}, indent=2) + "\n")

    plain_model = copy.deepcopy(model)
    if is_fp8:
        tolerance, margin, router_margin, steps = FP8_TOLERANCE, FP8_MARGIN, FP8_ROUTER_MARGIN, goldens.STEPS
        other = read_fp8(target, packed)
        conditions = {}
    else:
        tolerance, margin, router_margin, steps = INT_TOLERANCE, INT_MARGIN, INT_ROUTER_MARGIN, INT_STEPS
        other = with_8_bit_activations(plain_model, linears)
        conditions = dict(also=lambda *case: distance(plain_model, other, *case) < tolerance / 1.5)
    sparse = any("experts" in name for name, _ in model.named_parameters())
    routers = goldens_moe.Routers(model, router_margin) if sparse else None
    cases = goldens.find_cases(model, options.get("lengths", LENGTHS), seed, margin, steps, routers, **conditions)
    gap = max(distance(plain_model, other, case["prompt"], case["tokens"]) for case in cases)
    assert gap < tolerance, f"{name}: {gap} away"
    what = "transformers' own dequantisation is" if is_fp8 else "activations of 8 bits lead"
    print(f"{name}: {what} {gap:.5f} away")
    if reference and quantization["quant_method"] == "awq":
        check_reference(reference, target, unpack, quantization["group_size"])
        print(f"{name}: AutoAWQ unpacks the same weights")
    goldens.write_golden(
        target, cases, tolerance,
        made_by=goldens.made_by("goldens_quantized.py"),
        seed=seed,
        config_form="as published",
        compute="f32 from the dequantised weights, eager attention",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--reference", type=pathlib.Path, metavar="DIR", help="AutoAWQ's sources")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in arguments.names or CHECKPOINTS:
        make(name, arguments.reference)
