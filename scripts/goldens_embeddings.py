#!/usr/bin/env python3
"""Makes tiny random checkpoints of embedding models and rerankers in tests/goldens/embeddings, and what
sentence-transformers and transformers compute from them.

    python3 -m venv target/goldens-venv
    target/goldens-venv/bin/pip install torch transformers sentence-transformers
    target/goldens-venv/bin/python scripts/goldens_embeddings.py [--minilm DIR] [NAME ...]

Each directory is a checkpoint plus golden.json:

    cases[].ids          token ids of a text, or of a pair
    cases[].token_types  of each token, where the model reads them
    cases[].values       the vector, or the logits of the labels

With --minilm DIR, which holds all-MiniLM-L6-v2 (scripts/fetch_tokenizers.sh fetches it), minilm.json is made: texts,
their ids and their vectors.

Computed in f32 with eager attention, one text at a time.
"""

import argparse
import json
import pathlib
import shutil

import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    ModernBertConfig,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens" / "embeddings"
VOCAB = 120
LENGTHS = [1, 2, 7, 16, 17, 33, 60]
SMALL = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, pad_token_id=1,
)
MODERN = dict(
    SMALL, num_hidden_layers=4, max_position_embeddings=64, local_attention=8, global_attn_every_n_layers=3,
    bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
)
BERT = dict(SMALL, max_position_embeddings=64, type_vocab_size=2)
ROBERTA = dict(SMALL, max_position_embeddings=66, type_vocab_size=1)
QWEN3 = dict(
    SMALL, intermediate_size=64, num_key_value_heads=2, head_dim=16, max_position_embeddings=64, pad_token_id=None,
    bos_token_id=None, eos_token_id=None, tie_word_embeddings=True,
)

# name -> (config class, fields, pooling mode, normalised); the pooling of a classifier is "labels".
CHECKPOINTS = {
    "qwen3-embedding": (Qwen3Config, QWEN3, "lasttoken", True),
    "qwen3-reranker": (Qwen3Config, dict(QWEN3, num_labels=1), "labels", False),
    "bert": (BertConfig, BERT, "mean_tokens", True),
    "bert-reranker": (BertConfig, dict(BERT, num_labels=1), "labels", False),
    "roberta": (RobertaConfig, ROBERTA, "mean_tokens", False),
    "xlm-roberta": (XLMRobertaConfig, ROBERTA, "cls_token", True),
    "xlm-roberta-reranker": (XLMRobertaConfig, dict(ROBERTA, num_labels=3), "labels", False),
    "modernbert": (ModernBertConfig, MODERN, "mean_tokens", False),
    "modernbert-reranker": (ModernBertConfig, dict(MODERN, num_labels=1, classifier_pooling="mean"), "labels", False),
}
TEXTS = [
    "The capital of France is Paris.",
    "Which city is the capital of France?",
    "Émile's naïve café — 東京, Ünïcödé!",
    "x",
    " ".join(f"sentence number {i} of a longer text about rivers and mountains." for i in range(18)),
]


def randomise(model, seed):
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name.lower() and name.endswith("weight"):
                p.copy_(1.0 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.2 * noise)
            elif "embed" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(0.25 * noise)


def sentence_files(directory, mode, normalised, hidden):
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if normalised else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (directory / "1_Pooling").mkdir()
    modes = ["cls_token", "mean_tokens", "max_tokens", "lasttoken"]
    pooling = {"word_embedding_dimension": hidden, **{f"pooling_mode_{m}": m == mode for m in modes}}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    prompts = {"query": "Instruct: find it\nQuery:", "document": ""} if mode == "lasttoken" else {}
    config = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(config, indent=1) + "\n")


@torch.no_grad()
def make(name, seed):
    kind, fields, mode, normalised = CHECKPOINTS[name]
    directory = ROOT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = kind(**fields)
    config._attn_implementation = "eager"
    config.reference_compile = False
    auto = AutoModelForSequenceClassification if mode == "labels" else AutoModel
    model = auto.from_config(config, dtype=torch.float32).eval()
    randomise(model, seed)
    model.save_pretrained(directory)
    # As the hub's copies have it: what only this run needs is not in the file.
    saved = json.loads((directory / "config.json").read_text())
    for field in ("_attn_implementation", "attn_implementation", "reference_compile"):
        saved.pop(field, None)
    (directory / "config.json").write_text(json.dumps(saved, indent=1) + "\n")
    if mode != "labels":
        sentence_files(directory, mode, normalised, config.hidden_size)
    model = auto.from_pretrained(directory, attn_implementation="eager", dtype=torch.float32).eval()
    cases = []
    gen = torch.Generator().manual_seed(seed + 1)
    for length in LENGTHS:
        ids = torch.randint(4, VOCAB, (1, length), generator=gen)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        types = None
        if kind is BertConfig:
            types = (torch.arange(length) >= length // 2).long() if mode == "labels" else torch.zeros(length).long()
            inputs["token_type_ids"] = types[None]
        out = model(**inputs)
        if mode == "labels":
            values = out.logits[0]
        else:
            hidden = out.last_hidden_state[0]
            values = {"lasttoken": hidden[-1], "cls_token": hidden[0], "mean_tokens": hidden.mean(0)}[mode]
            values = torch.nn.functional.normalize(values, dim=0) if normalised else values
        case = {"ids": ids[0].tolist(), "values": [float(f"{v:.7g}") for v in values.tolist()]}
        if types is not None and mode == "labels":
            case["token_types"] = types.tolist()
        cases.append(case)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (directory / "golden.json").write_text('{"cases": [\n' + lines + "\n]}\n")
    print(name, [round(v, 4) for v in cases[-1]["values"][:4]])


def minilm(directory):
    model = SentenceTransformer(str(directory), device="cpu")
    cases = []
    for text in TEXTS:
        ids = model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"]
        values = model.encode(text, convert_to_numpy=True)
        cases.append({"text": text, "ids": ids, "values": [float(f"{v:.7g}") for v in values.tolist()]})
    lines = ",\n".join(json.dumps(case) for case in cases)
    (ROOT / "minilm.json").write_text('{"cases": [\n' + lines + "\n]}\n")
    print("minilm", [len(case["ids"]) for case in cases])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minilm", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    ROOT.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(CHECKPOINTS):
        if name in args.names or not (args.names or args.minilm):
            make(name, 100 + seed)
    if args.minilm:
        minilm(args.minilm)
