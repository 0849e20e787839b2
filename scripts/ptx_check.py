#!/usr/bin/env python3
"""Assembles the PTX of every kernel as an NVIDIA driver does when it loads it, for sm_80 and sm_90.

    scripts/ptx_check.py [FOLDER]    # what build.rs made; default: the newest in target

Prints a Markdown table of registers, shared memory and spills of every kernel, and those that spill. Ends with
status 1 where a file is refused, and where a kernel spills more than SPILLS allows it to. No GPU is needed, only
NVIDIA's assembler: $PTXAS, else ptxas on the PATH, else the one of NVIDIA's package from PyPI in target/ptxas:

    python3 -m pip install --no-deps --target target/ptxas -r tests/kernels/requirements.txt
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

from kernel_report import ROOT, newest

ARCHITECTURES = ["sm_80", "sm_90"]
# Bytes a work-item that the assembler may move to memory and back. It aims at a number of registers that lets more
# blocks run, and gives up one value or two for that in kernels that could have twice as many registers.
SPILLS = 16
# More than that, and why.
SPILLS_OF = {
    "sample": 128,  # 1024 work-items leave 64 registers each; it runs once a step
}
PROPERTIES = re.compile(
    r"Function properties for (\S+)\n +(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info +: Used (\d+) registers(.*)")


def assembler():
    package = ROOT / "target/ptxas/nvidia/cuda_nvcc/bin/ptxas"
    found = os.environ.get("PTXAS") or shutil.which("ptxas") or (package.exists() and package)
    if not found:
        sys.exit("ptxas is missing: python3 -m pip install --no-deps --target target/ptxas -r tests/kernels/requirements.txt")
    return str(found)


def assemble(ptxas, path, architecture):
    """What is wrong, and (kernel, registers, shared memory, bytes stored and loaded by spills) of each kernel."""
    done = subprocess.run([ptxas, "-v", f"-arch={architecture}", str(path), "-o", os.devnull], capture_output=True, text=True)
    text = done.stdout + done.stderr
    kernels = []
    for name, _, stores, loads, registers, rest in PROPERTIES.findall(text):
        shared = re.search(r"(\d+) bytes smem", rest)
        kernels.append((name, int(registers), int(shared[1]) if shared else 0, int(stores), int(loads)))
    wanted = re.findall(r"\.entry (\w+)\(", path.read_text())
    if done.returncode:
        return [f"{path.name} for {architecture} is refused: {text.strip()[:500]}"], []
    if sorted(wanted) != sorted(kernel[0] for kernel in kernels):
        return [f"{path.name} for {architecture}: ptxas tells of {len(kernels)} of {len(wanted)} kernels"], []
    return [], kernels


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    paths, ptxas = sorted(folder.glob("*.sm_*[0-9]")), assembler()
    if not paths:
        sys.exit(f"no PTX in {folder}")
    jobs = [(path, architecture) for path in paths for architecture in ARCHITECTURES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: assemble(ptxas, *job), jobs))
    bad, rows, spills = [], {}, []
    for (_, architecture), (wrong, kernels) in zip(jobs, results):
        bad += wrong
        for name, registers, shared, stores, loads in kernels:
            rows.setdefault(name, {})[architecture] = (registers, shared, stores)
            if stores or loads:
                spills.append(f"{name} on {architecture}: {stores} bytes of spill stores, {loads} of spill loads")
            if stores > SPILLS_OF.get(name, SPILLS):
                bad.append(f"{name} on {architecture} spills {stores} bytes of registers")
    titles = [f"{what} {architecture}" for architecture in ARCHITECTURES for what in ("registers", "spills")]
    print("| kernel | shared memory | " + " | ".join(titles) + " |")
    print("| --- |" + " --- |" * (len(titles) + 1))
    for name, values in sorted(rows.items()):
        cells = [cell for a in ARCHITECTURES for cell in (values[a][0], values[a][2])] if len(values) == len(ARCHITECTURES) else []
        print(f"| {name} | {max(shared for _, shared, _ in values.values())} | " + " | ".join(map(str, cells)) + " |")
    print("\n" + "\n".join(spills))
    if bad:
        sys.exit("\n".join(bad))
    print(f"\n{len(rows)} kernels of {len(paths)} files assembled for {' and '.join(ARCHITECTURES)}; {len(spills)} spill a little")


if __name__ == "__main__":
    main()
