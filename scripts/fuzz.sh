#!/usr/bin/env bash
# Fuzzes what reads the bytes of strangers: scripts/fuzz.sh [SECONDS] [TARGET...], all targets of fuzz/targets for a
# minute each unless told otherwise, two at a time. Begins with fixed seeds (fuzz/seeds and files of the tests) and
# keeps what it found in target/fuzz, where an input that failed lies too; to see it again:
#   target/fuzz/bin/TARGET target/fuzz/failed/TARGET/...
# Needs a C++ compiler and no nightly Rust: the coverage that libFuzzer needs is LLVM's own.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in fuzz/targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# No target option of cargo's beside it: build scripts would be instrumented and have no libFuzzer to link.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc -vV | sed -n 's/^host: //p')
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
# Without kernels: nothing here runs one.
env NOVASTACK_CLANG=none NOVASTACK_COMMIT=fuzzed RUSTFLAGS="$coverage" cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml \
  --target "$host" --target-dir target/fuzz/build "${bins[@]}"
mkdir -p target/fuzz/bin

seeds() {
  case $1 in
    gguf) echo tests/goldens/gguf/{narrow-iq4_nl,experts-mxfp4_moe}.gguf ;;
    safetensors) echo tests/checkpoint/packed.safetensors ;;
    config) echo tests/goldens/*/config.json ;;
    tokenizer) echo tests/goldens/{llama,deepseek-v3,phi3,mistral}/tokenizer.json ;;
    yaml) echo tests/config/*.yaml ;;
    sse) echo tests/dialect/transcripts/*.sse ;;
  esac
}

fuzz() {
  local target=$1 corpus=target/fuzz/corpus/$1 failed=target/fuzz/failed/$1 log=target/fuzz/$1.log
  mkdir -p "$corpus" "$failed"
  cp "target/fuzz/build/$host/release/$target" target/fuzz/bin/
  local file
  for file in $(seeds "$target") fuzz/seeds/"$target"/*; do
    [ -e "$file" ] || continue
    # The first byte of this target's input chooses how the rest is read: `D` is OpenAI's dialect, `E` Anthropic's.
    if [ "$target" = sse ]; then
      case $file in *anthropic*) printf E ;; *) printf D ;; esac | cat - "$file" >"$corpus/$(basename "$file")"
    else
      cp "$file" "$corpus/$(basename "$(dirname "$file")")-$(basename "$file")"
    fi
  done
  # The program's own log would be most of the output.
  if NOVASTACK_LOG=off "target/fuzz/bin/$target" "$corpus" -artifact_prefix="$failed/" -max_total_time="$seconds" -seed=1 \
    -max_len=65536 -timeout=20 -rss_limit_mb=3000 -malloc_limit_mb=1500 -use_value_profile=1 -print_final_stats=1 >"$log" 2>&1; then
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(ls "$corpus" | wc -l) kept"
  else
    echo "$target: FAILED"
    tail -n 30 "$log"
    return 1
  fi
}

export -f fuzz seeds
export seconds host
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -euo pipefail -c 'fuzz "$1"' _ {}
