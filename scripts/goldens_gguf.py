#!/usr/bin/env python3
"""Makes tests/goldens/gguf (GGUF files by llama.cpp's own tools) and tests/goldens/demo.json.

    PYTHON=target/goldens-venv/bin/python        # as in goldens.py, plus: pip install gguf
    $PYTHON scripts/goldens_gguf.py --llama-cpp SOURCES --llama-quantize BINARY
    $PYTHON scripts/goldens_gguf.py --demo SmolLM2-135M-Instruct.Q4_1.gguf

SOURCES is llama.cpp's source tree (convert_hf_to_gguf.py in it). Every X.gguf has an X.json in
the format of golden.json (see goldens.py). F32, F16 and BF16 files hold the weights of a
checkpoint in tests/goldens bit for bit, so their goldens are that checkpoint's. For quantised
files transformers runs in f32 on the dequantised weights, and prompts are drawn so that every
margin is far above the tolerance: a backend may round activations to 8 bits, as llama.cpp does.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import goldens
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig

TARGET = goldens.ROOT / "gguf"
# Checkpoint -> --outtype.
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
}
# Q4_K_M mixes types: attn_v and ffn_down are Q6_K there. The others have one type for all matrices.
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M"]
# What llama-quantize calls the smallest mixture that --pure makes one type of.
PURE = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}
# How far dequantised weights may be from the original's, relative to the mean.
WEIGHT_ERROR = {"Q2_K": 0.4, "Q3_K": 0.25}
# llama.cpp itself, with activations in 8 bits, is up to 0.594 away on these files (mean 0.06 to 0.11).
QUANTIZED_TOLERANCE = 0.75
QUANTIZED_MARGIN = 0.4
QUANTIZED_STEPS = 16
# Rows must be multiples of 256 for the K types.
WIDE = LlamaConfig(**{
    **goldens.BASE,
    **dict(
        hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1,
        rope_parameters=goldens.rope(), tie_word_embeddings=True,
    ),
})
# Of two dozen questions these had the widest margins; the first is answered in full (EOS included).
DEMO_QUESTIONS = ["What is the capital city of France? Answer in one sentence.", "Count from one to ten in words."]
DEMO_STEPS = 32
# llama.cpp itself is up to 0.269 away (mean 0.073).
DEMO_TOLERANCE = 0.4


def convert(sources, checkpoint, outtype, outfile):
    """llama.cpp's converter; it does not know the hash of our tokenizer, whose splits are Qwen2's."""
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import convert_hf_to_gguf as c; "
        "from conversion.base import TextModel; TextModel.get_vocab_base_pre = lambda self, t: 'qwen2'; c.main()"
    )
    command = [sys.executable, "-c", program, str(sources), str(checkpoint), "--outtype", outtype, "--outfile", str(outfile)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"converting {checkpoint} failed:\n{done.stderr}")


def dequantized(path, config):
    """A transformers model with the file's weights in f32 (WIDE's layout: one Llama layer, tied)."""
    import gguf

    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm",
        "blk.0.attn_norm": "model.layers.0.input_layernorm", "blk.0.ffn_norm": "model.layers.0.post_attention_layernorm",
        "blk.0.attn_q": "model.layers.0.self_attn.q_proj", "blk.0.attn_k": "model.layers.0.self_attn.k_proj",
        "blk.0.attn_v": "model.layers.0.self_attn.v_proj", "blk.0.attn_output": "model.layers.0.self_attn.o_proj",
        "blk.0.ffn_gate": "model.layers.0.mlp.gate_proj", "blk.0.ffn_up": "model.layers.0.mlp.up_proj",
        "blk.0.ffn_down": "model.layers.0.mlp.down_proj",
    }
    state, types = {}, set()
    for tensor in gguf.GGUFReader(path).tensors:
        name, _, suffix = tensor.name.rpartition(".")
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if name.endswith(("attn_q", "attn_k")):
            # Undo the converter's permutation for interleaved rotary embedding.
            heads = config.num_attention_heads if name.endswith("q") else config.num_key_value_heads
            rows, columns = values.shape
            values = values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        if values.dim() == 2:
            types.add(tensor.tensor_type.name)
        state[f"{names[name]}.{suffix}"] = values
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model, sorted(types)


def made_by():
    return f"scripts/goldens_gguf.py, transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"


def make_gguf(sources, quantize):
    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.iterdir():
        old.unlink()
    for name, outtype in CONVERTED.items():
        out = f"{name}-{outtype}" if not name.endswith(outtype) else name
        convert(sources, goldens.ROOT / name, outtype, TARGET / f"{out}.gguf")
        golden = json.loads((goldens.ROOT / name / "golden.json").read_text())
        goldens.write_json(TARGET / f"{out}.json", {**golden, "checkpoint": name, "types": [outtype.upper()]})
        print(out, (TARGET / f"{out}.gguf").stat().st_size)

    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        original = goldens.build(WIDE, 100)
        original.generation_config = transformers.GenerationConfig(eos_token_id=goldens.EOS, pad_token_id=goldens.EOS[1])
        original.save_pretrained(temp / "wide")
        goldens.TOKENIZER.save_pretrained(temp / "wide")
        convert(sources, temp / "wide", "f32", temp / "wide.gguf")
        for kind in QUANTIZED:
            path = TARGET / f"wide-{kind.lower()}.gguf"
            mixed = kind == "Q4_K_M"
            command = [quantize, *([] if mixed else ["--pure"]), temp / "wide.gguf", path, PURE.get(kind, kind), "2"]
            subprocess.run([str(c) for c in command], check=True, capture_output=True)
            model, types = dequantized(path, WIDE)
            assert mixed or types == [kind], types
            worst = max(
                (a - b).abs().mean() / b.abs().mean() for a, b in zip(model.parameters(), original.parameters())
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
    parser.add_argument("--demo", type=pathlib.Path, help="the demo checkpoint's GGUF file")
    options = parser.parse_args()
    if bool(options.llama_cpp) != bool(options.llama_quantize) or not (options.llama_cpp or options.demo):
        parser.error("give --llama-cpp with --llama-quantize, or --demo, or all three")
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    if options.llama_cpp:
        make_gguf(options.llama_cpp, options.llama_quantize)
    if options.demo:
        make_demo(options.demo)
