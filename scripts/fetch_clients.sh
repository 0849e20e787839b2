#!/bin/sh
# Installs the clients that the tests run against a live server: the SDKs for Node, from npm, and the frameworks for
# Python that stand on OpenAI's and Anthropic's SDKs, from PyPI. Pinned; some 700 MB; a second run downloads nothing.
#
# Usage: scripts/fetch_clients.sh [DIR]
#   DIR  default: ${NOVASTACK_TEST_CACHE:-target/test-cache}/clients
set -eu

cd "$(dirname "$0")/.."
dir=${1:-${NOVASTACK_TEST_CACHE:-target/test-cache}/clients}
mkdir -p "$dir"

if ! cmp -s tests/sdk/node/package-lock.json "$dir/node/.installed"; then
  command -v npm >/dev/null || { echo "npm is needed to fetch clients (apt-get install npm)" >&2; exit 1; }
  rm -rf "$dir/node"
  mkdir -p "$dir/node"
  cp tests/sdk/node/package.json tests/sdk/node/package-lock.json "$dir/node/"
  npm ci --prefix "$dir/node" --no-audit --no-fund --loglevel=error
  cp tests/sdk/node/package-lock.json "$dir/node/.installed"
fi

# Two sets, since no version of OpenAI's SDK suits all.
for set in openai-2 openai-3; do
  requirements=tests/sdk/requirements-$set.txt
  if ! cmp -s "$requirements" "$dir/$set/.installed"; then
    rm -rf "${dir:?}/$set"
    # A folder and no virtual environment, which Debian's python3 cannot make by itself.
    python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target "$dir/$set" -r "$requirements"
    cp "$requirements" "$dir/$set/.installed"
  fi
done
