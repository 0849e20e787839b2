"""Makes tests/checkpoint/packed.safetensors: small AWQ, GPTQ and FP8 weights, each packed and
dequantised by the code that defines its format, for tests/checkpoint/quantized.rs.

    pip download --no-deps --no-binary :all: autoawq==0.2.9      # unpack it
    pip download --no-deps auto-gptq==0.7.1                      # unpack it; any platform's wheel
    python scripts/goldens_packed.py --autoawq autoawq-0.2.9 --auto-gptq auto_gptq-0.7.1

Of X.weight the file holds the packed tensors and X.reference, the dequantised weight in f32
(of FP8 only the rows around the border between two scales).
"""

import argparse
import importlib.util
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent.parent / "tests" / "checkpoint" / "packed.safetensors"
OUTPUTS, INPUTS = 32, 128
FP8_ROWS = 130


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(bits, group, symmetric, generator):
    """A layer whose weights are exactly scale * (code - zero), with its scales and zeros [groups, out]."""
    groups = INPUTS // group
    scales = (torch.rand(groups, OUTPUTS, generator=generator) * 0.02 + 0.001).half()
    middle = 2 ** (bits - 1)
    # AutoGPTQ stores zero - 1, which cannot hold 0.
    zeros = torch.randint(1, 2**bits, (groups, OUTPUTS), generator=generator)
    if symmetric:
        zeros = torch.full_like(zeros, middle)
    codes = torch.randint(0, 2**bits, (INPUTS, OUTPUTS), generator=generator)
    repeat = lambda values: values.repeat_interleave(group, dim=0)
    weight = repeat(scales).float() * (codes - repeat(zeros))
    linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    linear.weight.data = weight.t().contiguous()
    return linear, scales, zeros


def awq(source, group, generator):
    # Its packages import CUDA libraries on the way; the two modules themselves are plain torch.
    for name in ("awq", "awq.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["awq.utils.module"] = types.SimpleNamespace(try_import=lambda name: (None, "not here"))
    sys.modules["awq.utils.utils"] = types.SimpleNamespace(get_best_device=lambda: "cpu")
    packing = load("awq.utils.packing_utils", source / "awq/utils/packing_utils.py")
    sys.modules["awq.utils.packing_utils"] = packing
    gemm = load("awq_gemm", source / "awq/modules/linear/gemm.py")
    linear, scales, zeros = draw(4, group, False, generator)
    layer = gemm.WQLinear_GEMM.from_linear(linear, 4, group, scales=scales.float(), zeros=zeros)
    reference = packing.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, group)
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales, "reference": reference.t()}


def gptq(source, bits, group, symmetric, generator):
    module = load("qlinear", source / "auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py")
    linear, scales, zeros = draw(bits, group if group != -1 else INPUTS, symmetric, generator)
    layer = module.QuantLinear(bits, group, INPUTS, OUTPUTS, bias=False, weight_dtype=torch.float32)
    layer.pack(linear, scales.float().t(), zeros.float().t(), None)
    reference = layer(torch.eye(INPUTS)).t()
    tensors = {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(), "g_idx": layer.g_idx}
    return {**tensors, "reference": reference}


def fp8(generator):
    weight = (torch.randn(FP8_ROWS, INPUTS, generator=generator) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 1, generator=generator) * 1e-3
    reference = weight.float() * scales.repeat_interleave(128, dim=0)[:FP8_ROWS]
    return {"weight": weight, "weight_scale_inv": scales, "reference": reference[126:]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoawq", type=pathlib.Path, required=True, help="AutoAWQ's source tree")
    parser.add_argument("--auto-gptq", type=pathlib.Path, required=True, help="AutoGPTQ's source tree")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    layers = {
        "awq": awq(options.autoawq, 64, generator),
        "gptq4": gptq(options.auto_gptq, 4, 64, True, generator),
        "gptq4zeros": gptq(options.auto_gptq, 4, 32, False, generator),
        "gptq4rows": gptq(options.auto_gptq, 4, -1, False, generator),
        "gptq8": gptq(options.auto_gptq, 8, 64, True, generator),
        "gptq8zeros": gptq(options.auto_gptq, 8, 64, False, generator),
        "fp8": fp8(generator),
    }
    tensors = {f"{name}.{part}": tensor.contiguous() for name, parts in layers.items() for part, tensor in parts.items()}
    save_file(tensors, OUT)
    print(OUT.stat().st_size, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
