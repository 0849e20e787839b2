#!/bin/sh
# Installs the agents whose programs the tests run against a scripted model: Claude Code, Codex, opencode,
# qwen-code and Continue's command line, pinned, from npm. About a gigabyte; a second run downloads nothing.
#
# Usage: scripts/fetch_agents.sh [DIR]
#   DIR  default: ${NOVASTACK_TEST_CACHE:-target/test-cache}/agents
set -eu

packages="@anthropic-ai/claude-code@2.1.332 @openai/codex@0.171.0 opencode-ai@1.18.33 @qwen-code/qwen-code@0.24.4 @continuedev/cli@1.5.47"

cd "$(dirname "$0")/.."
dir=${1:-${NOVASTACK_TEST_CACHE:-target/test-cache}/agents}
[ "$(cat "$dir/.installed" 2>/dev/null || true)" = "$packages" ] && exit 0
command -v npm >/dev/null || { echo "npm is needed to fetch agents (apt-get install npm)" >&2; exit 1; }
mkdir -p "$dir"
# shellcheck disable=SC2086
npm install --prefix "$dir" --no-audit --no-fund --loglevel=error $packages
printf '%s' "$packages" >"$dir/.installed"
