#!/usr/bin/env python3
"""Writes tests/text/goldens/converted.json: what llama.cpp's converter makes of the families'
tokenizers, as the name of the pre-tokenizer that it finds and sha256 sums of tokens, types and merges.

    PYTHON=target/goldens-venv/bin/python        # as in goldens.py, plus: pip install gguf sentencepiece
    $PYTHON scripts/goldens_vocab.py SOURCES [CACHE]

SOURCES is llama.cpp's source tree (conversion/ in it); CACHE what scripts/fetch_tokenizers.sh filled
(default target/test-cache/tokenizers).
"""

import hashlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FAMILIES = ["qwen3", "qwen2_5", "llama3_1", "deepseek_v3", "gptoss"]
# Rows of the embedding beyond the last token, which the converter fills up.
PADDING = 64


def digest(lines):
    """Of lines that each end in a zero byte: a token may hold a line's end."""
    return hashlib.sha256(b"".join(line.encode() + b"\0" for line in lines)).hexdigest()


def converted(directory):
    import gguf
    from conversion.base import TextModel

    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    last = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])])
    # The parts of the converter that look at the tokenizer alone.
    model = object.__new__(TextModel)
    model.dir_model = directory
    model.hparams = {"vocab_size": last + 1 + PADDING}
    tokens, types, pre = model.get_vocab_base()
    merges = gguf.SpecialVocab(directory, load_merges=True).merges
    return {
        "pre": pre,
        "count": len(tokens),
        "tokens": digest(tokens),
        "types": digest(str(int(kind)) for kind in types),
        "merges": digest(merges),
    }


def main():
    sources = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(sources), str(sources / "gguf-py")]
    cache = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "target/test-cache/tokenizers"
    out = {family: converted(cache / family) for family in FAMILIES}
    path = ROOT / "tests/text/goldens/converted.json"
    path.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
