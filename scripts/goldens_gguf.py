#!/usr/bin/env python3
"""Makes tests/goldens/gguf (GGUF files by llama.cpp's own tools), gguf_blocks.json and demo.json.

    PYTHON=target/goldens-venv/bin/python        # as in goldens.py, plus: pip install gguf
    $PYTHON scripts/goldens_gguf.py --llama-cpp SOURCES --llama-quantize BINARY [--only FILE ...]
    $PYTHON scripts/goldens_gguf.py --blocks
    $PYTHON scripts/goldens_gguf.py --demo SmolLM2-135M-Instruct.Q4_1.gguf

SOURCES is llama.cpp's source tree (convert_hf_to_gguf.py in it). Every X.gguf has an X.json in
the format of golden.json (see goldens.py). F32, F16 and BF16 files hold the weights of a
checkpoint in tests/goldens bit for bit, so their goldens are that checkpoint's. For quantised
files transformers runs in f32 on the dequantised weights, and prompts are drawn so that every
margin is far above the tolerance: a backend may round activations to 8 bits, as llama.cpp does.

gguf_blocks.json holds random blocks of the types that candle does not know, and the bits of the f32
values that the gguf package makes of them.
"""

import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile

import goldens
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

TARGET = goldens.ROOT / "gguf"
# Checkpoint -> --outtype. Mistral is left out: the converter makes a Llama of it and drops its window.
CONVERTED = {
    "llama": "f32",
    "llama-llama3rope": "f32",
    "llama-tied-bias": "f32",
    "llama-bf16": "bf16",
    "llama-f16": "f16",
    "qwen2-yarn-sharded": "f32",
    "qwen3": "f32",
    "qwen3-moe": "f32",
    "deepseek-v2-lite": "f32",
    "deepseek-v2": "f32",
    "deepseek-v3": "f32",
    "minimax-m2": "f32",
    "gemma3": "f32",
    "granite": "f32",
    "phi3": "f32",
    "smollm3": "f32",
}
# Converted once more, in parts of so many tensors.
SPLIT = ("llama-bf16", "bf16", 9)
SPLIT_TARGET = goldens.ROOT.parent / "checkpoint/split"
# What llama-quantize calls the smallest mixture that --pure makes one type of.
PURE = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "MXFP4": "MXFP4_MOE"}
# How far dequantised weights may be from the original's, relative to the mean.
WEIGHT_ERROR = {"Q2_K": 0.4, "Q3_K": 0.25}
# llama.cpp itself, with activations in 8 bits, is up to 0.594 away on these files (mean 0.06 to 0.11).
QUANTIZED_TOLERANCE = 0.75
QUANTIZED_MARGIN = 0.4
QUANTIZED_STEPS = 16


def llama(**fields):
    """One layer, tied."""
    fixed = dict(num_hidden_layers=1, rope_parameters=goldens.rope(), tie_word_embeddings=True)
    return LlamaConfig(**{**goldens.BASE, **fixed, **fields})


# Rows must be multiples of 256 for the K types and IQ4_XS. Where they are not, llama.cpp takes another type.
# Rows of "uneven" are 96 wide, but for those of ffn_down and attn_output, as they are 896 wide in
# Qwen2.5-0.5B. All experts of "experts" are chosen, so that rounding
# chooses none.
MODELS = {
    "wide": llama(hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1),
    "narrow": llama(hidden_size=64, intermediate_size=96, num_attention_heads=2, num_key_value_heads=1),
    "slim": llama(hidden_size=256, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32),
    "uneven": llama(hidden_size=96, intermediate_size=256, num_attention_heads=4, num_key_value_heads=1, head_dim=64),
    "experts": Qwen3MoeConfig(**{
        **goldens.BASE,
        **dict(
            hidden_size=64, num_hidden_layers=1, num_attention_heads=2, head_dim=32, moe_intermediate_size=32,
            num_experts=4, num_experts_per_tok=4, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
            rope_parameters=goldens.rope(), tie_word_embeddings=True,
        ),
    }),
}
# (model, what llama-quantize is told, the types of its matrices, whether --pure makes all of the type that
# can be). Q4_K_M mixes types by itself: attn_v and ffn_down are Q6_K there.
QUANTIZED = [
    *(
        ("wide", kind, [kind], True)
        for kind in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
    ),
    ("wide", "Q4_K_M", ["Q4_K", "Q6_K"], False),
    ("narrow", "IQ4_NL", ["IQ4_NL"], True),
    ("slim", "IQ4_XS", ["IQ4_NL", "IQ4_XS"], True),
    ("narrow", "MXFP4", ["MXFP4"], True),
    ("uneven", "Q2_K", ["IQ4_NL", "Q3_K", "Q8_0"], False),
    ("experts", "MXFP4_MOE", ["F32", "MXFP4", "Q8_0"], False),
]
# llama.cpp put IQ4_NL in place of Q2_K and Q3_K when most published files were made; now it is Q4_0.
UNEVEN = ["--tensor-type", "attn_(q|k|v)=iq4_nl", "--tensor-type", "ffn_(gate|up)=iq4_nl"]
BLOCKS = {"IQ4_NL": 8, "IQ4_XS": 3, "MXFP4": 16}
# Of two dozen questions these had the widest margins; the first is answered in full (EOS included).
DEMO_QUESTIONS = ["What is the capital city of France? Answer in one sentence.", "Count from one to ten in words."]
DEMO_STEPS = 32
# llama.cpp itself is up to 0.269 away (mean 0.073).
DEMO_TOLERANCE = 0.4


def convert(sources, checkpoint, outtype, outfile, *more):
    """llama.cpp's converter; it does not know the hash of our tokenizer, whose splits are Qwen2's."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import convert_hf_to_gguf as c; "
        "from conversion.base import TextModel; TextModel.get_vocab_base_pre = lambda self, t: 'qwen2'; c.main()"
    )
    command = [sys.executable, "-c", program, str(sources), str(checkpoint), "--outtype", outtype, "--outfile", str(outfile), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"converting {checkpoint} failed:\n{done.stderr}")


def dequantized(path, config):
    """A transformers model with the file's weights in f32, and the types of its matrices."""
    import gguf

    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    for ours, theirs in {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    }.items():
        names[f"blk.0.{ours}.weight"] = f"model.layers.0.{theirs}.weight"
    state, types, experts = {}, set(), {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if config.model_type == "llama" and tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            # Undo the converter's permutation for interleaved rotary embedding.
            heads = config.num_attention_heads if "attn_q" in tensor.name else config.num_key_value_heads
            rows, columns = values.shape
            values = values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        if values.dim() >= 2:
            types.add(tensor.tensor_type.name)
        if tensor.name in names:
            state[names[tensor.name]] = values
        else:
            experts[tensor.name.removeprefix("blk.0.ffn_").removesuffix("_exps.weight")] = values
    if experts:
        state["model.layers.0.mlp.experts.gate_up_proj"] = torch.cat([experts["gate"], experts["up"]], 1)
        state["model.layers.0.mlp.experts.down_proj"] = experts["down"]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model, sorted(types)


def made_by():
    return f"scripts/goldens_gguf.py, transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


def make_gguf(sources, quantize, only):
    TARGET.mkdir(parents=True, exist_ok=True)
    if not only:
        for old in TARGET.iterdir():
            old.unlink()
    for name, outtype in CONVERTED.items():
        out = f"{name}-{outtype}" if not name.endswith(outtype) else name
        if only and out not in only:
            continue
        convert(sources, goldens.ROOT / name, outtype, TARGET / f"{out}.gguf")
        golden = json.loads((goldens.ROOT / name / "golden.json").read_text())
        goldens.write_json(TARGET / f"{out}.json", {**golden, "checkpoint": name, "types": [outtype.upper()]})
        print(out, (TARGET / f"{out}.gguf").stat().st_size)

    if not only:
        name, outtype, tensors = SPLIT
        SPLIT_TARGET.mkdir(exist_ok=True)
        convert(sources, goldens.ROOT / name, outtype, SPLIT_TARGET / f"{name}.gguf", "--split-max-tensors", str(tensors))

    for name, kind, types, pure in QUANTIZED:
        out = f"{name}-{kind.lower()}"
        if not only or out in only:
            options = ["--pure"] if pure else UNEVEN if name == "uneven" else []
            quantized(sources, [quantize, *options], name, kind, types, TARGET / f"{out}.gguf")


def quantized(sources, quantize, name, kind, expected, path):
    config = MODELS[name]
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        original = goldens.build(config, 100)
        original.generation_config = transformers.GenerationConfig(eos_token_id=goldens.EOS, pad_token_id=goldens.EOS[1])
        original.save_pretrained(temp / name)
        goldens.TOKENIZER.save_pretrained(temp / name)
        convert(sources, temp / name, "f32", temp / "f32.gguf")
        command = [*quantize, temp / "f32.gguf", path, PURE.get(kind, kind), "2"]
        subprocess.run([str(c) for c in command], check=True, capture_output=True)
    model, types = dequantized(path, config)
    assert types == expected, types
    theirs = dict(original.named_parameters())
    worst = max(
        (value - theirs[at]).abs().mean() / theirs[at].abs().mean() for at, value in model.named_parameters()
    ).item()
    assert worst < WEIGHT_ERROR.get(kind, 0.12), f"{kind}: the dequantised weights are not the original's: {worst}"
    gen, taken = torch.Generator().manual_seed(1), set()
    cases = []
    for i, length in enumerate([1, 5, 17, 40, 100]):
        prompt = goldens.find_prompt(model, length, QUANTIZED_MARGIN, gen, taken, QUANTIZED_STEPS)
        cases.append(goldens.case(model, prompt, i == 2, QUANTIZED_STEPS))
    goldens.write_json(path.with_suffix(".json"), {
        "made_by": made_by(),
        "compute": "f32 from the dequantised weights, eager attention",
        "types": types,
        "ignore_eos": False,
        "logprob_tolerance": QUANTIZED_TOLERANCE,
        "margin_nats_min": min(min(c["margins"]) for c in cases),
        "cases": cases,
    })
    print(path.name, path.stat().st_size, types, f"weights differ by {worst:.4f}", flush=True)


def make_blocks():
    import gguf
    import numpy as np

    random = np.random.default_rng(7)
    types = {}
    for name, count in BLOCKS.items():
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = random.integers(0, 256, (count, size), dtype=np.uint8)
        if name == "MXFP4":
            # The least, subnormal and normal, a large one, and some as weights have them.
            data[:, 0] = [0, 1, 2, 3, 126, 127, 128, 250, *range(115, 123)]
        else:
            data[:, :2] = random.normal(0, 0.01, count).astype("<f2").view(np.uint8).reshape(count, 2)
        values = gguf.quants.dequantize(data, kind).reshape(-1)
        types[name] = {"blocks": data.tobytes().hex(), "values": values.astype("<f4").tobytes().hex()}
    version = importlib.metadata.version("gguf")
    made = {"made_by": f"scripts/goldens_gguf.py, gguf {version}", "types": types}
    goldens.write_json(goldens.ROOT / "gguf_blocks.json", made)


def make_demo(path):
    path = path.resolve()
    load = dict(gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
    model = AutoModelForCausalLM.from_pretrained(path.parent, **load).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    cases = []
    for question in DEMO_QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        tokens = goldens.greedy(model, prompt, DEMO_STEPS)[0][0].tolist()
        ended = tokenizer.eos_token_id in tokens
        steps = tokens.index(tokenizer.eos_token_id) + 1 if ended else DEMO_STEPS
        golden = goldens.case(model, prompt, False, steps)
        cases.append({
            "messages": messages, "rendered": text, **golden,
            "text": tokenizer.decode(golden["tokens"], skip_special_tokens=True),
            "finish_reason": "stop" if ended else "length",
        })
        print(min(golden["margins"]), cases[-1]["text"], flush=True)
    goldens.write_json(goldens.ROOT / "demo.json", {
        "made_by": made_by(),
        "checkpoint": path.name,
        "compute": "f32 from the dequantised weights, eager attention",
        "ignore_eos": False,
        "logprob_tolerance": DEMO_TOLERANCE,
        "margin_nats_min": min(min(c["margins"]) for c in cases),
        "cases": cases,
    })


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=pathlib.Path, help="llama.cpp's source tree")
    parser.add_argument("--llama-quantize", type=pathlib.Path, help="the llama-quantize binary")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="of those, without .gguf")
    parser.add_argument("--blocks", action="store_true", help="make gguf_blocks.json")
    parser.add_argument("--demo", type=pathlib.Path, help="the demo checkpoint's GGUF file")
    options = parser.parse_args()
    if bool(options.llama_cpp) != bool(options.llama_quantize or options.only) or not (
        options.llama_cpp or options.blocks or options.demo
    ):
        parser.error("give --llama-cpp with --llama-quantize (or with --only of converted files), --blocks, --demo, or all")
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    if options.llama_cpp:
        make_gguf(options.llama_cpp, options.llama_quantize, options.only)
    if options.blocks:
        make_blocks()
    if options.demo:
        make_demo(options.demo)
