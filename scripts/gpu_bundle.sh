#!/usr/bin/env bash
# Packs what scripts/gpu_check.sh needs on a machine with a GPU and nothing else: the stripped program, the script,
# the goldens. Fails where that is over 60 MiB.
#
#     scripts/gpu_bundle.sh [OUT.tar.gz]        # default: target/gpu_bundle.tar.gz
#
# There: tar xzf gpu_bundle.tar.gz && gpu_bundle/gpu_check.sh results
# NOVASTACK_BINARY names a program that is built already. It runs where glibc is as new as here.
set -euo pipefail
cd "$(dirname "$0")/.."

limit_kib=$((60 * 1024))
target=${CARGO_TARGET_DIR:-target}
out=${1:-$target/gpu_bundle.tar.gz}
binary=${NOVASTACK_BINARY:-}
if [ -z "$binary" ]; then
  cargo build --release --locked --bin novastack
  binary=$target/release/novastack
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
bundle=$staging/gpu_bundle
mkdir -p "$bundle/goldens"
strip -o "$bundle/novastack" "$binary"
cp scripts/gpu_check.sh "$bundle/"
for golden in tests/goldens/*/golden.json; do
  cp -r "$(dirname "$golden")" "$bundle/goldens/"
done
kib=$(du -sk "$bundle" | cut -f 1)
if [ "$kib" -gt $limit_kib ]; then
  echo "gpu_bundle.sh: $kib KiB, which is over $limit_kib" >&2
  exit 1
fi
tar -C "$staging" -czf "$out" gpu_bundle
echo "$out: $kib KiB unpacked, $(($(stat -c %s "$out") / 1024)) KiB packed"
