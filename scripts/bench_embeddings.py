#!/usr/bin/env python3
"""Sentences a second of sentence-transformers, on the sentences of benches/embeddings.rs.

    target/goldens-venv/bin/python scripts/bench_embeddings.py DIRECTORY [THREADS]
"""

import pathlib
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

SENTENCES = 128
ROUNDS = 3

directory = sys.argv[1]
threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
torch.set_num_threads(threads)
corpus = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens" / "corpus.txt"
words = corpus.read_text(encoding="utf-8").split()
sentences = [
    " ".join(words[(i * 13 + at) % len(words)] for at in range(4 + i * 7 % 40)) for i in range(SENTENCES)
]
model = SentenceTransformer(directory, device="cpu")
tokens = sum(len(model.tokenizer(text)["input_ids"]) for text in sentences)
together = alone = float("inf")
for _ in range(ROUNDS):
    begun = time.perf_counter()
    model.encode(sentences, batch_size=32, show_progress_bar=False)
    together = min(together, time.perf_counter() - begun)
    begun = time.perf_counter()
    for text in sentences:
        model.encode(text, show_progress_bar=False)
    alone = min(alone, time.perf_counter() - begun)
print(f"{SENTENCES} sentences, {tokens} tokens, {threads} threads")
for what, seconds in [("all at once", together), ("one after the other", alone)]:
    print(f"{what}: {SENTENCES / seconds:.0f} sentences/s, {tokens / seconds:.0f} tokens/s")
