#!/usr/bin/env python3
"""NovaStack beside llama.cpp on this machine: the same checkpoint, threads and load, in turn.

    cargo build --release
    scripts/bench_llamacpp.py --llama-server PATH --model SmolLM2-135M-Instruct.Q4_1.gguf

Each round starts one server, loads it, stops it, then does the same with the other; the order
alternates. The table holds medians over the rounds. Needs httpx (pip install httpx).
"""

import argparse
import asyncio
import datetime
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import httpx
from load import load

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "demo"
SLOTS = 8
SLOT_TOKENS = 2048
# measure -> (what it is, load's arguments, the result that counts)
MEASURES = {
    "prompt": ("prompt tokens/s, 1 client, 1000 in, 1 out",
               dict(concurrency=1, count=4, prompt_tokens=1000, max_tokens=1), "prompt_tok_s"),
    "single": ("decode tokens/s, 1 client, 32 in, 128 out",
               dict(concurrency=1, count=4, prompt_tokens=32, max_tokens=128), "decode_tok_s_p50"),
    "eight": ("output tokens/s, 8 clients, 200 in, 64 out",
              dict(concurrency=8, count=24, prompt_tokens=200, max_tokens=64), "output_tok_s"),
}


def commands(options, port):
    total = str(SLOTS * SLOT_TOKENS)
    return {
        "novastack": [
            str(options.novastack), "serve", "--model", f"{NAME}={options.model}", "--port", str(port),
            "--threads", str(options.threads), "--max-context", str(SLOT_TOKENS),
        ],
        "llama.cpp": [
            str(options.llama_server), "-m", str(options.model), "--alias", NAME, "--host", "127.0.0.1",
            "--port", str(port), "-np", str(SLOTS), "-c", total, "-t", str(options.threads),
        ],
    }


def measure(command, port, seed, log):
    """Starts a server, waits for /health, runs every measure, stops it."""
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if server.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise SystemExit(f"{command[0]} did not get ready:\n{log.read()[-2000:].decode(errors='replace')}")
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}/v1"
        asyncio.run(load(url, NAME, 1, 1, 64, 8, seed=seed + 500))
        results = {}
        for offset, (key, (_, arguments, result)) in enumerate(MEASURES.items()):
            got = asyncio.run(load(url, NAME, **arguments, seed=seed + offset))
            # The chat template's own few tokens may be shared, prompts must not be.
            if got["cached_tokens"] > 48 * got["requests"]:
                raise SystemExit(f"prompts came from a prefix cache: {got}")
            results[key] = got[result]
        status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        results["peak_mb"] = int(peak.split()[1]) / 1024
        return results
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return (done.stdout + done.stderr).strip()


def machine():
    cpu = next(line for line in open("/proc/cpuinfo") if line.startswith("model name")).split(":")[1].strip()
    memory = int(open("/proc/meminfo").readline().split()[1]) / 2**20
    return f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def report(options, rounds):
    def cell(side, key):
        values = [r[key] for r in rounds[side]]
        return statistics.median(values), f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"

    version = next((line for line in output(str(options.llama_server), "--version").splitlines() if "version" in line), "")
    dirty = " with uncommitted changes" if output("git", "status", "--porcelain", "--", "src", "Cargo.toml") else ""
    lines = [
        "# NovaStack beside llama.cpp on the CPU",
        "",
        f"Medians of {options.rounds} rounds (lowest..highest), the two servers in turn. "
        f"{options.model.name}, {options.threads} threads each, streamed chat at temperature 0, every prompt its own.",
        "",
        "| | NovaStack | llama.cpp | ratio |",
        "| --- | --- | --- | --- |",
    ]
    names = {**{key: m[0] for key, m in MEASURES.items()}, "peak_mb": "peak resident memory, MB"}
    for key, name in names.items():
        (ours, ours_text), (theirs, theirs_text) = cell("novastack", key), cell("llama.cpp", key)
        lines.append(f"| {name} | {ours_text} | {theirs_text} | {ours / theirs:.2f} |")
    lines += [
        "",
        f"- Machine: {machine()}",
        f"- Commit: {output('git', 'rev-parse', '--short', 'HEAD')}{dirty}; llama.cpp: {version.strip() or 'unknown version'}",
        f"- Date: {datetime.date.today()}; load average before the first round: {options.load_before:.2f}",
        f"- Command: `scripts/bench_llamacpp.py --llama-server PATH --model {options.model.name} "
        f"--threads {options.threads} --rounds {options.rounds}`",
        f"- llama.cpp: `llama-server -np {SLOTS} -c {SLOTS * SLOT_TOKENS} -t {options.threads}`; "
        f"NovaStack: `serve --threads {options.threads} --max-context {SLOT_TOKENS}`",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--novastack", type=pathlib.Path, default=ROOT / "target" / "release" / "novastack")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benches" / "results" / "cpu-vs-llamacpp.md")
    options = parser.parse_args()
    options.load_before = os.getloadavg()[0]
    if options.load_before > 0.5:
        print(f"the machine is busy (load average {options.load_before:.2f}): figures will be noisy", file=sys.stderr)
    rounds = {"novastack": [], "llama.cpp": []}
    for number in range(options.rounds):
        for side in sorted(rounds, reverse=number % 2 == 0):
            with socket.socket() as probe, tempfile.TemporaryFile() as log:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
                probe.close()
                rounds[side].append(measure(commands(options, port)[side], port, 1000 * number, log))
            print(number + 1, side, rounds[side][-1], file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report(options, rounds))
    print(options.out.read_text())


if __name__ == "__main__":
    main()
