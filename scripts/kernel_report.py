#!/usr/bin/env python3
"""Registers, LDS, spills and occupancy of every kernel on every AMD architecture.

    scripts/kernel_report.py [FOLDER]    # the objects that build.rs made; default: the newest in target

Prints a Markdown table, made from the notes that AMD's loader reads. Ends with status 1 where a
kernel spills, uses scratch memory, or has fewer than two waves per SIMD.
"""

import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Vector registers of a SIMD for one lane, in steps of how many they are given out, most waves; LDS of what a
# block runs on, its SIMDs.
LIMITS = {
    "gfx90a": (512, 8, 8, 65536, 4),
    "gfx942": (512, 8, 8, 65536, 4),
    "gfx1100": (1536, 24, 16, 131072, 4),
    "gfx1101": (1536, 24, 16, 131072, 4),
}
FIELDS = ["name", "vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count",
          "group_segment_fixed_size", "private_segment_fixed_size", "max_flat_workgroup_size", "wavefront_size"]


def newest():
    found = sorted(ROOT.glob("target/*/build/novastack-*/out/objects.rs"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit("no objects in target: build with clang-19 installed")
    return found[-1].parent


def kernels(path):
    readelf = next(filter(shutil.which, ["llvm-readelf-19", "llvm-readelf"]), None)
    if readelf is None:
        sys.exit("llvm-readelf-19 is missing: apt install llvm-19")
    notes = subprocess.run([readelf, "--notes", path], check=True, capture_output=True, text=True).stdout
    for text in re.split(r"\n  - (?=\.)", notes.split("amdhsa.kernels:")[1].split("amdhsa.target")[0]):
        field = lambda name: re.search(rf"^ *(?:- )?\.{name}: +(\S+)$", text, re.M)
        values = {name: field(name) for name in FIELDS}
        if values["name"]:
            yield {name: match[1] if name == "name" else int(match[1]) if match else 0 for name, match in values.items()}


def occupancy(architecture, kernel):
    registers, step, most, lds, simds = LIMITS[architecture]
    vgprs = -(-max(kernel["vgpr_count"], 1) // step) * step
    waves = min(most, registers // vgprs)
    per_block = kernel["max_flat_workgroup_size"] // kernel["wavefront_size"]
    if kernel["group_segment_fixed_size"]:
        waves = min(waves, lds // kernel["group_segment_fixed_size"] * per_block / simds)
    return waves


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else newest()
    rows, bad = [], []
    for architecture in LIMITS:
        for path in sorted(folder.glob(f"*.{architecture}")):
            for kernel in kernels(path):
                waves = occupancy(architecture, kernel)
                spills = kernel["vgpr_spill_count"] + kernel["sgpr_spill_count"]
                scratch = kernel["private_segment_fixed_size"]
                rows.append((kernel["name"], architecture, kernel["vgpr_count"], kernel["sgpr_count"],
                             kernel["group_segment_fixed_size"], spills, scratch, f"{waves:g}"))
                if spills or scratch or waves < 2:
                    bad.append(f"{kernel['name']} on {architecture}: {spills} spills, {scratch} bytes of scratch, {waves:g} waves")
    print("| kernel | architecture | VGPR | SGPR | LDS | spills | scratch | waves per SIMD |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in sorted(rows):
        print("| " + " | ".join(map(str, row)) + " |")
    print(f"\n{len(rows)} kernels")
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
