#!/usr/bin/env python3
"""How far transformers itself is from its own goldens when it computes in bf16, as a GPU does.

    target/goldens-venv/bin/python scripts/goldens_bf16.py [NAME ...]       # venv as in goldens.py

Prints, for each golden in tests/goldens: the largest distance of a log-probability among the first
step's 20 best, and the largest margin over which bf16 prefers another token than f32 does, with the
golden's tokens given. `novastack goldens` (src/cli/goldens.rs) takes its tolerances from here.
"""

import argparse
import copy
import json

import goldens_quantized
import safetensors.torch
import torch
import transformers
from goldens import ROOT

NAMES = ["llama", "llama-bf16", "qwen3", "qwen3-fp8", "qwen3-moe-fp8", "deepseek-v3-fp8", "minimax-m2-fp8"]


def load(folder):
    quantized = "quantization_config" in json.loads((folder / "config.json").read_text())
    if quantized:
        return goldens_quantized.read_fp8(folder, safetensors.torch.load_file(folder / "model.safetensors"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


@torch.no_grad()
def compare(name):
    folder = ROOT / name
    exact = load(folder)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    distance, margin = 0.0, 0.0
    for case in json.loads((folder / "golden.json").read_text())["cases"]:
        ids = torch.tensor([case["prompt"] + case["tokens"][:-1]])
        first = len(case["prompt"]) - 1
        a, b = (model(ids).logits[0, first:].float().log_softmax(-1) for model in (exact, rounded))
        best = a[0].topk(20).indices
        distance = max(distance, (a[0] - b[0])[best].abs().max().item())
        steps = zip(b.argmax(-1).tolist(), case["tokens"], case["margins"])
        margin = max([margin] + [m for token, wanted, m in steps if token != wanted])
    print(f"{name}: first log-probabilities {distance:.2f} away; another token over a margin of {margin:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for name in parser.parse_args().names or NAMES:
        compare(name)
