#!/usr/bin/env python3
"""Which mistakes in kernels the self-test would notice.

Takes each barrier away, one at a time, sets each accumulator and fragment index wrong, takes away each scale
that keeps operands from being so small that MI200 takes them for zero, builds the kernels so changed for the
CPU (tests/hip_host) and runs `novastack selftest` on them. A mutant is killed when the self-test fails, aborts
or hangs; one that survives is a test that is missing, or harmless: those are listed with their reasons in
tests/kernels/harmless_mutants.txt.

    scripts/mutate_kernels.py                          # all: takes hours on two cores
    scripts/mutate_kernels.py --only gemv,moe_sort     # kernel files and headers with these names
    scripts/mutate_kernels.py --list                   # what there is to do

Sources stay as they are: changed copies and their objects are in a folder of their own. Needs clang++-19 and
the program (cargo build). issue_fence, keep_order and hold_loads only keep the compiler from moving loads:
results do not depend on them, and they are not taken away.
"""
import argparse, collections, concurrent.futures, os, pathlib, re, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HARMLESS = ROOT / "tests/kernels/harmless_mutants.txt"
CLANG = os.environ.get("NOVASTACK_HOST_CLANG", "clang++-19")
# As scripts/hip_host.sh compiles.
FLAGS = ["-std=c++20", "-O2", "-fPIC", "-w", "-x", "c++", "-mf16c", "-mfma", "-DNOVA_HOST"]
CHECKED = ["-DCHECKED", "-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0", "-mllvm", "-tsan-instrument-atomics=0"]
WAVE = {"gfx90a": 64, "gfx1100": 32}

# A header's mistakes are looked for in these kernels: each use of it that differs.
USERS = {
    "attention.h": ["attention_decode", "attention_prefill"],
    "gemm.h": ["gemm", "gemm_q4_k"],
    "gemv.h": ["gemv", "gemv_q4_k"],
    "kv_cache.h": ["rope_kv_write", "attention_decode", "attention_prefill", "mla_expand"],
    "mla.h": ["mla_decode", "mla_prefill", "mla_reduce"],
    "moe_gemm.h": ["moe_gemm"],
    "order.h": ["moe_route"],
    "sample.h": ["sample"],
    "softmax.h": ["attention_decode", "attention_prefill", "mla_decode", "mla_prefill"],
    "port.h": ["add_rms_norm", "joint_qk_norm", "mla_kv_write", "gemm"],
    "weights.h": ["gemm_q8_0", "gemm_q6_k", "gemv_int4", "gemv_codebook", "gemv_q4_k", "gemv_q6_k", "gemv_fp8"],
}
# Kernels that the self-test does not launch.
GROUPS = {"ceiling": None}

Mutant = collections.namedtuple("Mutant", "id file kind line text changed")


def code_of(line):
    """Without its comment."""
    return line.split("//")[0]


def balanced(text, start, opening, closing):
    """The end of the bracket that opens at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {opening: 1, closing: -1}.get(text[i], 0)
        if depth == 0:
            return i
    return -1


# Arrays of accumulators, fragments and their columns.
ARRAYS = r"\b(?:acc|sums|s|o|a|b|q|k|v|p|x_tile|w_tile|entries|latents|weights|factors?|results|partial|top|tops|sum)"
# Powers of two by which small operands become normal numbers.
SCALES = [(r"\bWEIGHT_BITS = \d+", "WEIGHT_BITS = 0"), (r"\bW_SCALE = [^;]+", "W_SCALE = 1")]
INDEX_CALLS = {"acc_row": "acc_col", "acc_col": "acc_row", "slot_col": None, "octet_row": None, "octet_k": None}

def changes(line):
    """(kind, changed line) of every mutant of a line of code."""
    code, comment = code_of(line), line[len(code_of(line)):]
    for scale, none in SCALES:
        if re.search(scale, code):
            yield "scale", re.sub(scale, none, code) + comment
    if re.search(r"\b(DEV|METHOD|LDS|static constexpr)\b", code) and not re.search(r"\bbarrier\(\);", code):
        return
    for match in re.finditer(r"\bbarrier\(\);", code):
        yield "barrier", code[:match.start()] + ";" + code[match.end():] + comment
    for match in re.finditer(r"\b(%s)\(" % "|".join(INDEX_CALLS), code):
        end = balanced(code, match.end() - 1, "(", ")")
        if end < 0:
            continue
        call, swapped = code[match.start():end + 1], INDEX_CALLS[match[1]]
        replaced = lambda by: code[:match.start()] + by + code[end + 1:] + comment
        yield "index", replaced("(%s ^ 1)" % call)
        if swapped:
            yield "swap", replaced(swapped + code[match.end() - 1:end + 1])
    # The last subscript of each: acc[i][j] and acc[i][j].v[e] are three indices.
    for match in re.finditer(ARRAYS + r"\[", code):
        at = match.end() - 1
        while at < len(code) and code[at] == "[":
            end = balanced(code, at, "[", "]")
            inside = code[at + 1:end] if end > 0 else ""
            declares = re.match(r"\s*(Acc|Fragment<|float|u32|Softmax|Pair<|f32x2|Eight<|decltype)", code) and not re.search(r"[^=<>!]=[^=]", code[:at])
            # Of an accumulator's columns the ports of the host have one: there is no other index.
            if end > 0 and inside not in ("", "c") and not inside.startswith("acc_slot") and not declares:
                yield "subscript", code[:at + 1] + "(" + inside + ") ^ 1" + code[end:] + comment
            at = end + 1
            if code[at:at + 3] == ".v[":
                at += 2
    for match in re.finditer(r"\bmma\(", code):
        end = balanced(code, match.end() - 1, "(", ")")
        parts = split_arguments(code[match.end():end]) if end > 0 else []
        if len(parts) == 3 and "&" not in code[match.end():end]:
            yield "operands", code[:match.end()] + ", ".join([parts[0], parts[2], parts[1]]) + code[end:] + comment


def split_arguments(text):
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += c in "([{"
        depth -= c in ")]}"
        if c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return parts + [text[start:].strip()]


def mutants_of(path):
    lines, counts = path.read_text().split("\n"), collections.Counter()
    for number, line in enumerate(lines):
        if line.lstrip().startswith(("//", "#")):
            continue
        for kind, changed in changes(line):
            counts[kind] += 1
            text = "\n".join(lines[:number] + [changed] + lines[number + 1:])
            yield Mutant(f"{path.name} {kind} {counts[kind]}", path.name, kind, number + 1, text, changed.strip())


def users_of(file):
    return USERS.get(file, [file.removesuffix(".hip")])


class Built:
    """The objects of an unchanged build, checked or not."""

    def __init__(self, checked):
        command = [ROOT / "scripts/hip_host.sh"] + (["--checked"] if checked else [])
        self.folder = pathlib.Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip())
        self.checked = checked

    def library(self, mutant, work, wave):
        """With the mutant's kernels in place of theirs, for one wave size; None: it does not compile."""
        sources = work / "kernels"
        shutil.copytree(ROOT / "kernels", sources, dirs_exist_ok=True)
        (sources / mutant.file).write_text(mutant.text)
        objects = {path.name: path for path in self.folder.glob("*.o")}
        for user in users_of(mutant.file):
            to = work / f"{user}.{wave}.o"
            command = [CLANG, *FLAGS, *(CHECKED if self.checked else []), f"-I{sources}", f"-I{ROOT}/tests/hip_host", f"-DWAVE={wave}", f"-DLDS_SECTION=lds_{user}_{wave}",
                       "-c", str(sources / f"{user}.hip"), "-o", str(to)]
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
                return None
            objects[to.name] = to
        library = work / "libamdhip64.so"
        command = [CLANG, "-shared", "-Wl,-soname,libamdhip64.so", "-o", str(library), *map(str, objects.values())]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return library


def selftest(program, library, only, architecture, seed, limit):
    """Whether it noticed, and by what."""
    environment = dict(os.environ, NOVASTACK_HIP_LIBRARY=str(library), NOVASTACK_HIP_HOST_ARCH=architecture, NOVASTACK_HIP_HOST_SEED=str(seed))
    command = [program, "selftest", "--device", "hip:0", "--seed", str(seed), "--only", ",".join(only)]
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if "FAILED" in line] or done.stderr.splitlines() or [""]
    return lines[-1].strip()[:110]


def try_mutant(mutant, options, builds):
    only = [GROUPS.get(user, user) for user in users_of(mutant.file)]
    # The checked build is slow, and needed where the plain one does not notice a race.
    for built in builds if mutant.kind == "barrier" else builds[:1]:
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            library = built.library(mutant, pathlib.Path(folder), WAVE[options.arch])
            if library is None:
                return "does not compile", ""
            for seed in range(1, options.seeds + 1):
                by = selftest(options.program, library, only, options.arch, seed, options.limit)
                if by is not None:
                    return "killed", ("checked: " if built.checked else "") + by
    return "survived", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="kernel files and headers, by name, separated by commas")
    parser.add_argument("--kind", default="", help="barrier, index, swap, subscript, operands, scale")
    parser.add_argument("--arch", default="gfx90a", choices=WAVE)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds of a run")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--no-checked", action="store_true", help="races only as far as wrong results show them")
    parser.add_argument("--program", default=str(ROOT / "target/debug/novastack"))
    parser.add_argument("--table", help="a Markdown file to write")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()

    names, kinds = [set(filter(None, text.split(","))) for text in (options.only, options.kind)]
    files = sorted([*ROOT.glob("kernels/*.hip"), *ROOT.glob("kernels/*.h")])
    files = [path for path in files if not names or path.name in names or path.stem in names]
    out_of_reach = [path.name for path in files if any(user in GROUPS and GROUPS[user] is None for user in users_of(path.name))]
    mutants = [m for path in files if path.name not in out_of_reach for m in mutants_of(path) if not kinds or m.kind in kinds]
    if options.list:
        for m in mutants:
            print(f"{m.id} (line {m.line}): {m.changed}")
        print(f"{len(mutants)} mutants; not launched by the self-test: {' '.join(out_of_reach) or 'none'}")
        return 0
    excuses = {}
    if HARMLESS.exists():
        lines = [line for line in HARMLESS.read_text().splitlines() if line and not line.startswith("#")]
        excuses = dict(line.split(": ", 1) for line in lines)

    builds = [Built(False)] + ([] if options.no_checked or not any(m.kind == "barrier" for m in mutants) else [Built(True)])
    # What the unchanged kernels do not pass says nothing about changed ones.
    for built in builds[:1]:
        only = sorted({GROUPS.get(user, user) for path in files if path.name not in out_of_reach for user in users_of(path.name)})
        by = selftest(options.program, built.folder / "libamdhip64.so", only, options.arch, 1, options.limit)
        if by is not None:
            sys.exit(f"the unchanged kernels fail: {by}")
    rows, start = [], time.time()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for m, (outcome, by) in zip(mutants, pool.map(lambda m: try_mutant(m, options, builds), mutants)):
            if outcome == "survived" and m.id in excuses:
                outcome, by = "harmless", excuses[m.id]
            rows.append((m, outcome, by))
            print(f"{time.time() - start:6.0f} s {m.id} (line {m.line}): {outcome} {by}", flush=True)
    counts = collections.Counter(outcome for _, outcome, _ in rows)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(summary)
    if options.table:
        with open(options.table, "w") as file:
            file.write(f"# Mutants of the kernels ({options.arch})\n\n{summary}. Not launched by the self-test: {' '.join(out_of_reach) or 'none'}.\n\n")
            file.write("| Mutant | Line | Changed to | Outcome | By |\n|---|---|---|---|---|\n")
            for m, outcome, by in rows:
                text = [str(cell).replace("|", "\\|") for cell in (m.id, m.line, f"`{m.changed[:90]}`", outcome, by)]
                file.write("| " + " | ".join(text) + " |\n")
    return 1 if counts["survived"] else 0


if __name__ == "__main__":
    sys.exit(main())
